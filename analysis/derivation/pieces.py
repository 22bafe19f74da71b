"""From the logs of one regime to its forms: sizes solved, live sums formed, and the ledger of the points that count."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vram_ledger.analysis.derivation.derived import Line, Piece, Regime
from vram_ledger.analysis.derivation.forms import Domain, Ints, Shape, call_factors, column_label, design, factor_label
from vram_ledger.analysis.derivation.groups import GROUPS, WEIGHTS, any_layer, group_of
from vram_ledger.analysis.derivation.maxima import Space, largest_forms
from vram_ledger.analysis.derivation.solve import NotAForm, Solver
from vram_ledger.errors import Refused
from vram_ledger.harness.events import Allocation, EventLog

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


def regime_of(space: Space, domain: Domain, solved: Solved, logs: int, last: bool, lines: dict[Line, int]) -> Regime:
    """The regime's forms; ``lines`` collects the ledger lines of all regimes, each once."""
    log, marks = solved.log, solved.log.marks
    live = _live(solved)
    start, end = max(marks["start"] - 1, 0), marks["end"]
    forms, first = np.unique(live[start:end], axis=0, return_index=True)
    order = np.argsort(first)
    forms, first = forms[order], first[order] + start
    largest = largest_forms(forms, space)
    pieces = [_piece(solved, int(first[i]), shape, lines) for i, shape in largest.items()]
    return Regime(
        call=space.call,
        domain=domain,
        columns=space.columns,
        held=_piece(solved, log.marks["end"] - 1, (domain.batches[0], domain.contexts[0]), lines) if last else None,
        peak=tuple(sorted(pieces, key=lambda p: p.coefficients, reverse=True)),
        logs=logs,
        checks=solved.checks,
    )


def _live(solved: Solved) -> Ints:
    """The form of the bytes alive after each event."""
    change = np.zeros((solved.log.events, solved.sizes.shape[1]), dtype=np.int64)
    for a, size in zip(solved.log.allocations, solved.sizes, strict=True):
        change[a.born] = size
        if a.died is not None:
            change[a.died] = -size
    return np.cumsum(change, axis=0)


def _piece(solved: Solved, event: int, shape: tuple[int, int], lines: dict[Line, int]) -> Piece:
    alive = [i for i, a in enumerate(solved.log.allocations) if a.born <= event and (a.died is None or a.died > event)]
    newest = max((solved.log.allocations[i] for i in alive), key=lambda a: a.born)
    ledger = _ledger(solved, alive)
    return Piece(
        coefficients=tuple(int(v) for v in solved.sizes[alive].sum(axis=0)),
        module=newest.module,
        op=newest.op,
        source=newest.source,
        batch=shape[0],
        context_tokens=shape[1],
        lines=tuple(lines.setdefault(line, len(lines)) for line in ledger),
    )


def _ledger(solved: Solved, alive: Sequence[int]) -> list[Line]:
    """The tensors alive, those of one origin and size together, by group and size."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for index in alive:
        rows.setdefault(_origin(solved, index), []).append(index)
    made = [
        Line(
            **dict(zip(("group", "module", "op", "source", "dtype", "shape"), origin[:6], strict=True)),
            count=len(members),
            coefficients=tuple(int(v) for v in solved.sizes[members].sum(axis=0)),
        )
        for origin, members in rows.items()
    ]
    return sorted(made, key=lambda line: (GROUPS.index(line.group), [-v for v in reversed(line.coefficients)]))


def _origin(solved: Solved, index: int) -> tuple[str, ...]:
    a: Allocation = solved.log.allocations[index]
    group = group_of(a)
    if group == WEIGHTS:
        return group, "", a.op, "", "", ""
    size = ",".join(map(str, solved.sizes[index].tolist()))
    return group, any_layer(a.module), a.op, a.source, a.dtype, solved.shapes[index], size
