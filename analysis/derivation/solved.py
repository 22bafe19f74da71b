"""From the logs of one regime to its program: sizes solved, origins collected, births and deaths in order."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vram_ledger.analysis.allocation.steps import RELEASE, coded, folded
from vram_ledger.analysis.derivation.derived import Build, Origin, Regime
from vram_ledger.analysis.derivation.forms import (
    LOOP_COLUMNS,
    ROUND_COLUMNS,
    Call,
    Domain,
    Ints,
    Shape,
    column_label,
    design,
    factor_label,
    shape_factors,
)
from vram_ledger.analysis.derivation.groups import any_layer, group_of
from vram_ledger.analysis.derivation.loops import Loop
from vram_ledger.analysis.derivation.solve import NotAForm, Solver
from vram_ledger.errors import Refused
from vram_ledger.harness.events import EventLog
from vram_ledger.harness.splits import SPLITTING, UNSOLVED, Heads, accumulated_dim

DIMENSION_COLUMNS: tuple[tuple[str, ...], ...] = (
    (), ("L",), ("B",), ("T",), ("E",), ("⌈T/64⌉",), ("⌈E/8⌉",), ("B", "L"), ("B", "T"), ("B", "⌈T/64⌉"), ("B", "E"),
    ("B", "⌈E/8⌉"), ("T", "E"), ("B", "T", "E"),
)  # fmt: skip


class NotDerived(Refused):
    """A program that has no form to the byte within a domain; the message names the shape that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """One regime's program: its allocations, and each one's bytes as a row of coefficients. loops: as of a regime."""

    call: Call
    domain: Domain
    columns: tuple[tuple[str, ...], ...]
    log: EventLog
    loops: tuple[tuple[int, ...], ...]
    sizes: Ints
    shapes: tuple[str, ...]
    logs: int
    checks: int


def solve_regime(
    call: Call,
    domain: Domain,
    columns: tuple[tuple[str, ...], ...],
    shapes: Sequence[Shape],
    logs: Sequence[EventLog],
    loops: Sequence[tuple[Loop, ...]],
) -> Solved:
    """Coefficients of every allocation of logs whose sequences agree; :class:`NotDerived` if a size has none."""
    factors = factors_at(call, shapes)
    solver = Solver(design(columns, factors))
    sizes = np.array([[a.bytes for a in log.allocations] for log in logs], dtype=np.int64)
    try:
        solved = solver.coefficients(sizes)
    except NotAForm as error:
        raise NotDerived(
            f"{domain.label}: the sizes at {_named(shapes)} are no whole combination of "
            f"{', '.join(column_label(c, call) for c in columns)}: {error}"
        ) from error
    return Solved(
        call=call,
        domain=domain,
        columns=columns,
        log=logs[0],
        loops=_rounds(factors, loops),
        sizes=solved,
        shapes=_shape_texts(call, ROUND_COLUMNS if domain.has_whole_chunks else DIMENSION_COLUMNS, factors, logs),
        logs=len(logs),
        checks=solver.checks,
    )


def _rounds(factors: dict[str, Ints], loops: Sequence[tuple[Loop, ...]]) -> tuple[tuple[int, ...], ...]:
    """Of every loop where it starts, how long a round is, and the coefficients of their number."""
    if not loops[0]:
        return ()
    solver = Solver(design(LOOP_COLUMNS, factors))
    try:
        counts = solver.coefficients(np.array([[loop.rounds for loop in found] for found in loops], dtype=np.int64))
    except NotAForm as error:
        raise NotDerived(f"the rounds of a loop are no form of ⌈T/64⌉: {error}") from error
    return tuple((loop.start, loop.length, *row.tolist()) for loop, row in zip(loops[0], counts, strict=True))


def factors_at(call: Call, shapes: Sequence[Shape]) -> dict[str, Ints]:
    """The factors of the regime's call at these shapes."""
    rows = [shape_factors(call, shape) for shape in shapes]
    return {name: np.array([row[name] for row in rows], dtype=np.int64) for name in rows[0]}


def _named(shapes: Sequence[Shape]) -> str:
    return ", ".join(f"({s.batch}, {s.context_tokens:,})" for s in shapes)


def _shape_texts(
    call: Call, columns: tuple[tuple[str, ...], ...], factors: dict[str, Ints], logs: Sequence[EventLog]
) -> tuple[str, ...]:
    """Each allocation's first shape as an expression, or as the numbers of the first log where it has none."""
    solver = Solver(design(columns, factors))
    known: dict[tuple[tuple[int, ...], ...], str] = {}

    def text(seen: tuple[tuple[int, ...], ...]) -> str:
        try:
            rows = solver.coefficients(np.array(seen, dtype=np.int64).reshape(len(seen), -1))
        except (NotAForm, ValueError):
            return f"({', '.join(map(str, seen[0]))}) at the first shape replayed"
        return f"({', '.join(_dimension(row, columns, call) for row in rows)})"

    texts = []
    for index in range(len(logs[0].allocations)):
        seen = tuple(log.allocations[index].shape for log in logs)
        if seen not in known:
            known[seen] = text(seen)
        texts.append(known[seen])
    return tuple(texts)


def _dimension(row: Ints, columns: tuple[tuple[str, ...], ...], call: Call) -> str:
    terms = []
    for value, column in zip(row.tolist(), columns, strict=True):
        if value:
            label = "·".join(factor_label(f, call) for f in column)
            terms.append(label if value == 1 and column else f"{value}·{label}" if column else str(value))
    return " + ".join(terms) or "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What all regimes of a program share: its heads, its build, and origins, each once."""

    heads: Heads
    build: Build
    origins: dict[Origin, int] = field(default_factory=dict)


def built(asked: Sequence[int], log: EventLog) -> Build:
    """The build of a model from what it asked of the allocator (``harness.devices.Device.requests``), and any log.

    :class:`NotDerived` if the library's workspace is not found in it.
    """
    workspace_bytes = sum(a.bytes for a in log.allocations if a.op == "workspace")
    ended = {-entry for entry in asked if entry < 0}
    numbers: dict[int, int] = {}
    births, deaths, releases, requests = {}, {}, [], []
    for event, entry in enumerate(asked):
        if entry > 0:
            requests.append(event)
            births[event] = numbers.setdefault(entry, len(numbers) + 1)
        elif entry < 0:
            deaths[event] = requests[~entry]
        else:
            releases.append(event)
    kept = [e for n, e in enumerate(requests, 1) if asked[e] == workspace_bytes and n not in ended]
    if not kept:
        raise NotDerived(f"the build asks for no workspace of {workspace_bytes:,} B")
    births[kept[0]] = 0
    residents = [a for a in log.allocations if a.op == "resident"]
    return Build(
        sizes=(workspace_bytes, *numbers),
        steps=folded(coded(births, deaths, releases)),
        resident_bytes=sum(a.bytes for a in residents),
        residents=len(residents),
    )


Entry = tuple[int, bool]  # the number of an allocation, and whether it is its birth


def with_accumulators(log: EventLog) -> list[Entry]:
    """The births and deaths of a log in order, with those of the accumulators of every call of flash attention.

    They are numbered behind the log's own, two a call; the op makes output and log-sum-exp, then them, then two seeds,
    and ends them (``flash_api.cpp``, ``mha_fwd``).
    """
    entries: list[Entry] = [(0, False)] * log.events
    for index, a in enumerate(log.allocations):
        entries[a.born] = index, True
        if a.died is not None:
            entries[a.died] = index, False
    more, number, done = [], len(log.allocations), 0
    for born in _splitting(log):
        pair = number, number + 1
        more += entries[done : born + 2] + [(n, True) for n in pair]
        more += entries[born + 2 : born + 4] + [(n, False) for n in pair]
        done, number = born + 4, number + 2
    return more + entries[done:]


def _splitting(log: EventLog) -> list[int]:
    """The event of every call of flash attention that makes its output."""
    return [a.born for a in log.allocations if a.op == SPLITTING and len(a.shape) == 4]


def regime_of(solved: Solved, tables: Tables) -> Regime:
    """The regime's program; ``tables`` collects the origins of all regimes."""
    log, entries, calls = solved.log, with_accumulators(solved.log), _splitting(solved.log)
    requests = [
        (tables.origins.setdefault(_origin_of(solved, index), len(tables.origins)), *solved.sizes[index].tolist())
        for index in range(len(log.allocations))
    ]
    for born in calls:
        requests += _accumulators(log, requests, born, tables)
    numbers: dict[tuple[int, ...], int] = {}
    births = {e: numbers.setdefault(requests[index], len(numbers)) for e, (index, born) in enumerate(entries) if born}
    at = {index: e for e, (index, born) in enumerate(entries) if born}
    deaths = {e: at[index] for e, (index, born) in enumerate(entries) if not born}
    tokens, prepared = coded(births, deaths), log.marks["start"]
    if solved.call != "later":  # the harness gives back what is cached once inputs and cache are there
        tokens.insert(prepared, RELEASE)
        prepared += 1
    before = len(tokens) - len(entries)  # the release
    loops = [(start + before + 4 * sum(c < start for c in calls), *rest) for start, *rest in solved.loops]
    return Regime(
        call=solved.call,
        domain=solved.domain,
        columns=solved.columns,
        requests=tuple(numbers),
        prepared=prepared,
        steps=folded(tokens),
        loops=tuple(loops),
        logs=solved.logs,
        checks=solved.checks,
    )


def _accumulators(log: EventLog, requests: list[tuple[int, ...]], born: int, tables: Tables) -> list[tuple[int, ...]]:
    """Of the call of flash attention whose output is born there: log-sum-exps and outputs of one part."""
    index = next(i for i, a in enumerate(log.allocations) if a.born == born + 1)
    origin_of_sums, *sums = requests[index]
    like = list(tables.origins)[origin_of_sums]
    origin = dataclasses.replace(like, op=UNSOLVED, dtype="uint8", shape="a part")
    number = tables.origins.setdefault(origin, len(tables.origins))
    wide = accumulated_dim(tables.heads.dim)
    return [(number, *(c * n for c in sums)) for n in (1, wide)]


def _origin_of(solved: Solved, index: int) -> Origin:
    a = solved.log.allocations[index]
    return Origin(
        group=group_of(a),
        module=any_layer(a.module),
        op=a.op,
        source=a.source,
        dtype=a.dtype,
        shape=solved.shapes[index],
    )
