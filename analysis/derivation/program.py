"""A derived program ready to be asked: what it requests at a shape, and what the allocator of a card makes of that."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vram_ledger.analysis.allocation.rules import AllocationFailure, CachingAllocator, Usage
from vram_ledger.analysis.allocation.settings import Rules, allocator
from vram_ledger.analysis.allocation.steps import RELEASE, carried_out, steps_of, unfolded
from vram_ledger.analysis.derivation.derived import Derived, Origin, OutsideDomain, Regime
from vram_ledger.analysis.derivation.forms import (
    LOOP_COLUMNS,
    MASK_TOKENS,
    Call,
    Ints,
    Shape,
    calls_at,
    shape_factors,
)
from vram_ledger.analysis.derivation.loops import ROUNDS
from vram_ledger.harness.records import Workload
from vram_ledger.harness.splits import UNSOLVED, splits

if TYPE_CHECKING:
    from vram_ledger.analysis.allocation.compiled import Ended, Room

During = Literal["build", "cache", "forward"]
tokens_of = functools.lru_cache(maxsize=256)(unfolded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What of a card decides what its allocator does.

    workspace_bytes: of its libraries. total_bytes: as torch reports it, by which expandable segments have their
    addresses. rules: by which the allocator goes.
    """

    multiprocessors: int
    workspace_bytes: int
    total_bytes: int | None = None
    rules: Rules = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A phase that fits: the allocator's peaks, weights and workspace included, and requests that needed a retry."""

    peak: Usage
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRoom:
    """A phase that does not: while what was done, which request failed, and what made it, ``None`` in the build.

    calls: those of the model that were carried out before.
    """

    during: During
    calls: int
    failure: AllocationFailure
    origin: Origin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A regime's steps in full. begins: of each step, the request that begins there or -1; ends: the step whose request
    ends there, or -1. own: where the call's own steps begin. ranks: by which each request is put in order."""

    regime: Regime
    tokens: tuple[int, ...]
    own: int
    matrix: Ints
    parts: tuple[int, ...]
    begins: Ints
    ends: Ints
    ranks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """A call's steps after so many requests that are alive, which are counted first.

    alive: how many those are. pieces: for the allocator, one up to each release of its cache. made: the requests, in
    order. left: those alive after the call, oldest first.
    """

    alive: int
    pieces: tuple[Ints, ...]
    made: tuple[int, ...]
    left: Ints


class Program:
    """One derived program. ``device`` is asked for where the allocator is; requested bytes need none."""

    def __init__(self, derived: Derived) -> None:
        self.derived = derived
        self._courses: dict[int, Course] = {}
        self._built: dict[tuple[Device, int | None], CachingAllocator | AllocationFailure] = {}
        self._rooms: dict[int, Room] = {}
        self._numbered: dict[tuple[int, int], Numbered] = {}

    def course(self, call: Call, shape: Shape) -> Course:
        """The steps of a call; :class:`OutsideDomain` for a shape that no regime contains.

        Calls are derived behind chunks of a multiple of 8 tokens; behind others the cache lies otherwise.
        """
        if shape.chunk_tokens % MASK_TOKENS:
            raise OutsideDomain(
                f"{self.derived.origin}: chunks of {shape.chunk_tokens:,} tokens; those of a multiple of {MASK_TOKENS} "
                "are derived"
            )
        factors = shape_factors(call, shape)
        for regime in self.derived.regimes:
            if regime.call == call and regime.domain.contains(factors):
                return self.course_of(regime)
        raise OutsideDomain(
            f"{self.derived.origin}: B={shape.batch:,}, L={shape.context_tokens:,}"
            + (f" in chunks of {shape.chunk_tokens:,}" if shape.chunk_tokens else "")
            + " is outside its domain ("
            + "; ".join(r.domain.label for r in self.derived.regimes if r.call == call)
            + ")"
        )

    def course_of(self, regime: Regime) -> Course:
        """The steps of a regime of this program."""
        if id(regime) not in self._courses:
            self._courses[id(regime)] = _course(self.derived, regime)
        return self._courses[id(regime)]

    def sizes(self, call: Call, shape: Shape, course: Course, multiprocessors: int | None = None) -> list[int]:
        """Bytes of every request of a call; of the accumulators of flash attention none if no card is given."""
        factors = shape_factors(call, shape)
        row = np.array([_product(column, factors) for column in course.regime.columns], dtype=np.int64)
        sizes: list[int] = (course.matrix @ row).tolist()
        if course.parts:
            parts = 0
            if multiprocessors is not None:
                causal = call in ("whole", "first") and factors["T"] > 1
                heads = self.derived.heads
                found = splits(heads, factors["B"], factors["T"], factors["E"], causal, multiprocessors)
                parts = found if found > 1 else 0
            for request in course.parts:
                sizes[request] *= parts
        return sizes

    def requested(
        self, batch: int, context_tokens: int, chunk_tokens: int = 0, multiprocessors: int | None = None
    ) -> tuple[int, int]:
        """Requested bytes at the peak and after the phase, without the libraries' workspace."""
        peak = held = 0
        for call, shape in calls_at(self.derived.phase, batch, context_tokens, chunk_tokens):
            live, start = self.live(call, shape, multiprocessors)
            peak, held = max(peak, int(live[start:].max())), int(live[-1])
        return peak, held

    def peak_bytes(self, batch: int, context_tokens: int, chunk_tokens: int = 0) -> int:
        """Requested bytes at the peak, without workspace and the accumulators of flash attention."""
        return self.requested(batch, context_tokens, chunk_tokens)[0]

    def held_bytes(self, batch: int, context_tokens: int, chunk_tokens: int = 0) -> int:
        """Requested bytes after the phase, without the libraries' workspace."""
        return self.requested(batch, context_tokens, chunk_tokens)[1]

    def live(self, call: Call, shape: Shape, multiprocessors: int | None = None) -> tuple[Ints, int]:
        """Bytes alive after each step of a call, weights included, and the step from which the phase's peak counts."""
        course = self.course(call, shape)
        sizes = np.array(self.sizes(call, shape, course, multiprocessors), dtype=np.int64)
        change = np.where(course.begins >= 0, sizes[course.begins], 0)
        change = change - np.where(course.ends >= 0, sizes[course.begins[course.ends]], 0)
        return self.derived.build.resident_bytes + np.cumsum(change), max(course.regime.prepared - 1, 0)

    def run(
        self,
        device: Device,
        batch: int,
        context_tokens: int,
        chunk_tokens: int = 0,
        capacity_bytes: int | None = None,
    ) -> Ran | OutOfRoom:
        """The phase on a card whose driver has so much to give, ``None`` for without end.

        It begins as the harness begins it: the model is built, inputs and cache are made, the cache of free blocks is
        emptied. The peaks are those since then.
        """
        built = self._build(device, capacity_bytes)
        if isinstance(built, AllocationFailure):
            return OutOfRoom(during="build", calls=0, failure=built, origin=None)
        own = built.copy(capacity_bytes)
        for number, (course, pieces, sizes) in enumerate(self._calls(device, batch, context_tokens, chunk_tokens)):
            if (failed := self._call(own, course, pieces, sizes, number)) is not None:
                return failed
        return Ran(peak=own.peak, retries=own.retries)

    def calls_held(
        self, device: Device, batch: int, context_tokens: int, chunk_tokens: int, capacity_bytes: int | None
    ) -> tuple[int, int]:
        """How many of the phase's calls are carried out in a memory of that size, and how many there are.

        What :meth:`run` says, without saying why; with the default rules, in a tenth of the time.
        """
        count = len(list(calls_at(self.derived.phase, batch, context_tokens, chunk_tokens)))
        if device.rules != "default":
            ran = self.run(device, batch, context_tokens, chunk_tokens, capacity_bytes)
            return (count if isinstance(ran, Ran) else ran.calls), count
        if isinstance(self._build(device, capacity_bytes), AllocationFailure):
            return 0, count
        ended = self.ended(device, batch, context_tokens, chunk_tokens, capacity_bytes)
        return (count if ended is None else ended.call), count

    def ended(
        self, device: Device, batch: int, context_tokens: int, chunk_tokens: int, capacity_bytes: int | None
    ) -> "Ended | None":
        """Where the phase ends that a memory of that size, which the model itself fits, has no room for.

        What :meth:`run` says of the failing request, by the default rules and in a tenth of the time; ``None`` if it
        comes to its end.
        """
        from vram_ledger.analysis.allocation.compiled import Room  # numba, which one answer has no need of

        built = self._build(device, capacity_bytes)
        assert isinstance(built, CachingAllocator), "a model that does not fit has no phases"
        if id(built) not in self._rooms:
            self._rooms[id(built)] = Room(built)
        calls = [
            (pieces, np.array(sizes)) for _, pieces, sizes in self._calls(device, batch, context_tokens, chunk_tokens)
        ]
        return self._rooms[id(built)].ended(calls, capacity_bytes)

    def holds_model(self, device: Device, capacity_bytes: int) -> bool:
        """Whether the model itself can be built in so much memory."""
        return isinstance(self._build(device, capacity_bytes), CachingAllocator)

    def held_by_model(self, device: Device) -> int:
        """What the allocator holds for the model itself, workspace included: allocated bytes before any call."""
        built = self._build(device, None)
        assert isinstance(built, CachingAllocator), "a driver without end refuses nothing"
        return built.held.allocated_bytes

    def _calls(
        self, device: Device, batch: int, context_tokens: int, chunk_tokens: int
    ) -> Iterator[tuple[Course, tuple[Ints, ...], list[int]]]:
        """Of every call its steps, a piece up to each release of the cache, and the sizes of its requests."""
        alive: list[int] = []
        ranks: dict[int, tuple[str, ...]] = {}
        requests = 0
        for call, shape in calls_at(self.derived.phase, batch, context_tokens, chunk_tokens):
            course = self.course(call, shape)
            alive.sort(key=lambda n: (ranks[n], n))
            own = self._numbered_after(course, len(alive))
            pieces, left = in_full(own, course.regime, rounds_of(course.regime, shape))
            made = sum(int((steps >= 0).sum()) for steps in pieces)
            numbers = np.concatenate([np.array(alive, dtype=np.int64), requests + np.arange(made)])
            if requests:  # those of the first call are numbered from 0 as they are
                pieces = tuple(np.where(steps < 0, ~numbers[np.maximum(~steps, 0)], steps) for steps in pieces)
            yield course, pieces, self.sizes(call, shape, course, device.multiprocessors)
            known = len(alive)
            alive = numbers[left].tolist()
            ranks |= {
                number: course.ranks[own.made[place - known]]
                for place, number in zip(own.left.tolist(), alive, strict=True)
                if place >= known
            }
            requests += made

    def _numbered_after(self, course: Course, alive: int) -> Numbered:
        if (id(course), alive) not in self._numbered:
            tokens, left = course.tokens[course.own :], list(range(alive))
            pieces = tuple(np.array(piece, dtype=np.int64) for piece in steps_of(tokens, left, alive))
            made = tuple(token for token in tokens if token >= 0)
            self._numbered[id(course), alive] = Numbered(
                alive=alive, pieces=pieces, made=made, left=np.array(left, dtype=np.int64)
            )
        return self._numbered[id(course), alive]

    def _call(
        self, own: CachingAllocator, course: Course, pieces: Sequence[Ints], sizes: list[int], calls: int
    ) -> OutOfRoom | None:
        """A call after so many others: the first begins with what is prepared for all."""
        for number, steps in enumerate(pieces):
            if not calls and number:
                own.empty_cache()
                own.reset_peak()
            before = own.steps
            if (failure := own.run(steps.tolist(), sizes)) is not None:
                request = int(steps[failure.step - before])
                return OutOfRoom(
                    during="cache" if not calls and not number else "forward",
                    calls=calls,
                    failure=failure,
                    origin=self.derived.origins[course.regime.requests[request][0]],
                )
        return None

    def _build(self, device: Device, capacity_bytes: int | None) -> CachingAllocator | AllocationFailure:
        """The allocator after the build, which knows no shape: one for every memory that holds it without a retry."""
        if (device, None) not in self._built:
            self._built[device, None] = self._carried_out(device, None)
        roomy = self._built[device, None]
        assert isinstance(roomy, CachingAllocator)
        if capacity_bytes is None or roomy.peak.reserved_bytes <= capacity_bytes:
            return roomy
        if (device, capacity_bytes) not in self._built:
            self._built[device, capacity_bytes] = self._carried_out(device, capacity_bytes)
        return self._built[device, capacity_bytes]

    def _carried_out(self, device: Device, capacity_bytes: int | None) -> CachingAllocator | AllocationFailure:
        build = self.derived.build
        own = allocator(device.rules, capacity_bytes, device.total_bytes)
        sizes = (device.workspace_bytes, *build.sizes[1:])
        return carried_out(own, tokens_of(build.steps), sizes) or own


def rounds_of(regime: Regime, shape: Shape) -> list[int]:
    """How many rounds each of a regime's loops has at a shape."""
    factors = shape_factors(regime.call, shape)
    row = [_product(column, factors) for column in LOOP_COLUMNS]
    return [sum(c * value for c, value in zip(loop[2:], row, strict=True)) for loop in regime.loops]


def in_full(own: Numbered, regime: Regime, rounds: Sequence[int]) -> tuple[tuple[Ints, ...], Ints]:
    """A call's steps and what is left alive with all rounds of its loops; every round beyond the third is as it was.

    What the second round of a loop or a later one made is, after the loop, what the last but one or the last has made.
    """
    if not rounds:
        return own.pieces, own.left
    *before, steps = own.pieces
    first = own.alive + sum(int((piece >= 0).sum()) for piece in before)
    born = np.concatenate([[0], np.cumsum(steps >= 0)])
    later = np.zeros(own.alive + len(own.made), dtype=np.int64)  # by how much the number of a request is larger

    def numbered(part: Ints) -> Ints:
        return np.where(part < 0, part - later[np.maximum(~part, 0)], part)

    parts, done = [], 0
    for (start, length, *_), times in zip(regime.loops, rounds, strict=True):
        begin, end, more = start - regime.prepared, start - regime.prepared + ROUNDS * length, times - ROUNDS
        parts.append(numbered(steps[done:end]))
        made = int(born[begin + length] - born[begin])
        again, shift = np.tile(parts[-1][-length:], more), np.repeat(np.arange(1, more + 1) * made, length)
        parts.append(np.where(again < 0, again - shift, again))
        later[first + int(born[begin]) + made :] += more * made
        done = end
    parts.append(numbered(steps[done:]))
    return (*before, np.concatenate(parts)), own.left + later[own.left]


def shape_of(workload: Workload) -> tuple[int, int, int]:
    """Batch, context and chunk of a workload, as a program is asked for them; a decode step has no chunks."""
    chunk = workload.configuration.prefill_chunk_tokens if workload.phase == "prefill" else 0
    return workload.batch, workload.context_tokens, chunk


def _course(derived: Derived, regime: Regime) -> Course:
    tokens = tokens_of(regime.steps)
    begins, ends = np.full(len(tokens), -1, dtype=np.int64), np.full(len(tokens), -1, dtype=np.int64)
    alive: list[int] = []
    for step, token in enumerate(tokens):
        if token >= 0:
            begins[step] = token
            alive.append(step)
        elif token != RELEASE:
            ends[step] = alive.pop(token)
    return Course(
        regime=regime,
        tokens=tokens,
        own=regime.prepared if regime.call == "later" else 0,
        matrix=np.array([request[1:] for request in regime.requests], dtype=np.int64),
        parts=tuple(n for n, request in enumerate(regime.requests) if derived.origins[request[0]].op == UNSOLVED),
        begins=begins,
        ends=ends,
        ranks=tuple(derived.origins[request[0]].rank for request in regime.requests),
    )


def _product(column: tuple[str, ...], factors: dict[str, int]) -> int:
    value = 1
    for factor in column:
        value *= factors[factor]
    return value
