"""A CUDA card: the only reader of torch.cuda's and NVML's counters.

Device 0 of the visible ones is measured. Its NVML handle is found by UUID, since NVML counts devices in another
order than CUDA_VISIBLE_DEVICES does.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import torch

from harness.events import EventLog, stage_of
from harness.records import AllocatorProbe, Peak, PeakSite

MIB = 2**20
PROBE_SIZES = (511, MIB, MIB + 1, 10 * MIB, 11 * MIB)


class CudaDevice:
    """See :class:`harness.devices.Device`."""

    kind = "cuda"
    name = "cuda:0"
    first_call_differs = True

    def __init__(self) -> None:
        torch.cuda.init()
        self._properties = torch.cuda.get_device_properties(0)
        self._nvml = _nvml_handle(str(self._properties.uuid))
        self._probes = self._measure_probes()
        self._standard = self._measure_standard()
        self._failed_request: tuple[int, int] | None = None
        torch._C._cuda_attach_out_of_memory_observer(self._note_failure)  # type: ignore[attr-defined]

    def _note_failure(self, device: int, asked: int, total: int, free: int) -> None:
        self._failed_request = (asked, free)

    def describe(self) -> dict[str, Any]:
        """Read from CUDA, NVML and the probed allocator."""
        p = self._properties
        return {
            "gpu_name": p.name,
            "gpu_uuid": str(p.uuid),
            "gpu_total_bytes": p.total_memory,
            "gpu_capability": f"{p.major}.{p.minor}",
            "mig": self._mig(),
            "driver": None if self._nvml is None else pynvml.nvmlSystemGetDriverVersion(),
            "cuda": torch.version.cuda,
            "allocator_settings": allocator_settings(),
            "allocator": self._probes,
        }

    def silicon(self) -> dict[str, int | None]:
        """See :class:`harness.devices.Device`; read from CUDA."""
        p = self._properties
        return {
            "multiprocessors": p.multi_processor_count,
            "shared_memory_bytes": p.shared_memory_per_block_optin,
            "l2_bytes": p.L2_cache_size,
            "neighbour_bytes": self.neighbour_bytes(),
        }

    def _mig(self) -> str | None:
        if " MIG " in self._properties.name:
            return str(self._properties.name)
        if self._nvml is None:
            return None
        try:
            current, _pending = pynvml.nvmlDeviceGetMigMode(self._nvml)
        except pynvml.NVMLError_NotSupported:
            return None
        return "enabled" if current == pynvml.NVML_DEVICE_MIG_ENABLE else None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Nothing more to set up: the standard's matrix product has put the BLAS workspace into every baseline."""
        yield

    @contextmanager
    def recording(self, model: Any, watch_stages: bool) -> Iterator["CudaRecording"]:
        """Counters of the caching allocator; stages by polling them at module boundaries."""
        recording = CudaRecording(self, model if watch_stages else None)
        try:
            yield recording
        finally:
            recording.close()

    def synchronize(self) -> None:
        """Waits for the card."""
        torch.cuda.synchronize()

    def release(self) -> None:
        """Frees cycles and returns every unused segment to the driver."""
        gc.collect()
        torch.cuda.empty_cache()

    def probes(self) -> tuple[AllocatorProbe, ...]:
        """As measured when the process began, before anything else was allocated."""
        return self._probes

    def _measure_probes(self) -> tuple[AllocatorProbe, ...]:
        probes = []
        for size in PROBE_SIZES:
            torch.cuda.empty_cache()
            allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
            tensor = torch.empty(size, dtype=torch.uint8, device=self.name)
            probes.append(
                AllocatorProbe(
                    asked_bytes=size,
                    allocated_bytes=torch.cuda.memory_allocated() - allocated,
                    reserved_bytes=torch.cuda.memory_reserved() - reserved,
                )
            )
            del tensor
        torch.cuda.empty_cache()
        return tuple(probes)

    def standard(self) -> tuple[int, int | None]:
        """See :class:`harness.devices.Device`; as measured when the process began, since the workspace comes once."""
        return self._standard

    def _measure_standard(self) -> tuple[int, int]:
        before = torch.cuda.memory_allocated()
        square = torch.ones(256, 256, dtype=torch.bfloat16, device=self.name)
        product = square @ square
        torch.cuda.synchronize()
        del square, product
        return torch.cuda.memory_allocated() - before, self.device_bytes() - torch.cuda.memory_reserved()

    def device_bytes(self) -> int:
        """Memory in use on the card, whoever uses it."""
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def _users(self) -> tuple[dict[int, int | None], int | None]:
        """Every process on the card with its bytes, and which of them is this one; what NVML does not tell is missing.

        In a container our pid may be another one there: then a sole user is us.
        """
        if self._nvml is None:
            return {}, None
        try:
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._nvml)
        except pynvml.NVMLError:  # not supported (WSL, vGPU), or no permission
            return {}, None
        users = {p.pid: p.usedGpuMemory for p in processes}
        sole = next(iter(users)) if len(users) == 1 else None
        return users, os.getpid() if os.getpid() in users else sole

    def process_bytes(self) -> int | None:
        """What NVML books on this process."""
        users, ours = self._users()
        return None if ours is None else users[ours]

    def neighbour_bytes(self) -> int | None:
        """See :class:`harness.devices.Device`."""
        users, ours = self._users()
        others = [used for pid, used in users.items() if pid != ours]
        told = [used for used in others if used is not None]
        return sum(told) if ours is not None and len(told) == len(others) else None

    def last_failure(self) -> tuple[int | None, int | None, int | None]:
        """See :class:`harness.devices.Device`; from the allocator's own observer, so exact."""
        asked, free = self._failed_request or (None, None)
        return asked, free, _stat("requested_bytes", "current")


class CudaRecording:
    """See :class:`harness.devices.Recording`."""

    def __init__(self, device: CudaDevice, watched: Any) -> None:
        self._device = device
        self._stages: list[str] = ["model"]
        self._peak_bytes = 0
        self._stage = "model"
        self._retries = 0
        self._hooks: list[Any] = []
        self._names = {} if watched is None else _stage_starts(watched)
        if self._names:
            hooks = torch.nn.modules.module
            self._hooks = [
                hooks.register_module_forward_pre_hook(self._entering),
                hooks.register_module_forward_hook(self._leaving, always_call=True),
            ]

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _entering(self, module: Any, args: Any) -> None:
        if (stage := self._names.get(id(module))) is not None:
            self._poll()
            self._stages.append(stage)

    def _leaving(self, module: Any, args: Any, output: Any) -> None:
        if id(module) in self._names:
            self._poll()
            self._stages.pop()

    def _poll(self) -> None:
        peak = _stat("requested_bytes", "peak")
        if peak > self._peak_bytes:
            self._peak_bytes = peak
            self._stage = self._stages[-1]

    def requested_bytes(self) -> int:
        """See :class:`harness.devices.Recording`."""
        return _stat("requested_bytes", "current")

    def start(self) -> None:
        """See :class:`harness.devices.Recording`."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._peak_bytes = _stat("requested_bytes", "peak")
        self._retries = int(torch.cuda.memory_stats()["num_alloc_retries"])

    def call(self) -> None:
        """See :class:`harness.devices.Recording`; the counters do not tell calls apart."""

    def finish(self) -> tuple[Peak, PeakSite]:
        """See :class:`harness.devices.Recording`.

        The allocator keeps its segments until a release, so process and device memory are at their height now,
        unless a retry gave segments back on the way: then their peaks are unknown.
        """
        torch.cuda.synchronize()
        if self._hooks:
            self._poll()
        kept = int(torch.cuda.memory_stats()["num_alloc_retries"]) == self._retries
        peak = Peak(
            requested_bytes=_stat("requested_bytes", "peak"),
            allocated_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
            process_bytes=self._device.process_bytes() if kept else None,
            device_bytes=self._device.device_bytes() if kept else None,
        )
        return peak, PeakSite(stage=self._stage, op=None, module=None, source=None, largest=())

    def log(self) -> EventLog:
        """A card only counts; the fake device has the log."""
        raise NotImplementedError("a card keeps counters, not an event log; the fake device has one")


def allocator_settings() -> str:
    """The variables that steer the caching allocator, as "NAME=value" joined by spaces; empty if none is set."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)


def _stat(name: str, which: str) -> int:
    return int(torch.cuda.memory_stats_as_nested_dict()[name]["all"][which])


def _stage_starts(model: Any) -> dict[int, str]:
    """The modules at which a stage begins: those whose stage is not their parent's."""
    starts = {}
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0]
        if name and stage_of(name) != stage_of(parent):
            starts[id(module)] = stage_of(name)
    return starts


def _nvml_handle(uuid: str) -> Any:
    """The card's NVML handle; ``None`` where NVML can't be used (some containers)."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None
