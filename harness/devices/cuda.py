"""A CUDA card, real or emulated: the only reader of torch.cuda's and NVML's counters.

Device 0 of the visible ones is measured. Its NVML handle is found by UUID, since NVML counts devices in another
order than CUDA_VISIBLE_DEVICES does.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import torch

from vram_ledger.harness.devices.traced import MOST_ENTRIES, Trace
from vram_ledger.harness.devices.watching import shown_frames
from vram_ledger.harness.events import EventLog
from vram_ledger.harness.machine import allocator_settings
from vram_ledger.harness.records import AllocatorProbe, GuessedRead, Peak

MIB = 2**20
PROBE_SIZES = (511, MIB, MIB + 1, 10 * MIB, 11 * MIB)


class CudaDevice:
    """See :class:`harness.devices.Device`. kind: "cuda", or "emulated" if the process has only pretended cards.

    recorded: the allocator records its history from the first request on, see :meth:`history`.
    """

    name = "cuda:0"
    counts_only = True

    def __init__(self, kind: str = "cuda", recorded: bool = False) -> None:
        torch.cuda.init()
        if recorded:
            torch.cuda.memory._record_memory_history(stacks="python", max_entries=MOST_ENTRIES)
        self.kind = kind
        self._properties = torch.cuda.get_device_properties(0)
        self._nvml = _nvml_handle(str(self._properties.uuid))
        self._probes = self._measure_probes()
        self._standard = self._measure_standard()
        self._failed_request: tuple[int, int, int] | None = None
        self._tunings = _count_tunings()
        torch._C._cuda_attach_out_of_memory_observer(self._note_failure)  # type: ignore[attr-defined]

    def _note_failure(self, device: int, asked: int, total: int, free: int) -> None:
        # What is held must be read now: the handler runs after the stack, and much of what it held, is gone.
        self._failed_request = (asked, free, _stat("requested_bytes", "current"))

    def describe(self) -> dict[str, Any]:
        """Read from CUDA, NVML and the probed allocator."""
        p = self._properties
        return {
            "gpu_name": p.name,
            "gpu_uuid": str(p.uuid),
            "gpu_total_bytes": p.total_memory,
            "gpu_capability": f"{p.major}.{p.minor}",
            "gpu_multiprocessors": p.multi_processor_count,
            "mig": self._mig(),
            "driver": None if self._nvml is None else pynvml.nvmlSystemGetDriverVersion(),
            "cuda": torch.version.cuda,
            "cudnn": str(torch.backends.cudnn.version()),
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
    def recording(self) -> Iterator["CudaRecording"]:
        """Counters of the caching allocator."""
        yield CudaRecording(self)

    @contextmanager
    def tracing(self, model: Any) -> Iterator["TracedRecording"]:
        """The allocator's trace, which costs time and no memory of the card's."""
        with Trace(model, _stat("requested_bytes", "current")) as trace:
            yield TracedRecording(self, trace)

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
        used = self.process_bytes() or self.device_bytes()  # a neighbour's memory is not our context
        return torch.cuda.memory_allocated() - before, used - torch.cuda.memory_reserved()

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
        told, self._failed_request = self._failed_request, None
        return told or (None, None, None)

    def state(self) -> object:
        """See :class:`harness.devices.Device`; every block of every segment.

        Not told of expandable segments: a request beyond the addresses that those have left makes one more of them,
        which stays, is in no snapshot while nothing is mapped there, and can be where the next run begins
        (c10/cuda/CUDACachingAllocator.cpp, PyTorch 2.14.1: ``find_expandable_block``).
        """
        segments = torch.cuda.memory_snapshot()
        if any(segment["is_expandable"] for segment in segments):
            return None
        return [(s["address"], s["total_size"], [(b["size"], b["state"]) for b in s["blocks"]]) for s in segments]

    def history(self) -> dict[str, Any]:
        """See :class:`harness.devices.Device`."""
        snapshot = torch.cuda.memory._snapshot()
        entries = [entry | {"frames": shown_frames(entry["frames"])} for entry in snapshot["device_traces"][0]]
        segments = [
            segment | {"blocks": [block | {"frames": shown_frames(block["frames"])} for block in segment["blocks"]]}
            for segment in snapshot["segments"]
        ]
        return {"segments": segments, "device_traces": [entries]}

    def requests(self) -> list[int]:
        """See :class:`harness.devices.Device`."""
        asked: list[int] = []
        number: dict[int, int] = {}
        count = 0
        for entry in torch.cuda.memory._snapshot()["device_traces"][0]:
            if entry["action"] == "alloc":
                count += 1
                number[entry["addr"]] = count
                asked.append(entry["size"])
            elif entry["action"] == "free_completed":
                asked.append(-number.pop(entry["addr"]))
            elif entry["action"] == "segment_free" and asked[-1:] != [0]:
                asked.append(0)
        return asked

    def tuned(self) -> bool:
        """See :class:`harness.devices.Device`."""
        return bool(self._tunings.take())

    def guessed(self) -> tuple[GuessedRead, ...]:
        """See :class:`harness.devices.Device`; told by the emulated card."""
        program = sys.modules.get("vram_ledger.harness.emulation.program")
        return () if program is None else tuple(GuessedRead(**read) for read in program.take_guesses())


class CudaRecording:
    """See :class:`harness.devices.Recording`: the counters of the caching allocator."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._retries = 0

    def requested_bytes(self) -> int:
        """See :class:`harness.devices.Recording`."""
        return _stat("requested_bytes", "current")

    def start(self) -> None:
        """See :class:`harness.devices.Recording`."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._retries = int(torch.cuda.memory_stats()["num_alloc_retries"])

    def call(self) -> None:
        """See :class:`harness.devices.Recording`; the counters do not tell calls apart."""

    def finish(self) -> Peak:
        """See :class:`harness.devices.Recording`.

        The allocator keeps its segments until a release, so process and device memory are at their height now,
        unless a retry gave segments back on the way: then their peaks are unknown.
        """
        torch.cuda.synchronize()
        kept = not self.retries()
        return Peak(
            requested_bytes=_stat("requested_bytes", "peak"),
            allocated_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
            process_bytes=self._device.process_bytes() if kept else None,
            device_bytes=self._device.device_bytes() if kept else None,
        )

    def retries(self) -> int:
        """See :class:`harness.devices.Recording`."""
        return int(torch.cuda.memory_stats()["num_alloc_retries"]) - self._retries


class TracedRecording(CudaRecording):
    """The same, and the event log: see :mod:`harness.devices.traced`."""

    def __init__(self, device: CudaDevice, trace: Trace) -> None:
        super().__init__(device)
        self._trace = trace

    def start(self) -> None:
        """See :class:`harness.devices.Recording`."""
        super().start()
        self._trace.mark("start")

    def call(self) -> None:
        """See :class:`harness.devices.Recording`; marked as "call 1" and so on."""
        self._trace.mark_call()

    def finish(self) -> Peak:
        """See :class:`harness.devices.Recording`."""
        self._trace.mark("end")
        return super().finish()

    def log(self) -> EventLog:
        """See :class:`harness.devices.Recording`."""
        return self._trace.log()


class _Tunings:
    """How often Triton asked for the buffer that it flushes the card's cache with, which it does to tune a kernel."""

    def __init__(self) -> None:
        self._count = 0

    def watch(self, driver: Any) -> None:
        """Counts from now on."""
        get = driver.get_empty_cache_for_benchmark

        def counted() -> Any:
            self._count += 1
            return get()

        driver.get_empty_cache_for_benchmark = counted

    def take(self) -> int:
        """The number since the last call."""
        count, self._count = self._count, 0
        return count


def _count_tunings() -> _Tunings:
    tunings = _Tunings()
    try:
        from triton.runtime import driver
    except ImportError:  # no Triton, no tuning
        return tunings
    tunings.watch(driver.active)
    return tunings


def _stat(name: str, which: str) -> int:
    return int(torch.cuda.memory_stats_as_nested_dict()[name]["all"][which])


def _nvml_handle(uuid: str) -> Any:
    """The card's NVML handle; ``None`` where NVML can't be used (some containers)."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None
