"""What the report says of figures that others published of real cards."""

from collections.abc import Sequence
from typing import Any

from vram_ledger.analysis.public.evidence import ORDER, Row, summary
from vram_ledger.analysis.reporting.tabular import table

HEADER = ("figure", "printed", "we say", "difference", "from", "what ran", "address")


def evidence_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """A line in all, a table for each way in which figures stand, disagreements first, and what was tried."""
    groups = [(standing, [row for row in rows if row.standing == standing]) for standing in ORDER]
    return {
        "summary": summary(rows),
        "groups": [
            {
                "title": f"{len(own)} {'figure' if len(own) == 1 else 'figures'}: {standing}",
                "open": standing not in ("agrees", "not answered"),
                "table": table(HEADER, [_cells(row) for row in own], notes=3),
                "tried": [(row.figure.name, row.figure.tried) for row in own if row.figure.tried],
            }
            for standing, own in groups
            if own
        ],
    }


def _cells(row: Row) -> tuple[str, ...]:
    figure = row.figure
    where = figure.address or f"a public file with the line “{figure.found}”"
    what = f"{figure.ran}: {figure.quantity}"
    return figure.name, figure.printed.text, row.ours, row.difference, row.source, what, where
