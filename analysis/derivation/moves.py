"""What moved between two derived formulas: coefficients, and the tensors that came, went or changed, by source line."""

from collections.abc import Iterator
from dataclasses import dataclass

from vram_ledger.analysis.derivation.derived import Regime
from vram_ledger.analysis.derivation.forms import form_text
from vram_ledger.analysis.derivation.ledger import by_group
from vram_ledger.analysis.derivation.pieces import Line, Piece, peak_pieces
from vram_ledger.analysis.derivation.program import Program
from vram_ledger.errors import InputError


class NotComparable(InputError):
    """Two formulas of which the one is no later state of the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One piece in both formulas, or in one of them (the other is then ``None``), in one regime."""

    regime: Regime
    before: Piece | None
    after: Piece | None
    went: tuple[Line, ...]
    came: tuple[Line, ...]


def moves(old: Program, new: Program) -> tuple[Move, ...]:
    """Every piece of both formulas; a tensor whose line number alone moved has not moved."""
    ours, theirs = old.derived, new.derived
    if (ours.phase, ours.configuration.model) != (theirs.phase, theirs.configuration.model):
        raise NotComparable(
            f"{ours.name} is a {ours.phase} of {ours.configuration.model}, "
            f"{theirs.name} a {theirs.phase} of {theirs.configuration.model}"
        )
    found = []
    for regime in theirs.regimes:
        earlier = [
            r for r in ours.regimes if (r.call, r.domain, r.columns) == (regime.call, regime.domain, regime.columns)
        ]
        before = list(peak_pieces(old, earlier[0])) if earlier else []
        for piece in peak_pieces(new, regime):
            match = _same_point(piece, before)
            if match:
                before.remove(match)
            found.append(_move(regime, match, piece))
        found += [_move(regime, piece, None) for piece in before]
    return tuple(found)


def _same_point(piece: Piece, among: list[Piece]) -> Piece | None:
    """The piece of the same op in the same file and part of the model; else one of the same op and file."""
    alike = [p for p in among if (p.op, _file(p.source)) == (piece.op, _file(piece.source))]
    same = [p for p in alike if p.module.split(".")[-1:] == piece.module.split(".")[-1:]]
    return next(iter(same or alike), None)


def _file(source: str) -> str:
    return source.rpartition(":")[0]


def _move(regime: Regime, before: Piece | None, after: Piece | None) -> Move:
    went = list(before.lines) if before else []
    came = []
    for line in after.lines if after else ():
        same = [other for other in went if _identity(other) == _identity(line)]
        if same:
            went.remove(same[0])
        else:
            came.append(line)
    if not (before and after):
        went, came = [], []
    return Move(regime=regime, before=before, after=after, went=tuple(went), came=tuple(came))


def _identity(line: Line) -> tuple[object, ...]:
    return line.group, line.op, _file(line.source), line.dtype, line.shape, line.count, line.coefficients


def moves_text(old: Program, new: Program) -> Iterator[str]:
    """The moves for people, and the programs they are between."""
    ours, theirs = old.derived.environment, new.derived.environment
    changed = [
        f"{name} {getattr(ours, name)} → {getattr(theirs, name)}"
        for name in ("torch", "transformers", "triton", "fla", "causal_conv1d", "config_sha256")
        if getattr(ours, name) != getattr(theirs, name)
    ]
    yield f"{new.derived.phase} of {new.derived.configuration.model}: {', '.join(changed) or 'the same software'}"
    for move in moves(old, new):
        yield from _move_text(move)


def _move_text(move: Move) -> Iterator[str]:
    regime = move.regime
    yield ""
    yield f"{regime.domain.label}"
    for label, piece in (("before", move.before), ("after", move.after)):
        where = f"{piece.op} in {piece.module} ({piece.source})" if piece else "never the largest"
        form = form_text(piece.coefficients, regime.columns, regime.call) if piece else ""
        yield f"  {label:>7}: {form}   {where}"
    if not (move.before and move.after):
        return
    yield f"   change: {_difference(move.before.coefficients, move.after.coefficients, regime)}"
    groups = by_group(move.before), by_group(move.after)
    for group in dict.fromkeys([*groups[0], *groups[1]]):
        zero = (0,) * len(regime.columns)
        before, after = (g.get(group, zero) for g in groups)
        if before != after:
            yield f"           {group}: {_difference(before, after, regime)}"
    for sign, lines in (("went", move.went), ("came", move.came)):
        for line in lines:
            form = form_text(line.coefficients, regime.columns, regime.call)
            what = f"{line.count} × {line.op} {line.shape} {line.dtype}"
            yield f"     {sign}: {what}, {form}   {line.source} ({line.group})"


def _difference(before: tuple[int, ...], after: tuple[int, ...], regime: Regime) -> str:
    return form_text(tuple(b - a for a, b in zip(before, after, strict=True)), regime.columns, regime.call)
