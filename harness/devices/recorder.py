"""Writes the event log: watches every op's outputs for storages not seen before, and every storage's end.

Works on fake tensors and on real CPU tensors alike, which is how the two can be compared.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vram_ledger.harness.devices.inside import INSIDE, Step, Temporary
from vram_ledger.harness.devices.watching import Modules, source_line
from vram_ledger.harness.events import Allocation, EventLog, peak_site
from vram_ledger.harness.records import Peak


class Recorder(TorchDispatchMode):
    """An event log being written. Enter it around the workload; storages of ``model`` are born before the first op.

    Only storages on a device of ``device_type`` count; those of zero bytes never reach an allocator. ``insides`` says
    what an op allocates inside itself, from the op and its arguments; ``None`` for nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device_type: str,
        insides: Callable[[Any, Sequence[Any]], Sequence[Step] | None] = lambda func, args: None,
    ) -> None:
        super().__init__()
        self._insides = insides
        self._device_type = device_type
        self._modules = Modules(model)
        self._births: list[dict[str, Any]] = []
        self._deaths: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._events = 0
        self._live_bytes = 0
        self._calls = 0
        self.marks: dict[str, int] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._see(tensor, "resident", name, "")

    def __enter__(self) -> Self:
        self._modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._modules.__exit__(*exc)
        self._watched.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = (out,) if isinstance(out, torch.Tensor) else tree_leaves(out)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        op = func._schema.name.removeprefix("aten::")
        steps = self._insides(func, args)
        if steps is None or tensors[0].device.type != self._device_type:
            for tensor in tensors:
                self._see_new(tensor, op)
        else:
            self._follow(steps, tensors, op)
        return out

    def _follow(self, steps: Sequence[Step], outputs: Sequence[torch.Tensor], op: str) -> None:
        """Outputs and temporaries are born in this order; the temporaries end in theirs."""
        ended = []
        for step in steps:
            if isinstance(step, Temporary):
                ended.append((len(self._births), step.bytes))
                shape = (step.bytes,)
                self._born(step.bytes, shape, "uint8", INSIDE + op, self._modules.current, source_line())
            else:
                self._see_new(outputs[step], op)
        for index, size in ended:
            self._died(index, size)

    def _see_new(self, tensor: torch.Tensor, op: str) -> None:
        if tensor.untyped_storage()._cdata not in self._watched:
            self._see(tensor, op, self._modules.current, source_line())

    def _see(self, tensor: torch.Tensor, op: str, module: str, source: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._watched or size == 0 or tensor.device.type != self._device_type:
            return
        self._watched[key] = weakref.ref(storage, self._ended(key, len(self._births), size))
        self._born(size, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), op, module, source)

    def _born(self, size: int, shape: tuple[int, ...], dtype: str, op: str, module: str, source: str) -> None:
        self._births.append(
            {
                "born": self._events,
                "bytes": size,
                "shape": shape,
                "dtype": dtype,
                "op": op,
                "module": module,
                "source": source,
            }
        )
        self._events += 1
        self._live_bytes += size

    def _died(self, index: int, size: int) -> None:
        self._deaths[index] = self._events
        self._events += 1
        self._live_bytes -= size

    def _ended(self, key: int, index: int, size: int) -> Callable[[Any], None]:
        def ended(_: Any) -> None:
            if self._watched.pop(key, None) is not None:
                self._died(index, size)

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

    def finish(self) -> Peak:
        """See :class:`harness.devices.Recording`."""
        self.mark("end")
        return requested_only(peak_site(self.log())[0])

    def retries(self) -> int:
        """See :class:`harness.devices.Recording`; what does not end need not be asked for twice."""
        return 0

    def log(self) -> EventLog:
        """The log so far."""
        allocations = tuple(Allocation(died=self._deaths.get(i), **birth) for i, birth in enumerate(self._births))
        return EventLog(allocations=allocations, events=self._events, marks=dict(self.marks))


def requested_only(peak_bytes: int) -> Peak:
    """A peak of a device that has no allocator."""
    return Peak(
        requested_bytes=peak_bytes, allocated_bytes=None, reserved_bytes=None, process_bytes=None, device_bytes=None
    )
