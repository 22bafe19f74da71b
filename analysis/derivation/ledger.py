"""The ledger of a piece as text: a formula that can be checked by hand, and every tensor that it is made of."""

from collections.abc import Iterator

from vram_ledger.analysis.derivation.forms import Call, Shape, form_text
from vram_ledger.analysis.derivation.groups import GROUPS
from vram_ledger.analysis.derivation.pieces import Line, Piece, held_piece, peak_pieces, piece_bytes
from vram_ledger.analysis.derivation.program import Program


def by_group(piece: Piece) -> dict[str, tuple[int, ...]]:
    """The coefficients of each group that has a part in a piece; together they are the piece's."""
    sums: dict[str, tuple[int, ...]] = {}
    for line in piece.lines:
        before = sums.get(line.group, (0,) * len(line.coefficients))
        sums[line.group] = tuple(a + b for a, b in zip(before, line.coefficients, strict=True))
    return {group: sums[group] for group in GROUPS if group in sums}


def formula_text(program: Program) -> Iterator[str]:
    """All regimes and their forms, a line each."""
    derived = program.derived
    for regime in derived.regimes:
        yield f"{derived.phase}{_call(regime.call)}, {regime.domain.label}"
        pieces = peak_pieces(program, regime)
        for number, piece in enumerate(pieces):
            label = "peak =" if len(pieces) == 1 else "peak = the larger of" if number == 0 else "and"
            yield f"  {label:>20} {_form(piece, piece)}"
            yield f"  {'':>20}   in {piece.module or 'the model'}: {piece.op}, {piece.source}"
        held = held_piece(program, regime)
        yield f"  {'held afterwards =':>20} {_form(held, held)}"


def _call(call: Call) -> str:
    return {"first": " in chunks (first call)", "later": " in chunks (a later call)"}.get(call, "")


def _form(part: Piece | Line, piece: Piece) -> str:
    return form_text(part.coefficients, piece.regime.columns, piece.regime.call)


def ledger_markdown(program: Program, piece: Piece, shape: Shape) -> Iterator[str]:
    """The closed ledger of a piece as a Markdown table, with its bytes at one shape."""
    derived, regime = program.derived, piece.regime
    form = _form(piece, piece)
    yield f"{derived.phase}{_call(regime.call)} of {derived.configuration.model}, {regime.domain.label}"
    yield f"running: {piece.op} in {piece.module or 'the model'} ({piece.source})"
    yield ""
    yield f"| tensors alive | shape, dtype | source | bytes | at B={shape.batch}, L={shape.context_tokens:,} |"
    yield "|---|---|---|---|---|"
    for group, sums in by_group(piece).items():
        total = form_text(sums, regime.columns, regime.call)
        value = sum(piece_bytes(line, regime, shape) for line in piece.lines if line.group == group)
        yield f"| **{group}** | | | **{total}** | **{value:,}** |"
        members = [line for line in piece.lines if line.group == group and line.source]
        for line in members:
            bytes_there = piece_bytes(line, regime, shape)
            yield (
                f"| {line.count} × {line.op}{f' in {line.module}' if line.module else ''} | {line.shape} {line.dtype} "
                f"| {line.source} | {_form(line, piece)} | {bytes_there:,} |"
            )
    yield f"| **sum = peak** | | | **{form}** | **{piece_bytes(piece, regime, shape):,}** |"
