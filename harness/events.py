"""The event log: every allocation of a run, as a value that needs no torch to be read.

A run is a sequence of events, numbered from 0: the birth or the death of one storage each. An
:class:`Allocation` carries the numbers of its two events, its size, and what made it: the op, the module that was
running and the source line. Storages that exist before the run (weights, or the cache before a decode step) are
born first. ``marks`` name event numbers: the log of a workload has "start" (the baseline and, for a decode, the
cache are alive; inputs too), "call 1" and so on (the model is called) and "end" (the last call has returned).

Sizes are the bytes of the storage as asked for; no allocator rounding. Host tensors (those that a card would not
hold) are not in the log.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from vram_ledger.harness.records import LiveTensor, PeakSite

LARGEST = 8
STANDING = ("resident", "workspace")  # not the workload's: parameters and buffers; what libraries took before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One storage. ``died`` is ``None`` if it is alive at the end of the log."""

    born: int
    died: int | None
    bytes: int
    shape: tuple[int, ...]
    dtype: str
    op: str
    module: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """All allocations of a run by birth, the number of events, and the named event numbers."""

    allocations: tuple[Allocation, ...]
    events: int
    marks: dict[str, int]


def signed_sizes(log: EventLog) -> tuple[int, ...]:
    """The log as one number an event, in order: bytes of a birth, minus bytes of a death."""
    sizes = [0] * log.events
    for allocation in log.allocations:
        sizes[allocation.born] = allocation.bytes
        if allocation.died is not None:
            sizes[allocation.died] = -allocation.bytes
    return tuple(sizes)


def live_bytes(log: EventLog) -> tuple[int, ...]:
    """Bytes alive after each event."""
    return tuple(accumulate(signed_sizes(log)))


def peak_event(log: EventLog, start: int, end: int) -> tuple[int, int]:
    """Event number and bytes of the highest point from event ``start`` (state before it included) up to before ``end``.

    The number is ``start - 1`` if nothing rose above what was alive at the start.
    """
    live = live_bytes(log)[:end]
    best = max(range(start - 1, end), key=lambda i: live[i] if i >= 0 else 0)
    return best, live[best] if best >= 0 else 0


def alive(log: EventLog, event: int) -> tuple[Allocation, ...]:
    """The allocations alive just after ``event``, by birth."""
    return tuple(a for a in log.allocations if a.born <= event and (a.died is None or a.died > event))


def largest(allocations: tuple[Allocation, ...], count: int) -> tuple[LiveTensor, ...]:
    """The ``count`` largest, biggest first, then by birth."""
    ordered = sorted(allocations, key=lambda a: (-a.bytes, a.born))[:count]
    return tuple(
        LiveTensor(bytes=a.bytes, shape=a.shape, dtype=a.dtype, op=a.op, module=a.module, source=a.source)
        for a in ordered
    )


def peak_site(log: EventLog) -> tuple[int, PeakSite]:
    """Bytes of the highest point between the marks "start" and "end", and what was running when it was reached."""
    event, peak_bytes = peak_event(log, log.marks["start"], log.marks["end"])
    living = alive(log, event)
    newest = max(living, key=lambda a: a.born)
    return peak_bytes, PeakSite(
        stage=stage_of(newest.module),
        op=newest.op,
        module=newest.module,
        source=newest.source,
        largest=largest(tuple(a for a in living if a.op not in STANDING), LARGEST),
    )


def stage_of(module: str) -> str:
    """The part of the model that a module path belongs to.

    The child of a decoder layer ("linear_attn", "self_attn", "mlp", "input_layernorm", …), "layer" for the layer's
    own residual sums, otherwise the last name of the path ("lm_head", "embed_tokens", "norm", …), "model" for none.
    """
    parts = module.split(".")
    if "layers" in parts[:-1]:
        below = parts[parts.index("layers") + 2 :]
        return below[0] if below else "layer"
    return parts[-1] or "model"


def pack(log: EventLog) -> dict[str, Any]:
    """The log in a form for passing between processes: one list a field, texts and shapes as numbers of a table."""
    texts, shapes = _Table(), _Table()
    allocations = log.allocations
    return {
        "born": [a.born for a in allocations],
        "died": [a.died for a in allocations],
        "bytes": [a.bytes for a in allocations],
        "shape": shapes.numbers(a.shape for a in allocations),
        "dtype": texts.numbers(a.dtype for a in allocations),
        "op": texts.numbers(a.op for a in allocations),
        "module": texts.numbers(a.module for a in allocations),
        "source": texts.numbers(a.source for a in allocations),
        "texts": list(texts.values),
        "shapes": [list(shape) for shape in shapes.values],
        "events": log.events,
        "marks": log.marks,
    }


def unpack(packed: dict[str, Any]) -> EventLog:
    """The log that :func:`pack` was given."""
    texts, shapes = packed["texts"], [tuple(shape) for shape in packed["shapes"]]
    fields = [packed[name] for name in ("born", "died", "bytes", "shape", "dtype", "op", "module", "source")]
    return EventLog(
        allocations=tuple(
            Allocation(
                born=born,
                died=died,
                bytes=size,
                shape=shapes[shape],
                dtype=texts[dtype],
                op=texts[op],
                module=texts[module],
                source=texts[source],
            )
            for born, died, size, shape, dtype, op, module, source in zip(*fields, strict=True)
        ),
        events=packed["events"],
        marks=packed["marks"],
    )


class _Table:
    """Values numbered in the order in which they were first met."""

    def __init__(self) -> None:
        self.values: dict[Any, int] = {}

    def numbers(self, items: Iterable[Any]) -> list[int]:
        return [self.values.setdefault(item, len(self.values)) for item in items]
