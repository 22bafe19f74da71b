"""What of the card's counters can be tested without a card: the users that NVML lists."""

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from vram_ledger.harness.devices import cuda
from vram_ledger.harness.machine import allocator_settings


def test_allocator_settings_are_told_as_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" == allocator_settings()


ME = os.getpid()


def card_with(monkeypatch: pytest.MonkeyPatch, listed: Any) -> cuda.CudaDevice:
    """A card on which NVML lists these processes and their bytes, or fails with this error."""

    def processes(handle: object) -> list[SimpleNamespace]:
        if isinstance(listed, Exception):
            raise listed
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in listed]

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", processes)
    device = cuda.CudaDevice.__new__(cuda.CudaDevice)
    device._nvml = object()
    return device


@pytest.mark.parametrize(
    ("listed", "ours", "others"),
    [
        pytest.param([(ME, 7), (ME + 1, 5)], 7, 5, id="a neighbour"),
        pytest.param([(ME + 1, 7)], 7, 0, id="a sole user, under another number in a container"),
        pytest.param([(ME + 1, 7), (ME + 2, 5)], None, None, id="two users, neither known"),
        pytest.param([], None, None, id="none listed"),
        pytest.param([(ME, None), (ME + 1, 5)], None, 5, id="ours not told, which is not the neighbour's"),
        pytest.param([(ME, 7), (ME + 1, None)], 7, None, id="a neighbour's not told, which is not nothing"),
        pytest.param(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), None, None, id="not supported"),
        pytest.param(pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION), None, None, id="no permission"),
    ],
)
def test_bytes_by_process_are_told_only_where_nvml_tells_them(
    monkeypatch: pytest.MonkeyPatch, listed: Any, ours: int | None, others: int | None
) -> None:
    device = card_with(monkeypatch, listed)
    assert (ours, others) == (device.process_bytes(), device.neighbour_bytes())
