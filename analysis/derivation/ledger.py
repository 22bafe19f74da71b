"""The ledger of a piece as text: a formula that can be checked by hand, and every tensor that it is made of."""

from collections.abc import Iterator

import numpy as np

from vram_ledger.analysis.derivation.derived import Derived, Line, Piece, Regime, point_bytes
from vram_ledger.analysis.derivation.forms import form_text
from vram_ledger.analysis.derivation.groups import GROUPS


def ledger_lines(derived: Derived, piece: Piece) -> tuple[Line, ...]:
    """The tensors alive at a piece."""
    return tuple(derived.lines[number] for number in piece.lines)


def by_group(derived: Derived, piece: Piece) -> dict[str, tuple[int, ...]]:
    """The coefficients of each group that has a part in a piece; together they are the piece's."""
    sums: dict[str, tuple[int, ...]] = {}
    for line in ledger_lines(derived, piece):
        before = sums.get(line.group, (0,) * len(line.coefficients))
        sums[line.group] = tuple(a + b for a, b in zip(before, line.coefficients, strict=True))
    return {group: sums[group] for group in GROUPS if group in sums}


def formula_text(derived: Derived) -> Iterator[str]:
    """All regimes and their forms, a line each."""
    for regime in derived.regimes:
        yield f"{derived.phase}{_call(regime)}, {regime.domain.label}"
        for number, piece in enumerate(regime.peak):
            label = "peak =" if len(regime.peak) == 1 else "peak = the larger of" if number == 0 else "and"
            yield f"  {label:>20} {_form(piece, regime)}"
            yield f"  {'':>20}   in {piece.module or 'the model'}: {piece.op}, {piece.source}"
        if regime.held:
            yield f"  {'held afterwards =':>20} {_form(regime.held, regime)}"


def _call(regime: Regime) -> str:
    return {"first": " (first call)", "full": " (last full call)", "last": " (last call)"}.get(regime.call, "")


def _form(piece: Piece | Line, regime: Regime) -> str:
    return form_text(piece.coefficients, regime.columns, regime.call)


def ledger_markdown(derived: Derived, regime: Regime, piece: Piece, batch: int, context_tokens: int) -> Iterator[str]:
    """The closed ledger of a piece as a Markdown table, with its bytes at one shape."""
    chunk = derived.configuration.prefill_chunk_tokens
    form = _form(piece, regime)
    yield f"{derived.phase}{_call(regime)} of {derived.configuration.model}, {regime.domain.label}"
    yield f"running: {piece.op} in {piece.module or 'the model'} ({piece.source})"
    yield ""
    yield f"| tensors alive | shape, dtype | source | bytes | at B={batch}, L={context_tokens:,} |"
    yield "|---|---|---|---|---|"
    lines = ledger_lines(derived, piece)
    for group, sums in by_group(derived, piece).items():
        total = form_text(sums, regime.columns, regime.call)
        value = sum(point_bytes(line, regime, chunk, batch, context_tokens) for line in lines if line.group == group)
        yield f"| **{group}** | | | **{total}** | **{value:,}** |"
        members = [line for line in lines if line.group == group and line.source]
        for line in members:
            bytes_there = point_bytes(line, regime, chunk, batch, context_tokens)
            yield (
                f"| {line.count} × {line.op}{f' in {line.module}' if line.module else ''} | {line.shape} {line.dtype} "
                f"| {line.source} | {_form(line, regime)} | {bytes_there:,} |"
            )
    yield f"| **sum = peak** | | | **{form}** | **{point_bytes(piece, regime, chunk, batch, context_tokens):,}** |"


def closes(derived: Derived, piece: Piece) -> bool:
    """Whether the groups add up to the piece, coefficient by coefficient."""
    total = np.sum([np.array(line.coefficients) for line in ledger_lines(derived, piece)], axis=0)
    return tuple(int(v) for v in total) == piece.coefficients
