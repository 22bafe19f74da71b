"""From the logs of one regime to its forms: sizes solved, live sums formed, and the ledger of the points that count."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vram_ledger.analysis.allocation.steps import RELEASE, coded, folded
from vram_ledger.analysis.derivation.derived import Build, Line, Origin, Piece, Regime
from vram_ledger.analysis.derivation.forms import Domain, Ints, Shape, call_factors, column_label, design, factor_label
from vram_ledger.analysis.derivation.groups import GROUPS, WEIGHTS, any_layer, group_of
from vram_ledger.analysis.derivation.maxima import Space, largest_forms
from vram_ledger.analysis.derivation.solve import NotAForm, Solver
from vram_ledger.errors import Refused
from vram_ledger.harness.events import Allocation, EventLog
from vram_ledger.harness.splits import SPLITTING, Heads, accumulated_dim

UNSOLVED = f"inside {SPLITTING}"
DIMENSION_COLUMNS: tuple[tuple[str, ...], ...] = (
    (), ("L",), ("B",), ("T",), ("E",), ("⌈T/64⌉",), ("⌈E/8⌉",), ("B", "L"), ("B", "T"), ("B", "⌈T/64⌉"), ("B", "E"),
    ("B", "⌈E/8⌉"), ("T", "E"), ("B", "T", "E"),
)  # fmt: skip


class NotDerived(Refused):
    """A program that has no form to the byte within a domain; the message names the shape that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """One regime's program: its allocations, and each one's bytes as a row of coefficients."""

    log: EventLog
    sizes: Ints
    shapes: tuple[str, ...]
    checks: int


def solve_regime(space: Space, shapes: Sequence[Shape], logs: Sequence[EventLog]) -> Solved:
    """Coefficients of every allocation of logs whose sequences agree; :class:`NotDerived` if a size has none."""
    factors = factors_at(space, shapes)
    solver = Solver(design(space.columns, factors))
    sizes = np.array([[a.bytes for a in log.allocations] for log in logs], dtype=np.int64)
    try:
        solved = solver.coefficients(sizes)
    except NotAForm as error:
        raise NotDerived(
            f"{space.domain.label}: the sizes at {_named(shapes)} are no whole combination of "
            f"{', '.join(column_label(c, space.call) for c in space.columns)}: {error}"
        ) from error
    return Solved(log=logs[0], sizes=solved, shapes=_shape_texts(space, factors, logs), checks=solver.checks)


def factors_at(space: Space, shapes: Sequence[Shape]) -> dict[str, Ints]:
    """The factors of the regime's call at these shapes."""
    batches = np.array([s.batch for s in shapes], dtype=np.int64)
    contexts = np.array([s.context_tokens for s in shapes], dtype=np.int64)
    return call_factors(space.call, space.chunk, batches, contexts)


def _named(shapes: Sequence[Shape]) -> str:
    return ", ".join(f"({s.batch}, {s.context_tokens:,})" for s in shapes)


def _shape_texts(space: Space, factors: dict[str, Ints], logs: Sequence[EventLog]) -> tuple[str, ...]:
    """Each allocation's first shape as an expression, or as the numbers of the first log where it has none."""
    solver = Solver(design(DIMENSION_COLUMNS, factors))
    known: dict[tuple[tuple[int, ...], ...], str] = {}

    def text(seen: tuple[tuple[int, ...], ...]) -> str:
        try:
            rows = solver.coefficients(np.array(seen, dtype=np.int64).reshape(len(seen), -1))
        except (NotAForm, ValueError):
            return f"({', '.join(map(str, seen[0]))}) at the first shape replayed"
        return f"({', '.join(_dimension(row, space) for row in rows)})"

    texts = []
    for index in range(len(logs[0].allocations)):
        seen = tuple(log.allocations[index].shape for log in logs)
        if seen not in known:
            known[seen] = text(seen)
        texts.append(known[seen])
    return tuple(texts)


def _dimension(row: Ints, space: Space) -> str:
    terms = []
    for value, column in zip(row.tolist(), DIMENSION_COLUMNS, strict=True):
        if value:
            label = "·".join(factor_label(f, space.call) for f in column)
            terms.append(label if value == 1 and column else f"{value}·{label}" if column else str(value))
    return " + ".join(terms) or "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What all regimes of a program share: its heads, its build, and origins and ledger lines, each once."""

    heads: Heads
    build: Build
    origins: dict[Origin, int] = field(default_factory=dict)
    lines: dict[Line, int] = field(default_factory=dict)


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
    calls = [a.born for a in log.allocations if a.op == SPLITTING and len(a.shape) == 4]
    more, number, done = [], len(log.allocations), 0
    for born in calls:
        pair = number, number + 1
        more += entries[done : born + 2] + [(n, True) for n in pair]
        more += entries[born + 2 : born + 4] + [(n, False) for n in pair]
        done, number = born + 4, number + 2
    return more + entries[done:]


def _program(solved: Solved, tables: Tables, prepared: int, releases: bool) -> tuple[tuple[tuple[int, ...], ...], int, str]:
    """A regime's requests, how many steps are before the call, and the text of all."""
    log, entries = solved.log, with_accumulators(solved.log)
    requests = [
        (tables.origins.setdefault(_origin_of(solved, index), len(tables.origins)), *solved.sizes[index].tolist())
        for index in range(len(log.allocations))
    ]
    for a in log.allocations:
        if a.op == SPLITTING and len(a.shape) == 4:
            requests += _accumulators(log, requests, a.born, tables)
    numbers: dict[tuple[int, ...], int] = {}
    births = {e: numbers.setdefault(requests[index], len(numbers)) for e, (index, born) in enumerate(entries) if born}
    at = {index: e for e, (index, born) in enumerate(entries) if born}
    deaths = {e: at[index] for e, (index, born) in enumerate(entries) if not born}
    tokens = coded(births, deaths)
    if releases:
        tokens.insert(prepared, RELEASE)
        prepared += 1
    return tuple(numbers), prepared, folded(tokens)


def _accumulators(log: EventLog, requests: list[tuple[int, ...]], born: int, tables: Tables) -> list[tuple[int, ...]]:
    """Of the call of flash attention whose output is born there: log-sum-exps and outputs of one part."""
    index = next(i for i, a in enumerate(log.allocations) if a.born == born + 1)
    origin_of_sums, *sums = requests[index]
    like = list(tables.origins)[origin_of_sums]
    origin = dataclasses.replace(like, op=UNSOLVED, dtype="uint8", shape="a part")
    number = tables.origins.setdefault(origin, len(tables.origins))
    wide = accumulated_dim(tables.heads.dim)
    return [(number, *(c * n for c in sums)) for n in (1, wide)]


def regime_of(space: Space, domain: Domain, solved: Solved, logs: int, last: bool, tables: Tables) -> Regime:
    """The regime's program and its forms; ``tables`` collects origins and ledger lines of all regimes, each once."""
    log, marks = solved.log, solved.log.marks
    first = space.call in ("whole", "decode", "first")
    requests, prepared, steps = _program(solved, tables, marks["start"], releases=first)
    live = _live(solved, tables.build.resident_bytes)
    start, end = max(marks["start"] - 1, 0), marks["end"]
    forms, at = np.unique(live[start:end], axis=0, return_index=True)
    order = np.argsort(at)
    forms, at = forms[order], at[order] + start
    largest = largest_forms(forms, space)
    pieces = [_piece(solved, int(at[i]), shape, tables) for i, shape in largest.items()]
    return Regime(
        call=space.call,
        domain=domain,
        columns=space.columns,
        held=_piece(solved, log.marks["end"] - 1, (domain.batches[0], domain.contexts[0]), tables) if last else None,
        peak=tuple(sorted(pieces, key=lambda p: p.coefficients, reverse=True)),
        requests=requests,
        prepared=prepared,
        steps=steps,
        logs=logs,
        checks=solved.checks,
    )


def _live(solved: Solved, resident_bytes: int) -> Ints:
    """The form of the bytes alive after each event, weights included."""
    change = np.zeros((solved.log.events, solved.sizes.shape[1]), dtype=np.int64)
    for a, size in zip(solved.log.allocations, solved.sizes, strict=True):
        change[a.born] = size
        if a.died is not None:
            change[a.died] = -size
    change[0, 0] += resident_bytes  # the first column is 1
    return np.cumsum(change, axis=0)


def _piece(solved: Solved, event: int, shape: tuple[int, int], tables: Tables) -> Piece:
    alive = [i for i, a in enumerate(solved.log.allocations) if a.born <= event and (a.died is None or a.died > event)]
    newest = max((solved.log.allocations[i] for i in alive), key=lambda a: a.born)
    ledger = [_weights(tables.build, solved.sizes.shape[1]), *_ledger(solved, alive)]
    total = np.sum([np.array(line.coefficients) for line in ledger], axis=0)
    return Piece(
        coefficients=tuple(int(v) for v in total),
        module=newest.module,
        op=newest.op,
        source=newest.source,
        batch=shape[0],
        context_tokens=shape[1],
        lines=tuple(tables.lines.setdefault(line, len(tables.lines)) for line in ledger),
    )


def _weights(build: Build, columns: int) -> Line:
    """The ledger's line of weights and buffers."""
    return Line(
        group=WEIGHTS,
        module="",
        op="resident",
        source="",
        dtype="",
        shape="",
        count=build.residents,
        coefficients=(build.resident_bytes, *[0] * (columns - 1)),
    )


def _ledger(solved: Solved, alive: Sequence[int]) -> list[Line]:
    """The tensors alive, those of one origin and size together, by group and size."""
    rows: dict[tuple[Origin, tuple[int, ...]], list[int]] = {}
    for index in alive:
        size = tuple(solved.sizes[index].tolist())
        rows.setdefault((_origin_of(solved, index), size), []).append(index)
    made = [
        Line(
            **{name: getattr(origin, name) for name in ("group", "module", "op", "source", "dtype", "shape")},
            count=len(members),
            coefficients=tuple(int(v) for v in solved.sizes[members].sum(axis=0)),
        )
        for (origin, _), members in rows.items()
    ]
    return sorted(made, key=lambda line: (GROUPS.index(line.group), [-v for v in reversed(line.coefficients)]))


def _origin_of(solved: Solved, index: int) -> Origin:
    a: Allocation = solved.log.allocations[index]
    return Origin(
        group=group_of(a),
        module=any_layer(a.module),
        op=a.op,
        source=a.source,
        dtype=a.dtype,
        shape=solved.shapes[index],
    )
