"""Markdown that is also readable in a terminal."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A table's lines, padded to one width a column; the first ``words`` columns stand left, the others right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = [
        "| "
        + " | ".join(c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return [lines[0], rule, *lines[1:]]


def gb(size: int, signed: bool = True) -> str:
    """Bytes as GB (10^9) with three digits after the point."""
    return f"{size / 1e9:{'+' if signed else ''},.3f}"


def percent(share: float, signed: bool = False) -> str:
    """A share as a percentage."""
    return f"{share * 100:{'+' if signed else ''},.1f} %"
