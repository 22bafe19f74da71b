"""Which request of a program an out-of-memory message is about: the batch and context at which its figures agree.

A message gives two equations in the two unknowns of a shape: what the failing request asked for, and what was allocated
when it did. Every request of every step is tried at every batch: both grow with the context, so each equation has one
range of contexts as its answer, and where the two ranges meet is a candidate. Then the program is run in as much memory
as the message says there was, and what fails there is compared with the message.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vram_ledger.analysis.allocation.rules import block_bytes, segment_bytes
from vram_ledger.analysis.derivation.derived import Origin, OutsideDomain, Regime
from vram_ledger.analysis.derivation.forms import Shape
from vram_ledger.analysis.derivation.program import Course, Device, OutOfRoom, Program
from vram_ledger.analysis.messages.message import Message, Printed

BATCHES = range(1, 65)
MOST_ROUNDING = 0.01  # of what is allocated: what the allocator adds to the requests, at the most
ROUND_TOKENS = (8192, 4096, 1024, 512, 256, 128, 100, 64, 10, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A shape at which a request has a message's figures.

    context_tokens: where the program was seen to end so, else the roundest of those from least to most. confirmed:
    the program, run in that much memory, ends in a request with this message's figures.
    """

    batch: int
    context_tokens: int
    least_tokens: int
    most_tokens: int
    bytes: int
    confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A tensor that a message may be about, and the shapes at which it is, the roundest first."""

    origin: Origin
    phase: str
    fits: tuple[Fit, ...]

    @property
    def confirmed(self) -> int:
        """At how many batches the program ends as the message says. Of several tensors the true one has the most."""
        return sum(fit.confirmed for fit in self.fits)


def candidates(program: Program, device: Device, message: Message, batches: Sequence[int] = BATCHES) -> list[Candidate]:
    """The tensors of a program that a message fits, the likeliest first; none if it is about no tensor of it."""
    found: dict[Origin, dict[int, Fit]] = {}
    for regime in program.derived.regimes:
        if regime.call in ("whole", "decode"):
            for batch in batches:
                for origin, fit in _of_batch(program, device, regime, batch, message):
                    known = found.setdefault(origin, {}).get(batch)
                    if known is None or _rank(fit) < _rank(known):
                        found[origin][batch] = fit
    made = [
        Candidate(origin=origin, phase=program.derived.phase, fits=tuple(sorted(fits.values(), key=_rank)))
        for origin, fits in found.items()
    ]
    return sorted(made, key=lambda one: (-one.confirmed, _rank(one.fits[0])))


def _rank(fit: Fit) -> tuple[bool, int, int, int]:
    return not fit.confirmed, _roundness(fit.context_tokens), fit.batch.bit_count(), fit.batch


def _roundness(tokens: int) -> int:
    return next(place for place, unit in enumerate(ROUND_TOKENS) if tokens % unit == 0)


def _of_batch(
    program: Program, device: Device, regime: Regime, batch: int, message: Message
) -> Iterator[tuple[Origin, Fit]]:
    low, high = regime.domain.batches
    if not low <= batch <= high:
        return
    course = program.course_of(regime)
    tokens = _Contexts(program, device, course, regime, batch)
    for row in range(len(regime.requests)):
        asked = tokens.between(lambda n, row=row: tokens.segment(row, n), message.asked)  # type: ignore[misc]
        if asked is None:
            continue
        for step in np.flatnonzero(course.begins == row).tolist():
            if (both := tokens.meeting(step, asked, message.allocated)) is None:
                continue
            tried = dict.fromkeys((_roundest(*both), sum(both) // 2, *both))
            confirmed = _confirmed(program, device, batch, tuple(tried), message)
            context = next(iter(tried)) if confirmed is None else confirmed
            fit = Fit(
                batch=batch,
                context_tokens=context,
                least_tokens=both[0],
                most_tokens=both[1],
                bytes=tokens.sizes(context)[row],
                confirmed=confirmed is not None,
            )
            yield program.derived.origins[regime.requests[row][0]], fit
            break


class _Contexts:
    """A regime at one batch, by the context."""

    def __init__(self, program: Program, device: Device, course: Course, regime: Regime, batch: int) -> None:
        self._program, self._device, self._course, self._regime, self._batch = program, device, course, regime, batch
        self.least, self.most = regime.domain.contexts
        self._sizes: dict[int, list[int]] = {}
        self._live: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def sizes(self, context: int) -> list[int]:
        """Bytes of every request."""
        if context not in self._sizes:
            shape = Shape(batch=self._batch, context_tokens=context)
            self._sizes[context] = self._program.sizes(
                self._regime.call, shape, self._course, self._device.multiprocessors
            )
        return self._sizes[context]

    def segment(self, row: int, context: int) -> int:
        """What a request would ask the driver for."""
        return segment_bytes(block_bytes(self.sizes(context)[row]))

    def before(self, step: int, context: int) -> int:
        """Bytes alive before a step."""
        if context not in self._live:
            shape = Shape(batch=self._batch, context_tokens=context)
            self._live[context] = self._program.live(self._regime.call, shape, self._device.multiprocessors)[0]
        return int(self._live[context][step - 1]) + self._device.workspace_bytes

    def between(self, of: Callable[[int], int], printed: Printed) -> tuple[int, int] | None:
        """The contexts at which a growing size is in what is printed, ``None`` if there are none."""
        first = _first(lambda n: of(n) >= printed.least_bytes, self.least, self.most)
        last = _first(lambda n: of(n) > printed.most_bytes, self.least, self.most) - 1
        return (first, last) if first <= last else None

    def meeting(self, step: int, asked: tuple[int, int], allocated: Printed | None) -> tuple[int, int] | None:
        """The contexts of those at which what is allocated before a step is what the message says, too."""
        if allocated is None:
            return asked
        least = Printed(
            text=allocated.text,
            least_bytes=int(allocated.least_bytes * (1 - MOST_ROUNDING)),
            most_bytes=allocated.most_bytes,
        )
        if self.before(step, asked[0]) > least.most_bytes or self.before(step, asked[1]) < least.least_bytes:
            return None
        first = _first(lambda n: self.before(step, n) >= least.least_bytes, *asked)
        last = _first(lambda n: self.before(step, n) > least.most_bytes, *asked) - 1
        return (first, last) if first <= last else None


def _first(holds: Callable[[int], bool], least: int, most: int) -> int:
    """The first of least … most for which a thing holds that holds for all above it; most + 1 if it never does."""
    low, high = least - 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _roundest(least: int, most: int) -> int:
    for unit in ROUND_TOKENS:
        if (found := -(-least // unit) * unit) <= most:
            return found
    return least


def _confirmed(program: Program, device: Device, batch: int, contexts: Sequence[int], message: Message) -> int | None:
    """The first of these contexts at which the program ends as the message says, in as much memory as there was."""
    if message.allocated is None or message.free is None:
        return None
    if message.reserved is not None:
        reserved = message.reserved.middle_bytes
    elif message.unallocated is not None:
        reserved = message.allocated.middle_bytes + message.unallocated.middle_bytes
    else:
        return None
    for context in contexts:
        try:
            ended = program.run(device, batch, context, capacity_bytes=reserved + message.free.middle_bytes)
        except OutsideDomain:
            continue
        if (
            isinstance(ended, OutOfRoom)
            and message.asked.has(ended.failure.asked_bytes)
            and message.allocated.has(ended.failure.held.allocated_bytes)
        ):
            return context
    return None
