"""Views of a derived program: the forms of which the largest one is the peak, and every tensor alive at a point."""

from dataclasses import dataclass

import numpy as np

from vram_ledger.analysis.derivation.derived import Derived, Origin, Regime
from vram_ledger.analysis.derivation.forms import Call, Ints, Shape, calls_at, design, shape_factors
from vram_ledger.analysis.derivation.groups import GROUPS, WEIGHTS
from vram_ledger.analysis.derivation.maxima import Space, largest_forms
from vram_ledger.analysis.derivation.program import Course, Program
from vram_ledger.harness.splits import UNSOLVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Line(Origin):
    """Tensors of one origin alive at one point: one line of its ledger.

    shape: of one tensor. coefficients: bytes of all ``count`` tensors together, a number a column of the regime.
    """

    count: int
    coefficients: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A point of a regime: the bytes alive there as a form, what was running, and every tensor alive.

    batch, context_tokens: a shape at which this piece is the peak.
    """

    regime: Regime
    coefficients: tuple[int, ...]
    module: str
    op: str
    source: str
    batch: int
    context_tokens: int
    lines: tuple[Line, ...]


def peak_pieces(program: Program, regime: Regime) -> tuple[Piece, ...]:
    """The forms of which the largest one is the peak, of a single-shot prefill or a decode step; none of others.

    Workspace and the accumulators of flash attention are not in them.
    """
    if regime.call not in ("whole", "decode"):
        return ()
    course = program.course_of(regime)
    live = _live(program.derived, course)[max(regime.prepared - 1, 0) :]
    forms, at = np.unique(live, axis=0, return_index=True)
    order = np.argsort(at)
    forms, at = forms[order], at[order] + max(regime.prepared - 1, 0)
    largest = largest_forms(forms, Space(call=regime.call, domain=regime.domain, columns=regime.columns))
    pieces = [piece_at(program, course, int(at[i]), shape) for i, shape in largest.items()]
    return tuple(sorted(pieces, key=lambda p: p.coefficients, reverse=True))


def held_piece(program: Program, regime: Regime) -> Piece:
    """What is held after a call."""
    course = program.course_of(regime)
    shape = regime.domain.batches[0], regime.domain.contexts[0]
    return piece_at(program, course, len(course.tokens) - 1, shape)


def leading_piece(program: Program, batch: int, context_tokens: int, chunk_tokens: int = 0) -> tuple[Piece, Shape]:
    """The piece that is the peak at a shape, and the shape of the call in which it is."""
    best: tuple[int, int, Call, Shape] | None = None
    for call, shape in calls_at(program.derived.phase, batch, context_tokens, chunk_tokens):
        live, start = program.live(call, shape)
        step = start + int(live[start:].argmax())
        if best is None or int(live[step]) > best[0]:
            best = int(live[step]), step, call, shape
    assert best is not None
    _, step, call, shape = best
    return piece_at(program, program.course(call, shape), step, (batch, context_tokens)), shape


def piece_bytes(piece: Piece | Line, regime: Regime, shape: Shape) -> int:
    """Bytes of a piece, or of a line of its ledger, at one shape."""
    factors = {name: np.array([value]) for name, value in shape_factors(regime.call, shape).items()}
    return int(design(regime.columns, factors)[0] @ np.array(piece.coefficients))


def piece_at(program: Program, course: Course, step: int, shape: tuple[int, int]) -> Piece:
    """The point after a step, as a piece."""
    derived, regime = program.derived, course.regime
    ended = set(course.ends[: step + 1].tolist())
    alive = [s for s in range(step + 1) if course.begins[s] >= 0 and s not in ended]
    alive = [s for s in alive if _origin(derived, course, s).op != UNSOLVED]
    rows: dict[int, int] = {}
    for born in alive:
        rows[int(course.begins[born])] = rows.get(int(course.begins[born]), 0) + 1
    columns = len(regime.columns)
    made = [_line(derived, regime.requests[request], count) for request, count in rows.items()]
    made.sort(key=lambda line: (GROUPS.index(line.group), [-v for v in reversed(line.coefficients)]))
    lines = [_weights(derived, columns), *made]
    newest = _origin(derived, course, alive[-1])
    return Piece(
        regime=regime,
        coefficients=tuple(sum(values) for values in zip(*(line.coefficients for line in lines), strict=True)),
        module=newest.module,
        op=newest.op,
        source=newest.source,
        batch=shape[0],
        context_tokens=shape[1],
        lines=tuple(lines),
    )


def _origin(derived: Derived, course: Course, step: int) -> Origin:
    return derived.origins[course.regime.requests[course.begins[step]][0]]


def _line(derived: Derived, request: tuple[int, ...], count: int) -> Line:
    origin = derived.origins[request[0]]
    return Line(
        **{name: getattr(origin, name) for name in ("group", "module", "op", "source", "dtype", "shape")},
        count=count,
        coefficients=tuple(count * value for value in request[1:]),
    )


def _weights(derived: Derived, columns: int) -> Line:
    """The ledger's line of weights and buffers."""
    empty = dict.fromkeys(("module", "source", "dtype", "shape"), "")
    size = (derived.build.resident_bytes, *[0] * (columns - 1))
    return Line(group=WEIGHTS, op="resident", count=derived.build.residents, coefficients=size, **empty)


def _live(derived: Derived, course: Course) -> Ints:
    """The form of the bytes alive after each step, without accumulators; the first column is 1."""
    matrix = course.matrix.copy()
    matrix[list(course.parts)] = 0
    change = np.where(course.begins[:, None] >= 0, matrix[course.begins], 0)
    change -= np.where(course.ends[:, None] >= 0, matrix[course.begins[course.ends]], 0)
    change[0, 0] += derived.build.resident_bytes
    return np.cumsum(change, axis=0)
