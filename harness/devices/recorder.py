"""Writes the event log: watches every op's outputs for storages not seen before, and every storage's end.

Works on fake tensors and on real CPU tensors alike, which is how the two can be compared.
"""

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.events import Allocation, EventLog, alive, largest, peak_event, stage_of
from harness.records import Peak, PeakSite

LARGEST = 8
_OWN_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_PACKAGE_ROOTS = tuple(sorted({str(Path(p).resolve()) for p in sys.path if p}, key=len, reverse=True))


class Recorder(TorchDispatchMode):
    """An event log being written. Enter it around the workload; storages of ``model`` are born before the first op.

    Only storages on a device of ``device_type`` count; those of zero bytes never reach an allocator.
    """

    def __init__(self, model: torch.nn.Module, device_type: str) -> None:
        super().__init__()
        self._device_type = device_type
        self._names = {id(module): name for name, module in model.named_modules()}
        self._path: list[str] = []
        self._births: list[dict[str, Any]] = []
        self._deaths: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._events = 0
        self._live_bytes = 0
        self._hooks: list[Any] = []
        self._calls = 0
        self.marks: dict[str, int] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._see(tensor, "resident", name, "")

    def __enter__(self) -> Self:
        hooks = torch.nn.modules.module
        self._hooks = [
            hooks.register_module_forward_pre_hook(self._entering),
            hooks.register_module_forward_hook(self._leaving, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        for hook in self._hooks:
            hook.remove()
        self._watched.clear()

    def _entering(self, module: torch.nn.Module, args: Any) -> None:
        # An activation shared by all layers is nobody's child: it runs where it is called.
        name = self._names.get(id(module))
        if name is None:
            name = f"{self._path[-1]}.{type(module).__name__}" if self._path else type(module).__name__
        self._path.append(name)

    def _leaving(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self._path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._watched:
                op = func._schema.name.removeprefix("aten::")
                self._see(leaf, op, self._path[-1] if self._path else "", _source_line())
        return out

    def _see(self, tensor: torch.Tensor, op: str, module: str, source: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._watched or size == 0 or tensor.device.type != self._device_type:
            return
        index = len(self._births)
        self._births.append(
            {
                "born": self._events,
                "bytes": size,
                "shape": tuple(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "op": op,
                "module": module,
                "source": source,
            }
        )
        self._watched[key] = weakref.ref(storage, self._ended(key, index, size))
        self._events += 1
        self._live_bytes += size

    def _ended(self, key: int, index: int, size: int) -> Callable[[Any], None]:
        def ended(_: Any) -> None:
            if self._watched.pop(key, None) is not None:
                self._deaths[index] = self._events
                self._events += 1
                self._live_bytes -= size

        return ended

    def requested_bytes(self) -> int:
        """Bytes of the storages alive now."""
        return self._live_bytes

    def mark(self, name: str) -> None:
        """Names the next event's number."""
        self.marks[name] = self._events

    def start(self) -> None:
        """See :class:`harness.devices.Recording`."""
        self.mark("start")

    def call(self) -> None:
        """See :class:`harness.devices.Recording`; marked as "call 1" and so on."""
        self._calls += 1
        self.mark(f"call {self._calls}")

    def finish(self) -> tuple[Peak, PeakSite]:
        """See :class:`harness.devices.Recording`; the site is complete here."""
        self.mark("end")
        log = self.log()
        event, peak_bytes = peak_event(log, self.marks["start"], self.marks["end"])
        living = alive(log, event)
        newest = max(living, key=lambda a: a.born)
        site = PeakSite(
            stage=stage_of(newest.module),
            op=newest.op,
            module=newest.module,
            source=newest.source,
            largest=largest(tuple(a for a in living if a.op != "resident"), LARGEST),
        )
        return requested_only(peak_bytes), site

    def log(self) -> EventLog:
        """The log so far."""
        allocations = tuple(Allocation(died=self._deaths.get(i), **birth) for i, birth in enumerate(self._births))
        return EventLog(allocations=allocations, events=self._events, marks=dict(self.marks))


def requested_only(peak_bytes: int) -> Peak:
    """A peak of a device that has no allocator."""
    return Peak(
        requested_bytes=peak_bytes, allocated_bytes=None, reserved_bytes=None, process_bytes=None, device_bytes=None
    )


def _source_line() -> str:
    """The innermost line outside torch and this folder, as "package/file.py:line"."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OWN_FOLDERS) and not name.startswith("<"):
            return f"{_short(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _short(filename: str) -> str:
    for root in _PACKAGE_ROOTS:
        if filename.startswith(root + "/"):
            return filename[len(root) + 1 :]
    return filename.rsplit("/", 1)[-1]
