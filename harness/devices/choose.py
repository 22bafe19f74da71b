"""Which device a process measures on."""

import torch

from harness.devices import Device
from harness.gpus import Gpu

OutOfMemoryError = torch.OutOfMemoryError


def device_of(kind: str, answer_as: Gpu, recorded: bool = False) -> Device:
    """The device of a kind: "cuda", "emulated" (in a process that was given such cards), "fake" or "cpu".

    ``answer_as``: the card that the fake device answers for. ``recorded``: a card's allocator records its history.
    """
    if kind == "cpu":
        from harness.devices.cpu import CpuDevice

        return CpuDevice()
    if kind in ("cuda", "emulated"):
        from harness.devices.cuda import CudaDevice

        return CudaDevice(kind, recorded)
    from harness.devices.fake import FakeDevice

    return FakeDevice(answer_as)
