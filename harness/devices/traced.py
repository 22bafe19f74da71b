"""The allocator's own trace of one run on a card, joined with the ops that ran: the event log of what really happened.

The caching allocator writes down every request and every free (address, size), also those that an op makes inside
itself, which no Python program sees. Before each op a number is left with the allocator, which comes back with the
entries (``torch.cuda.memory._set_memory_metadata``); the number tells op, module and source line.
"""

from functools import lru_cache
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vram_ledger.harness.devices.inside import INSIDE
from vram_ledger.harness.devices.watching import Modules, source_line
from vram_ledger.harness.events import Allocation, EventLog

MOST_ENTRIES = 4_000_000


class Trace(TorchDispatchMode):
    """A trace being taken, as long as it is entered. ``base_bytes``: what the allocator had given out before it.

    The first allocations of the log are the model's ("resident") and what libraries keep ("workspace").
    """

    def __init__(self, model: torch.nn.Module, base_bytes: int) -> None:
        super().__init__()
        self._modules = Modules(model)
        self._residents = _residents(model, base_bytes)
        self._ops: list[tuple[str, str, str, dict[int, tuple[tuple[int, ...], str]]]] = [("", "", "", {})]
        self._marks: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=MOST_ENTRIES)
        self._number("", "")
        self._modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._modules.__exit__(*exc)
        torch._C._cuda_setMemoryMetadata("")  # type: ignore[attr-defined]
        torch.cuda.memory._record_memory_history(enabled=None)

    def _number(self, op: str, source: str) -> dict[int, tuple[tuple[int, ...], str]]:
        """Leaves the next number with the allocator; returns the dictionary for what the op puts out."""
        outputs: dict[int, tuple[tuple[int, ...], str]] = {}
        torch._C._cuda_setMemoryMetadata(str(len(self._ops)))  # type: ignore[attr-defined]
        self._ops.append((op, self._modules.current, source, outputs))
        return outputs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = self._number(func._schema.name.removeprefix("aten::"), source_line())
        out = func(*args, **(kwargs or {}))
        for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.is_cuda:
                address = leaf.untyped_storage().data_ptr()
                outputs.setdefault(address, (tuple(leaf.shape), str(leaf.dtype).removeprefix("torch.")))
        return out

    def mark(self, name: str) -> None:
        """Names the next event; it is found again by the number of the op that comes next."""
        self._marks.append((name, len(self._ops)))
        self._number("", "")

    def mark_call(self) -> None:
        """Names the next event "call 1", and so on."""
        self.mark(f"call {1 + sum(name.startswith('call ') for name, _ in self._marks)}")

    def log(self) -> EventLog:
        """The log so far."""
        entries = [
            e for e in torch.cuda.memory._snapshot()["device_traces"][0] if e["action"] in ("alloc", "free_completed")
        ]
        births: list[dict[str, Any]] = [*self._residents]
        deaths: dict[int, int] = {}
        at: dict[int, int] = {}
        last: dict[int, int] = {}  # of several requests that one op got one address for, the last is the output's
        numbers: dict[int, int] = {}
        events = len(births)
        starts: list[int] = []
        for entry in entries:
            address, number = entry["addr"], int(entry["user_metadata"] or 0)
            if entry["action"] == "alloc":
                if (earlier := last.get(address)) is not None and numbers[earlier] == number:
                    births[earlier] = self._birth(births[earlier]["born"], None, births[earlier]["bytes"], number)
                last[address] = at[address] = len(births)
                numbers[len(births)] = number
                births.append(self._birth(events, address, entry["size"], number))
            elif address in at:
                deaths[at.pop(address)] = events
            else:
                continue  # born before the trace: a cycle of an earlier run that was collected now
            starts.append(number)
            events += 1
        return EventLog(
            allocations=tuple(Allocation(died=deaths.get(i), **birth) for i, birth in enumerate(births)),
            events=events,
            marks={name: len(self._residents) + sum(s < number for s in starts) for name, number in self._marks},
        )

    def _birth(self, event: int, address: int | None, size: int, number: int) -> dict[str, Any]:
        op, module, source, outputs = self._ops[number]
        put_out = None if address is None else outputs.get(address)
        shape, dtype = put_out or ((size,), "uint8")
        name = op if put_out or not op else INSIDE + op
        return {
            "born": event,
            "bytes": size,
            "shape": shape,
            "dtype": dtype,
            "op": name,
            "module": module,
            "source": source,
        }


def _residents(model: torch.nn.Module, base_bytes: int) -> list[dict[str, Any]]:
    """Births of the model's storages, each once, and of whatever else the allocator had given out."""
    births = list(_of_model(model))
    if rest := base_bytes - sum(birth["bytes"] for birth in births):
        births.append(_standing(len(births), rest, (rest,), "uint8", "workspace", ""))
    return births


@lru_cache(maxsize=1)
def _of_model(model: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    births: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen and storage.nbytes() and tensor.is_cuda:
            seen.add(storage._cdata)
            shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
            births.append(_standing(len(births), storage.nbytes(), shape, dtype, "resident", name))
    return tuple(births)


def _standing(event: int, size: int, shape: tuple[int, ...], dtype: str, op: str, module: str) -> dict[str, Any]:
    told = {"born": event, "bytes": size, "shape": shape, "dtype": dtype}
    return told | {"op": op, "module": module, "source": ""}
