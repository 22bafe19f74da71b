"""The shapes at which a program ends in the request that an out-of-memory message is about.

A message gives three equations in the two unknowns of a shape: what the failing request asked of the driver, what was
allocated when it did, and what was reserved beside it. Sizes and sums of them grow with the context, so the first two
have, of every request of every step at every batch, a range of contexts as their answer. In those ranges the program is
run in as much memory as the message says there was, and what fails there is compared with the message.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vram_ledger.analysis.allocation.rules import MIB, MIN_BLOCK_BYTES, SMALL_BYTES, block_bytes, segment_bytes
from vram_ledger.analysis.derivation.derived import Origin, OutsideDomain, Regime
from vram_ledger.analysis.derivation.forms import MOST_CONTEXT_TOKENS, Ints, call_factors, calls_at, design
from vram_ledger.analysis.derivation.program import Course, Device, Program
from vram_ledger.analysis.messages.message import Message, Printed
from vram_ledger.analysis.messages.sizes import sizes_printed

BATCHES = (*range(1, 65), *range(72, 257, 8), 320, 384, 512, 768, 1024)
MOST_RUNS = 2_000  # of a program in one memory: a second
MOST_IN_A_RANGE = 48
LOOKS, MANY = 5, 33  # places of a range that are looked at where one was hit, and where none was

Effort = Literal["quick", "wide", "long"]
"""A look at every range in the likeliest memory; in three memories, since the figures leave a few MiB open in which
another request can be the first to fail; and at many places of every range, since of two neighbours one can end
elsewhere."""
EFFORTS: tuple[Effort, ...] = get_args(Effort)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A shape at which the program ends with a message's figures. bytes: what the failing tensor has.

    exact: what was reserved beside the allocated bytes agrees, too.
    """

    origin: Origin
    batch: int
    context_tokens: int
    bytes: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """Contexts of a batch at which a request asks for what a message says, at a step with what it says is allocated.

    slope: bytes that are alive before the step, a token.
    """

    batch: int
    least: int
    most: int
    slope: int

    def places(self, count: int) -> list[int]:
        """So many of its contexts, from end to end."""
        return sorted({self.least + (self.most - self.least) * n // (count - 1) for n in range(count)})


def endings(
    program: Program, device: Device, message: Message, shape: tuple[int, int] | None, effort: Effort
) -> list[Ending]:
    """The shapes that were found; none where a message does not say what is allocated, reserved and free.

    shape: batch and context, where they are known: no others are looked at then.
    """
    capacity, spread = message.capacity_bytes, message.reserved_spread_bytes
    if capacity is None or message.allocated is None or program.held_by_model(device) > message.allocated.most_bytes:
        return []
    if shape is not None:
        ranges = [_Range(batch=shape[0], least=shape[1], most=shape[1], slope=1)]
    else:
        ranges = _all_ranges(program, device, message.asked, message.allocated)
    memories = (capacity,) if effort == "quick" else (capacity, capacity - spread, capacity + spread)
    found: dict[tuple[int, int], Ending] = {}
    for memory in (memory for memory in memories if program.holds_model(device, memory)):
        runs = _Runs(program, device, message, memory)
        for batch in sorted({r.batch for r in ranges}):
            runs.search([r for r in ranges if r.batch == batch], many=effort == "long")
        found = runs.found | found
        if any(ending.exact for ending in found.values()):
            break
    return sorted(found.values(), key=lambda e: (e.batch, e.context_tokens))


class _Runs:
    """The program's runs in the memory that there was. found: the endings, by shape."""

    def __init__(self, program: Program, device: Device, message: Message, capacity_bytes: int) -> None:
        self._program, self._device, self._message, self._capacity = program, device, message, capacity_bytes
        self._allocated: dict[tuple[int, int], int | None] = {}  # None: it ends in another request, or not at all
        self.found: dict[tuple[int, int], Ending] = {}

    def search(self, ranges: Sequence[_Range], many: bool) -> None:
        """Runs the contexts of a batch's ranges at which what is allocated can be what the message says.

        Between two of them another layer can be the one that fails, so a range is looked at from several.
        """
        batch = ranges[0].batch
        looks = {place for r in ranges for place in r.places(MANY)} if many else _inside_each(ranges)
        hit = [context for context in sorted(looks) if self._run(batch, context)]
        near = [r for r in ranges if any(r.least <= context <= r.most for context in hit)]
        wanted = {context for r in near for context in self._like(r, {*hit, *r.places(LOOKS)})}
        for context in sorted(wanted):
            self._run(batch, context)

    def _like(self, looked: _Range, contexts: Iterable[int]) -> Iterator[int]:
        """The contexts of a range with the message's allocated bytes, if they go on from these as the range does."""
        allocated, slope = self._message.allocated, max(looked.slope, 1)
        assert allocated is not None
        slack = MIB // slope + 1
        for known in contexts:
            if looked.least <= known <= looked.most and self._run(looked.batch, known):
                at = self._allocated[looked.batch, known]
                assert at is not None
                first = max(looked.least, known + (allocated.least_bytes - at) // slope - slack)
                last = min(looked.most, known - (at - allocated.most_bytes) // slope + slack)
                yield from range(first, last + 1, max(1, (last - first) // MOST_IN_A_RANGE))

    def _run(self, batch: int, context: int) -> bool:
        """Whether the program ends in a request for what the message says."""
        if (batch, context) not in self._allocated and len(self._allocated) < MOST_RUNS:
            self._allocated[batch, context] = None
            with suppress(OutsideDomain):
                self._compare(batch, context)
        return self._allocated.get((batch, context)) is not None

    def _compare(self, batch: int, context: int) -> None:
        ended = self._program.ended(self._device, batch, context, 0, self._capacity)
        if ended is None:
            return
        ((call, shape),) = calls_at(self._program.derived.phase, batch, context, 0)
        course = self._program.course(call, shape)
        size = self._program.sizes(call, shape, course, self._device.multiprocessors)[ended.request]
        if not self._message.asked.has(segment_bytes(block_bytes(size))):
            return
        self._allocated[batch, context] = ended.allocated_bytes
        said = self._message.allocated
        if said is not None and said.has(ended.allocated_bytes):
            self.found[batch, context] = Ending(
                origin=self._program.derived.origins[course.regime.requests[ended.request][0]],
                batch=batch,
                context_tokens=context,
                bytes=size,
                exact=self._message.agrees(ended.allocated_bytes, ended.reserved_bytes),
            )


def _inside_each(ranges: Sequence[_Range]) -> set[int]:
    """Few contexts of which at least two, or its only one, lie in each range: both ends of what overlaps."""
    found: set[int] = set()
    last, first = -1, MOST_CONTEXT_TOKENS + 1
    for looked in sorted(ranges, key=lambda r: r.most):
        if looked.least > last:
            last = looked.most
            found.add(last)
    for looked in sorted(ranges, key=lambda r: -r.least):
        if looked.most < first:
            first = looked.least
            found.add(first)
    return found


def _all_ranges(program: Program, device: Device, asked: Printed, allocated: Printed) -> list[_Range]:
    regimes = [regime for regime in program.derived.regimes if regime.call in ("whole", "decode")]
    return [found for regime in regimes for found in _ranges(program, device, regime, asked, allocated)]


def _ranges(program: Program, device: Device, regime: Regime, asked: Printed, allocated: Printed) -> Iterator[_Range]:
    """The ranges of a regime, a batch after the other."""
    low, high = regime.domain.batches
    of = np.array([b for b in BATCHES if low <= b <= high], dtype=np.int64)
    course = program.course_of(regime)
    if not of.size:
        return
    before, spare = _alive(course, program.held_by_model(device))
    steps = np.flatnonzero(course.begins >= 0)
    for least, most in sizes_printed(asked):
        first = _first_contexts(course, regime, of, least)
        last = _first_contexts(course, regime, of, most + 1) - 1
        for place, batch in enumerate(of.tolist()):
            starts, ends = first[course.begins[steps], place], last[course.begins[steps], place]
            found = steps[starts <= ends]
            starts, ends = starts[starts <= ends], ends[starts <= ends]
            if found.size:
                yield from _narrowed(regime, batch, before[found], spare[found], starts, ends, allocated)


def _alive(course: Course, held_bytes: int) -> tuple[Ints, Ints]:
    """The form of the bytes alive before every step, and what the allocator may have added to them."""
    born = np.where((course.begins >= 0)[:, None], course.matrix[course.begins], 0)
    gone = np.where((course.ends >= 0)[:, None], course.matrix[course.begins[course.ends]], 0)
    after = np.cumsum(born - gone, axis=0)
    after[:, 0] += held_bytes
    count = np.cumsum((course.begins >= 0).astype(np.int64) - (course.ends >= 0))
    before = np.vstack([after[:1] * 0, after[:-1]])
    before[0, 0] = held_bytes
    return before, np.concatenate([[0], count[:-1]]) * (SMALL_BYTES + MIN_BLOCK_BYTES)


def _narrowed(
    regime: Regime, batch: int, before: Ints, spare: Ints, starts: Ints, ends: Ints, allocated: Printed
) -> Iterator[_Range]:
    """Of the contexts from starts to ends those at which the form before a step is what is allocated."""

    def alive(contexts: Ints, of: Any = slice(None)) -> Ints:
        factors = call_factors(regime.call, np.full_like(contexts, batch), contexts)
        total: Ints = (before[of] * design(regime.columns, factors)).sum(axis=1)
        return total

    low, high = alive(starts), alive(ends)
    of = np.flatnonzero((low <= allocated.most_bytes) & (high + spare >= allocated.least_bytes))
    if not of.size:
        return
    starts, ends, spare = starts[of], ends[of], spare[of]
    least = _first(lambda n: alive(n, of) + spare >= allocated.least_bytes, starts, ends)
    most = _first(lambda n: alive(n, of) > allocated.most_bytes, starts, ends) - 1
    keep = least <= most
    slopes = (high[of] - low[of]) // np.maximum(ends - starts, 1)
    seen = {
        (int(a), int(z)): int(s) for a, z, s in zip(least[keep], most[keep], slopes[keep], strict=True)
    }  # many layers have one and the same
    for (a, z), slope in seen.items():
        yield _Range(batch=batch, least=a, most=z, slope=slope)


def _first_contexts(course: Course, regime: Regime, batches: Ints, least_bytes: int) -> Ints:
    """Of each request and batch the first context at which it has so many bytes; else one beyond the last."""
    low, high = regime.domain.contexts
    shape = (len(course.matrix), len(batches))
    of = np.broadcast_to(batches, shape)

    def enough(contexts: Ints) -> Any:
        factors = call_factors(regime.call, of, contexts)
        sizes = np.einsum("rc,rbc->rb", course.matrix, design(regime.columns, factors))
        return sizes >= least_bytes

    return _first(enough, np.full(shape, low), np.full(shape, high))


def _first(holds: Any, least: Ints, most: Ints) -> Ints:
    """The first of least … most, each for itself, for which a thing holds that holds for all above; else most + 1."""
    low, high = least - 1, most + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        inside = np.clip(middle, least, most)
        yes = np.asarray(holds(inside)) & (high - low > 1)
        no = ~yes & (high - low > 1)
        high, low = np.where(yes, middle, high), np.where(no, middle, low)
    return high
