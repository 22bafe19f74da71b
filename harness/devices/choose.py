"""Which device a process measures on."""

import torch

from vram_ledger.harness.devices import Device
from vram_ledger.harness.gpus import Gpu

OutOfMemoryError = torch.OutOfMemoryError


def device_of(kind: str, answer_as: Gpu, recorded: bool = False) -> Device:
    """The device of a kind: "cuda", "emulated" (in a process that was given such cards), "fake" or "cpu".

    ``answer_as``: the card that the fake device answers for. ``recorded``: a card's allocator records its history.
    """
    if kind == "cpu":
        from vram_ledger.harness.devices.cpu import CpuDevice

        return CpuDevice()
    if kind in ("cuda", "emulated"):
        from vram_ledger.harness.devices.cuda import CudaDevice

        return CudaDevice(kind, recorded)
    from vram_ledger.harness.devices.fake import FakeDevice

    return FakeDevice(answer_as)
