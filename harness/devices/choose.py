"""Which device a process measures on."""

import torch

from harness.devices import Device
from harness.gpus import Gpu

OutOfMemoryError = torch.OutOfMemoryError


def device_of(kind: str, answer_as: Gpu) -> Device:
    """The device of a kind: "cuda", "fake", "cpu", or "auto" for the card if there is one, else the fake device.

    ``answer_as``: the card that the fake device answers for.
    """
    if kind == "cpu":
        from harness.devices.cpu import CpuDevice

        return CpuDevice()
    if kind == "cuda" or (kind == "auto" and torch.cuda.is_available()):
        from harness.devices.cuda import CudaDevice

        return CudaDevice()
    from harness.devices.fake import FakeDevice

    return FakeDevice(answer_as)
