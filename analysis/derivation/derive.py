"""Derives the formula of one phase of one configuration from replays: regimes, forms, ledgers.

A kind of call (forms.py) has two axes: the batch and a number that stands for tokens. Regimes are ranges of
both; each is replayed at its corners, its probes and some shapes in general position, all of which must have one
sequence of events and be met to the byte. What is not met is refused, with the shape.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vram_ledger.analysis.derivation.derived import Build, Derived, Regime, derived_key
from vram_ledger.analysis.derivation.forms import (
    MASK_TOKENS,
    MOST_CONTEXT_TOKENS,
    Call,
    Domain,
    Ints,
    Shape,
    calls_of,
    columns_of,
    design,
)
from vram_ledger.analysis.derivation.maxima import Space
from vram_ledger.analysis.derivation.groups import any_layer
from vram_ledger.analysis.derivation.pieces import UNSOLVED, NotDerived, Tables, built, factors_at, regime_of, solve_regime
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
from vram_ledger.harness.events import STANDING, Allocation, EventLog, alive
from vram_ledger.harness.records import Configuration, Phase, Workload
from vram_ledger.harness.splits import Heads

REFUSED_BY_TORCH = "canUse32BitIndexMath"
CORNERS = 8  # at most, of a domain
CHECKS = 4  # logs of a regime that the solve does not need
MOST_TOKENS = 2**22  # of all sequences: beyond any card
REPLAYED_CHUNKS = 4  # calls of a chunked prefill that are replayed, beside a last one
PROBE = Shape(batch=2, context_tokens=1000)


class Program:
    """One phase of one configuration: its logs, each replayed once, whole or one call of it."""

    def __init__(self, replays: Replays, configuration: Configuration, phase: Phase) -> None:
        self._replays = replays
        self.configuration = configuration
        self.phase: Phase = phase
        self.chunk = configuration.prefill_chunk_tokens
        self._logs: dict[Shape, EventLog] = {}
        self._calls: dict[tuple[Call, Shape], tuple[EventLog, str]] = {}

    def workload(self, shape: Shape) -> Workload:
        """The workload of a shape."""
        return Workload(
            configuration=self.configuration,
            phase=self.phase,
            context_tokens=shape.context_tokens,
            batch=shape.batch,
        )

    def whole(self, shape: Shape) -> EventLog:
        """The log of the workload of that shape, of the program's own tensors alone.

        Weights and workspace are the build's. Into how many parts flash attention splits the keys hangs on the number
        of multiprocessors and is no form of the shape: their accumulators are put back where they were taken out
        (:func:`analysis.derivation.pieces.with_accumulators`).
        """
        if shape not in self._logs:
            self._logs[shape] = without(self._replays.log(self.workload(shape)), (*STANDING, UNSOLVED))
        return self._logs[shape]

    def build(self) -> Build:
        """What building the model asks of the allocator."""
        workload = self.workload(PROBE)
        return built(self._replays.built(workload), self._replays.log(workload))

    def call(self, call: Call, shape: Shape) -> tuple[EventLog, str]:
        """The log of the call of that kind within the workload of that shape, and its signature."""
        if (call, shape) not in self._calls:
            log = self.whole(shape)
            if call in ("first", "full", "last"):
                log = call_log(log, _call_number(call, self.chunk, shape.context_tokens))
            self._calls[call, shape] = log, signature(log)
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


def _call_number(call: Call, chunk: int, context_tokens: int) -> int:
    if call == "first":
        return 1
    return context_tokens // chunk if call == "full" else -(-context_tokens // chunk)


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
    """The second axis of a kind of call. padded: only cached tokens that are (no) multiple of 8; ``None``: all."""

    call: Call
    chunk: int
    padded: bool | None

    def probes(self) -> tuple[int, ...]:
        """The numbers that are probed."""
        if self.call in ("first", "full"):
            return (1,)
        most = self.chunk if self.call == "last" or self.chunk else MOST_CONTEXT_TOKENS
        tokens = sorted({t for t in (*PROBED_TOKENS, most) if t <= most})
        if self.padded is None:
            return tuple(tokens)
        least = 1 if self.call == "decode" and self.padded else 0
        numbers = {number_of(t + (self.call == "decode"), self.padded) for t in tokens}
        return tuple(sorted(n for n in numbers if n >= least))

    def tokens(self, number: int) -> int:
        """Tokens of the context, or of the last call, that a number stands for."""
        return number if self.padded is None else with_mask(number, self.padded) - (self.call == "decode")

    def shape(self, batch: int, number: int) -> Shape:
        """The smallest workload with such a call."""
        context = {"first": self.chunk + 1, "full": 2 * self.chunk + 1, "last": self.chunk + self.tokens(number)}
        return Shape(batch=batch, context_tokens=context.get(self.call, self.tokens(number)))

    def domain(self, batches: tuple[int, int], numbers: tuple[int, int]) -> Domain:
        """The shapes that two ranges stand for."""
        tokens = (self.tokens(numbers[0]), self.tokens(numbers[1]))
        contexts = {"first": self.chunk + 1, "full": 2 * self.chunk + 1, "last": self.chunk + 1}
        if self.call in contexts:
            limits = (contexts[self.call], MOST_CONTEXT_TOKENS)
            fed = tokens if self.call == "last" else (self.chunk, self.chunk)
            return Domain(batches=batches, contexts=limits, tokens=fed, padded_mask=self.padded)
        fed = (1, 1) if self.call == "decode" else tokens
        return Domain(batches=batches, contexts=tokens, tokens=fed, padded_mask=self.padded)


def check_derivable(configuration: Configuration) -> None:
    """:class:`NotDerived` for a configuration of which it is known, before any replay, that it is replay only."""
    if configuration.kernels == "torch":
        raise NotDerived(
            "the torch reference loops over chunks in Python, so its number of operations depends on the shape: "
            "replay only (`vram-ledger log`)"
        )
    if configuration.prefill_chunk_tokens % MASK_TOKENS:
        raise NotDerived(f"a chunk that is no multiple of {MASK_TOKENS} tokens is not folded: replay only")


def derive(replays: Replays, configuration: Configuration, phase: Phase, heads: Heads) -> Derived:
    """The program of a model with these heads; :class:`NotDerived` or :class:`NotReplayed` with the shape at which it can't be had."""
    check_derivable(configuration)
    program = Program(replays, configuration, phase)
    kernels = replays.kernels(program.workload(PROBE))
    tables = Tables(heads=heads, build=program.build())
    regimes = tuple(r for call in calls_of(phase, program.chunk) for r in _call_regimes(program, call, tables))
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
        lines=tuple(tables.lines),
        regimes=regimes,
    )


def _call_regimes(program: Program, call: Call, tables: Tables) -> Iterator[Regime]:
    try:
        boxes = list(_boxes(program, Axis(call=call, chunk=program.chunk, padded=None)))
    except NoRanges:
        split = [Axis(call=call, chunk=program.chunk, padded=padded) for padded in (False, True)]
        try:
            boxes = [box for axis in split for box in _boxes(program, axis)]
        except NoRanges as error:
            raise NotDerived(f"{call} call: no few ranges of shapes have one sequence of events: {error}") from error
    for domain in boxes:
        yield _regime(program, call, domain, tables)


def _boxes(program: Program, axis: Axis) -> Iterator[Domain]:
    """The ranges of tokens and, for each, those of the batch."""
    for numbers in ranges(lambda n: program.call(axis.call, axis.shape(PROBE.batch, n))[1], axis.probes()):
        middle = int((max(numbers[0], 1) * max(numbers[1], 1)) ** 0.5)
        at = min(max(middle, numbers[0]), numbers[1])
        for batches in ranges(lambda b, at=at: program.call(axis.call, axis.shape(b, at))[1], PROBED_BATCHES):  # type: ignore[misc]
            yield axis.domain(batches, numbers)


def _regime(program: Program, call: Call, domain: Domain, tables: Tables) -> Regime:
    columns = columns_of(call, program.configuration.cache)
    space = Space(call=call, chunk=program.chunk, domain=domain, columns=columns)
    shapes = _shapes(program, space)
    if not shapes:
        raise NotDerived(f"{program.phase}, {call} call, {domain.label}: no shape of it runs")
    replayed = [program.call(call, shape) for shape in shapes]
    for shape, (_, kind) in zip(shapes, replayed, strict=True):
        if kind != replayed[0][1]:
            raise NotDerived(
                f"{program.phase}, {call} call, {domain.label}: the sequence of events at B={shape.batch}, "
                f"L={shape.context_tokens:,} is not that at B={shapes[0].batch}, L={shapes[0].context_tokens:,}"
            )
    solved = solve_regime(space, shapes, [log for log, _ in replayed])
    regime = regime_of(space, domain, solved, len(shapes), call != "first" and call != "full", tables)
    _check_growth(regime)
    return regime


def _check_growth(regime: Regime) -> None:
    """A full call stands for all before it, which have fewer tokens cached: none of its pieces may fall with them."""
    if regime.call != "full":
        return
    for piece in regime.peak:
        for value, column in zip(piece.coefficients, regime.columns, strict=True):
            if value < 0 and {"E", "⌈E/8⌉"} & set(column):
                raise NotDerived(f"a full call's bytes fall with the tokens cached: {piece.op} at {piece.source}")


def _shapes(program: Program, space: Space) -> list[Shape]:
    """Shapes to replay: those already seen, and as many in general position as tell all columns apart, plus checks."""
    pool = _candidates(space)
    seen = [s for s in program.seen(space.call) if _inside(space, [s])]
    corners = [s for s in pool[:CORNERS] if s not in seen and program.runs(space.call, s)]
    chosen = [*seen, *corners]
    wanted = len(pivot_rows_and_columns(_design(space, pool))[1])
    for shape in pool[CORNERS:]:
        have = len(pivot_rows_and_columns(_design(space, chosen))[1])
        if have == wanted and len(chosen) >= wanted + CHECKS:
            break
        more = len(pivot_rows_and_columns(_design(space, [*chosen, shape]))[1]) > have
        if shape not in chosen and (have == wanted or more) and program.runs(space.call, shape):
            chosen.append(shape)
    return chosen


def _candidates(space: Space) -> list[Shape]:
    """The corners of the domain (eight shapes, some of them the same), then shapes drawn from all over it."""
    domain = space.domain
    most = domain.contexts[1]
    if space.call in ("first", "full", "last"):
        most = min(most, REPLAYED_CHUNKS * space.chunk + space.chunk // 2)
    small = Domain(
        batches=domain.batches,
        contexts=(domain.contexts[0], most),
        tokens=domain.tokens,
        padded_mask=domain.padded_mask,
    )
    drawn = Space(call=space.call, chunk=space.chunk, domain=small, columns=space.columns).samples(300, seed=64)
    shapes = [Shape(batch=int(b), context_tokens=int(c)) for b, c in dict.fromkeys(map(tuple, drawn.tolist()))]
    return [s for s in shapes if s.batch * s.context_tokens <= MOST_TOKENS]


def _inside(space: Space, shapes: list[Shape]) -> bool:
    return bool(space.domain.contains(factors_at(space, shapes)).all())


def _design(space: Space, shapes: list[Shape]) -> Ints:
    return design(space.columns, factors_at(space, shapes))
