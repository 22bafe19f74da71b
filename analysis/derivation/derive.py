"""Derives the program of one phase of one configuration from runs on an emulated card.

A kind of call (forms.py) has two axes: the batch and a number that stands for tokens. Regimes are ranges of
both; each is run at its corners, its probes and some shapes in general position, all of which must have one
sequence of events and be met to the byte. What is not met is refused, with the shape.
"""

import dataclasses
import itertools
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from vram_ledger.analysis.derivation.derived import Build, Derived, Regime, derived_key
from vram_ledger.analysis.derivation.forms import (
    CHUNK_TOKENS,
    MASK_TOKENS,
    MOST_CONTEXT_TOKENS,
    MOST_TOKENS,
    ROUND_COLUMNS,
    Call,
    Domain,
    Ints,
    Shape,
    calls_of,
    columns_of,
    design,
    shape_factors,
)
from vram_ledger.analysis.derivation.groups import any_layer
from vram_ledger.analysis.derivation.loops import Loop, shortened
from vram_ledger.analysis.derivation.regimes import (
    PROBED_BATCHES,
    PROBED_TOKENS,
    NoRanges,
    number_of,
    ranges,
    signature,
    with_mask,
)
from vram_ledger.analysis.derivation.replays import NotReplayed, Replays
from vram_ledger.analysis.derivation.solve import pivot_rows_and_columns
from vram_ledger.analysis.derivation.solved import NotDerived, Tables, built, factors_at, regime_of, solve_regime
from vram_ledger.harness.events import STANDING, Allocation, EventLog, alive
from vram_ledger.harness.records import Configuration, Phase, Workload
from vram_ledger.harness.splits import UNSOLVED, Heads

REFUSED_BY_TORCH = "canUse32BitIndexMath"
CHECKS = 4  # logs of a regime that the solve does not need
MOST_CHUNK_TOKENS = 65_536
MOST_LOOPED_TOKENS = 32_768  # of the torch reference: a million events
MOST_LOSS_TOKENS = 2**18  # of all sequences: the loss takes ten bytes for each of 248,320 logits, a card has 2 TB
MOST_CALLS = 4  # of a chunked prefill that is run
DRAWS, MOST_DRAWN = 3000, 300
PROBE = Shape(batch=2, context_tokens=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """One call: its log, the loops that are shortened in it, and what is the same within a regime."""

    log: EventLog
    loops: tuple[Loop, ...]
    kind: str


class Runs:
    """One phase of one configuration: its logs, each run once, whole or one call of it."""

    def __init__(self, replays: Replays, configuration: Configuration, phase: Phase) -> None:
        self._replays = replays
        self.configuration = configuration
        self.phase: Phase = phase
        self._logs: dict[Shape, tuple[EventLog, tuple[Loop, ...]]] = {}
        self._calls: dict[tuple[Call, Shape], Called] = {}

    def workload(self, shape: Shape) -> Workload:
        """The workload of a shape."""
        return Workload(
            configuration=dataclasses.replace(self.configuration, prefill_chunk_tokens=shape.chunk_tokens),
            phase=self.phase,
            context_tokens=shape.context_tokens,
            batch=shape.batch,
        )

    def whole(self, shape: Shape) -> tuple[EventLog, tuple[Loop, ...]]:
        """The log of the workload of that shape, of the program's own tensors alone, and its loops, shortened in it.

        Weights and workspace are the build's. Into how many parts flash attention splits the keys hangs on the number
        of multiprocessors and is no form of the shape: their accumulators are put back where they were taken out
        (:func:`analysis.derivation.solved.with_accumulators`).
        """
        whole = dataclasses.replace(shape, call=1)
        if whole not in self._logs:
            log = without(self._replays.log(self.workload(shape)), (*STANDING, UNSOLVED))
            self._logs[whole] = shortened(log) if self.configuration.kernels == "torch" else (log, ())
        return self._logs[whole]

    def build(self) -> Build:
        """What building the model asks of the allocator."""
        workload = self.workload(PROBE)
        return built(self._replays.built(workload), self._replays.log(workload))

    def call(self, call: Call, shape: Shape) -> Called:
        """The call of that kind within the workload of that shape."""
        if (call, shape) not in self._calls:
            log, loops = self.whole(shape)
            if call in ("first", "later"):
                log = call_log(log, shape.call)  # of fla's kernels, which have no loops (forms.calls_of)
            places = [(loop.start, loop.length) for loop in loops]
            self._calls[call, shape] = Called(log=log, loops=loops, kind=signature(log) + repr(places))
        return self._calls[call, shape]

    def runs(self, call: Call, shape: Shape) -> bool:
        """Whether the program runs at a shape at all: PyTorch's kernels refuse a few (``canUse32BitIndexMath``)."""
        try:
            self.call(call, shape)
        except NotReplayed as error:
            if REFUSED_BY_TORCH not in str(error):
                raise
            return False
        return True

    def seen(self, call: Call) -> tuple[Shape, ...]:
        """The shapes at which a kind of call was looked at so far."""
        return tuple(shape for known, shape in self._calls if known == call)

    @property
    def most_tokens(self) -> int:
        """Of all sequences, in a shape that is run."""
        return MOST_LOSS_TOKENS if self.configuration.logits == "loss" else MOST_TOKENS


def without(log: EventLog, ops: Collection[str]) -> EventLog:
    """The log as if those ops had made nothing."""
    dropped = sorted(e for a in log.allocations if a.op in ops for e in (a.born, a.died) if e is not None)
    if not dropped:
        return log

    def at(event: int) -> int:
        return event - bisect_left(dropped, event)

    return EventLog(
        allocations=tuple(
            dataclasses.replace(a, born=at(a.born), died=None if a.died is None else at(a.died))
            for a in log.allocations
            if a.op not in ops
        ),
        events=log.events - len(dropped),
        marks={name: at(event) for name, event in log.marks.items()},
    )


def call_log(log: EventLog, number: int) -> EventLog:
    """One call of a log as a log of its own: what is alive before it is born first.

    It comes by origin: in which order the calls before made it is of no account.
    """
    start, end = log.marks[f"call {number}"], log.marks.get(f"call {number + 1}", log.marks["end"])
    before = sorted(alive(log, start - 1), key=_origin)
    shift = len(before) - start
    within = [a for a in log.allocations if start <= a.born < end]
    return EventLog(
        allocations=tuple(_moved(a, born, shift, end) for born, a in enumerate(before))
        + tuple(_moved(a, a.born + shift, shift, end) for a in within),
        events=len(before) + end - start,
        marks={"start": len(before), "end": len(before) + end - start},
    )


def _origin(a: Allocation) -> tuple[object, ...]:
    return any_layer(a.module), a.source, a.op, a.dtype, a.born


def _moved(a: Allocation, born: int, shift: int, end: int) -> Allocation:
    died = None if a.died is None or a.died >= end else a.died + shift
    return Allocation(
        born=born, died=died, bytes=a.bytes, shape=a.shape, dtype=a.dtype, op=a.op, module=a.module, source=a.source
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The second axis of a kind of call: the tokens that it feeds, or, of a decode step, that are cached before.

    padded: only those that are (no) multiple of the unit, as then the cached tokens are; ``None``: all. most_tokens: of
    a context.
    """

    call: Call
    padded: bool | None
    most_tokens: int
    unit: int = MASK_TOKENS

    def probes(self) -> tuple[int, ...]:
        """The numbers that are probed."""
        most = min(self.most_tokens, MOST_CHUNK_TOKENS) if self.call in ("first", "later") else self.most_tokens
        tokens = sorted({t for t in (*PROBED_TOKENS, most) if t <= most})
        if self.call == "first":
            return tuple(t for t in tokens if t % MASK_TOKENS == 0)
        if self.padded is None:
            return tuple(tokens)
        least = 1 if self.call == "decode" and self.padded else 0
        numbers = {number_of(t + (self.call == "decode"), self.padded, self.unit) for t in tokens}
        return tuple(sorted(n for n in numbers if n >= least))

    def tokens(self, number: int) -> int:
        """Tokens that a number stands for."""
        return number if self.padded is None else with_mask(number, self.padded, self.unit) - (self.call == "decode")

    def shape(self, batch: int, number: int) -> Shape:
        """The smallest workload with such a call."""
        tokens = self.tokens(number)
        if self.call == "first":
            return Shape(batch=batch, context_tokens=tokens + 1, chunk_tokens=tokens)
        if self.call == "later":
            chunk = -(-tokens // MASK_TOKENS) * MASK_TOKENS
            return Shape(batch=batch, context_tokens=chunk + tokens, chunk_tokens=chunk, call=2)
        return Shape(batch=batch, context_tokens=tokens)

    def domain(self, batches: tuple[int, int], numbers: tuple[int, int]) -> Domain:
        """The shapes that two ranges stand for."""
        tokens = (self.tokens(numbers[0]), self.tokens(numbers[1]))
        contexts = (1, self.most_tokens) if self.call in ("first", "later") else tokens
        fed = (1, 1) if self.call == "decode" else tokens
        return Domain(batches=batches, contexts=contexts, tokens=fed, padded_mask=self.padded, unit=self.unit)


def check_derivable(configuration: Configuration) -> None:
    """:class:`NotDerived` for a configuration of which it is known, before any replay, that it is replay only."""
    if configuration.prefill_chunk_tokens:
        raise NotDerived("a prefill is derived with its calls in chunks of any size: name the variant without chunk")


def derive(replays: Replays, configuration: Configuration, phase: Phase, heads: Heads) -> Derived:
    """The program of a model with these heads; :class:`NotDerived` or :class:`NotReplayed` with the shape at which it
    can't be had."""
    check_derivable(configuration)
    runs = Runs(replays, configuration, phase)
    kernels = replays.kernels(runs.workload(PROBE))
    tables = Tables(heads=heads, build=runs.build())
    regimes = tuple(r for call in calls_of(configuration, phase) for r in _call_regimes(runs, call, tables))
    return Derived(
        name="",
        key=derived_key(replays.environment, configuration, phase, kernels),
        environment=replays.environment,
        configuration=configuration,
        phase=phase,
        kernels=kernels,
        heads=heads,
        build=tables.build,
        origins=tuple(tables.origins),
        regimes=regimes,
    )


def _call_regimes(runs: Runs, call: Call, tables: Tables) -> Iterator[Regime]:
    looped = runs.configuration.kernels == "torch" and call != "decode"
    axis = Axis(call=call, padded=None, most_tokens=MOST_LOOPED_TOKENS if looped else MOST_CONTEXT_TOKENS)
    try:
        boxes = list(_boxes(runs, axis))
    except NoRanges:
        unit = CHUNK_TOKENS if looped else MASK_TOKENS
        split = [dataclasses.replace(axis, padded=padded, unit=unit) for padded in (False, True)]
        try:
            boxes = [box for axis in split for box in _boxes(runs, axis)]
        except NoRanges as error:
            raise NotDerived(f"{call} call: no few ranges of shapes have one sequence of events: {error}") from error
    for domain in boxes:
        yield _regime(runs, call, domain, tables)


def _boxes(runs: Runs, axis: Axis) -> Iterator[Domain]:
    """The ranges of tokens and, for each, those of the batch."""
    for numbers in ranges(lambda n: runs.call(axis.call, axis.shape(PROBE.batch, n)).kind, axis.probes()):
        middle = int((max(numbers[0], 1) * max(numbers[1], 1)) ** 0.5)
        most = runs.most_tokens // max(PROBED_BATCHES) if axis.call == "whole" else numbers[1]
        at = max(min(max(middle, numbers[0]), numbers[1], most), numbers[0])
        if axis.call == "first":
            at = at // MASK_TOKENS * MASK_TOKENS
        for batches in ranges(lambda b, at=at: runs.call(axis.call, axis.shape(b, at)).kind, PROBED_BATCHES):  # type: ignore[misc]
            yield axis.domain(batches, numbers)


def _regime(runs: Runs, call: Call, domain: Domain, tables: Tables) -> Regime:
    columns = ROUND_COLUMNS if domain.has_whole_chunks else columns_of(call, runs.configuration.cache)
    shapes = _shapes(runs, call, domain, columns)
    if not shapes:
        raise NotDerived(f"{runs.phase}, {call} call, {domain.label}: no shape of it runs")
    replayed = [runs.call(call, shape) for shape in shapes]
    for shape, called in zip(shapes, replayed, strict=True):
        if called.kind != replayed[0].kind:
            raise NotDerived(
                f"{runs.phase}, {call} call, {domain.label}: the sequence of events at {_named(shape)} is not that at "
                f"{_named(shapes[0])}"
            )
    logs, loops = [called.log for called in replayed], [called.loops for called in replayed]
    return regime_of(solve_regime(call, domain, columns, shapes, logs, loops), tables)


def _named(shape: Shape) -> str:
    chunked = f" in chunks of {shape.chunk_tokens:,}, call {shape.call}" if shape.chunk_tokens else ""
    return f"B={shape.batch}, L={shape.context_tokens:,}{chunked}"


def _shapes(runs: Runs, call: Call, domain: Domain, columns: tuple[tuple[str, ...], ...]) -> list[Shape]:
    """Shapes to run: those already seen, and as many in general position as tell all columns apart, plus checks."""
    corners, others = (
        [s for s in found if s.batch * s.context_tokens <= runs.most_tokens]
        for found in (_corners(call, domain), _drawn(call, domain))
    )

    def design_of(shapes: list[Shape]) -> Ints:
        return design(columns, factors_at(call, shapes))

    seen = [s for s in runs.seen(call) if domain.contains(shape_factors(call, s))]
    chosen = [*seen, *(s for s in corners if s not in seen and runs.runs(call, s))]
    wanted = len(pivot_rows_and_columns(design_of([*corners, *others]))[1])
    for shape in others:
        have = len(pivot_rows_and_columns(design_of(chosen))[1]) if chosen else 0
        if have == wanted and len(chosen) >= wanted + CHECKS:
            break
        more = len(pivot_rows_and_columns(design_of([*chosen, shape]))[1]) > have
        if shape not in chosen and (have == wanted or more) and runs.runs(call, shape):
            chosen.append(shape)
    return chosen


def _corners(call: Call, domain: Domain) -> list[Shape]:
    """The corners of a domain of whole phases; of a call among others the drawn shapes do."""
    if call in ("first", "later"):
        return []
    (b0, b1), (l0, l1) = domain.batches, domain.contexts
    pairs = dict.fromkeys(itertools.product((b0, b1), (l0, min(l0 + 1, l1), max(l1 - 1, l0), l1)))
    shapes = [Shape(batch=b, context_tokens=c) for b, c in pairs]
    return [s for s in shapes if _is_within(call, domain, s)]


def _is_within(call: Call, domain: Domain, shape: Shape) -> bool:
    few = shape.batch * shape.context_tokens <= MOST_TOKENS and shape.context_tokens <= MOST_CONTEXT_TOKENS
    return few and bool(domain.contains(shape_factors(call, shape)))


def _drawn(call: Call, domain: Domain) -> Iterator[Shape]:
    """Shapes of a domain in general position, log-uniform."""
    chance = np.random.default_rng(64)

    def draw(low: int, high: int) -> int:
        return min(max(int(np.exp(chance.uniform(np.log(low), np.log(high + 1)))), low), high)

    found: dict[Shape, None] = {}
    for _ in range(DRAWS):
        batch = draw(*domain.batches)
        if call in ("whole", "decode"):
            shape = Shape(batch=batch, context_tokens=draw(*domain.contexts))
        else:
            tokens = draw(*domain.tokens)
            chunk = -(-(draw(tokens, 4 * tokens) if chance.random() < 0.5 else tokens) // MASK_TOKENS) * MASK_TOKENS
            number = 1 if call == "first" else int(chance.integers(2, MOST_CALLS + 1))
            last = chance.random() < 0.5 or tokens % MASK_TOKENS
            more = tokens if last and call == "later" else chunk + int(chance.integers(1, chunk + 1))
            context = (number - 1) * chunk + more
            shape = Shape(batch=batch, context_tokens=context, chunk_tokens=chunk, call=number)
        if _is_within(call, domain, shape):
            found[shape] = None
    yield from itertools.islice(found, MOST_DRAWN)
