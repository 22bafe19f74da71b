"""What of the card's counters can be tested without a card: the stage at the peak, the users that NVML lists."""

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from torch import nn

from harness.devices import cuda


class Layer(nn.Module):
    """A decoder layer with two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Linear(2, 2)
        self.mlp = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both, after each other."""
        return self.mlp(self.self_attn(x)) + x


class Model(nn.Module):
    """Two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.lm_head = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All of it."""
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The requested peak that the card will show, one reading after the other; the last one stays."""
    readings: list[int] = []

    def stat(name: str, which: str) -> int:
        return readings.pop(0) if len(readings) > 1 else readings[0]

    counters: dict[str, Any] = {"num_alloc_retries": 0}
    monkeypatch.setattr(cuda, "_stat", stat)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: counters)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 0)
    return readings


class NoCard:
    """The device's two readings that the recording asks for."""

    def process_bytes(self) -> None:
        """Not told."""

    def device_bytes(self) -> int:
        """Nothing in use."""
        return 0


def stage_of_peak(peaks: list[int], readings: list[int]) -> str:
    """The stage that a run with these readings ends with."""
    model = Model()
    peaks += [0, *readings]
    recording = cuda.CudaRecording(NoCard(), model)  # type: ignore[arg-type]
    recording.start()
    model(torch.zeros(1, 2))
    recording.close()
    return recording.finish()[1].stage


# Readings are taken when a stage is entered and left: layer, self_attn in and out, mlp in and out, layer out; head.
def test_peak_inside_a_part_is_the_part_s(peaks: list[int]) -> None:
    assert "mlp" == stage_of_peak(peaks, [0, 0, 5, 5, 9, 9, 9, 9, 9])


def test_peak_between_the_parts_is_the_layer_s(peaks: list[int]) -> None:
    assert "layer" == stage_of_peak(peaks, [0, 0, 5, 5, 5, 9, 9])


def test_peak_in_the_head_is_the_head_s(peaks: list[int]) -> None:
    assert "lm_head" == stage_of_peak(peaks, [0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4, 9])


def test_allocator_settings_are_told_as_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" == cuda.allocator_settings()


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
