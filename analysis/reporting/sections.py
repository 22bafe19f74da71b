"""The tables and facts of the report as plain text; the template escapes all of it."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.campaign import REPOSITORY, Campaign, formulas_for, model_of
from analysis.derivation.ledger import formula_text
from analysis.drift import judge, out_of_memory
from analysis.predicting.capacity import Frontier
from analysis.published import coefficients
from analysis.refereeing.scoreboard import BIAS_HEADER, RANKING_HEADER, Board, bias_by_term, ranking
from analysis.reporting.capacity import by_kind, kind_text, most_room_first
from analysis.reporting.part import SEGMENTS, Part, chosen, ledger
from analysis.tables import configuration_text, environment_text, evidence, number, out_of_memory_lines, section_labels
from analysis.verdict import Verdict, exit_code, summary
from harness.records import Configuration, Environment

DRIFT_HEADER = ("term", "verdict", "where", "cause", "unit", "expected", "fitted", "evidence", "difference, B")
POINT_HEADER = ("phase", "batch", "context", "peak, B", "formula, B", "peak − formula, B", "running at the peak")
TOLD_APART = ("gpu_uuid", "allocator")  # one is nobody's business, the other is not one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first ``words`` columns are words and stand left, the others numbers and stand right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> Table:
    """A table of whatever sequences there are."""
    return Table(header=tuple(header), rows=tuple(map(tuple, rows)), words=words)


def campaign_facts(campaign: Campaign) -> dict[str, Any]:
    """What the page says of a campaign as a whole: verdicts in short, environment, how to make it again."""
    results = campaign.results
    verdicts = judge(results, campaign.shapes, calibration=campaign.calibration, derived=formulas_for(results))
    decisions = Counter(v.decision for v in verdicts)
    return {
        "agrees": exit_code(verdicts) == 0,
        "summary": summary(verdicts),
        "decisions": ", ".join(f"{count} {name}" for name, count in sorted(decisions.items())),
        "drift": [drift_table([v for v in verdicts if v.configuration == c]) for c in _configurations(verdicts)],
        "out_of_memory": list(out_of_memory_lines(out_of_memory(results))),
        "calibration": campaign.calibration.origin if campaign.calibration else "",
        "points": len(campaign.points),
        "left_out": campaign.left_out,
        "file": source_text(campaign),
        "environment_text": environment_text(results.environment),
        "environment": table(("field", "value"), environment_rows(results.environment), words=2),
        "commands": commands(campaign),
    }


def _configurations(verdicts: Sequence[Verdict]) -> list[Configuration]:
    return list(dict.fromkeys(v.configuration for v in verdicts))


def source_text(campaign: Campaign) -> str:
    """The results file, from the repository's root where it is in there."""
    path = campaign.results.path.resolve()
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name


def drift_table(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts of one configuration."""
    rows = [
        (
            v.term,
            v.decision,
            label,
            v.cause,
            v.unit,
            number(v.expected),
            number(v.fitted),
            evidence(v),
            number(v.difference_bytes, signed=bool(v.difference_bytes)),
        )
        for v, label in zip(verdicts, section_labels(verdicts), strict=True)
    ]
    found = table(DRIFT_HEADER, rows, words=5)
    return {
        "configuration": configuration_text(verdicts[0].configuration),
        "table": found if any(v.cause for v in verdicts) else without(found, "cause"),
    }


def without(found: Table, name: str) -> Table:
    """The table without one of its columns of words."""
    at = found.header.index(name)
    header, *rows = (row[:at] + row[at + 1 :] for row in (found.header, *found.rows))
    return Table(header=header, rows=tuple(rows), words=found.words - 1)


def board_tables(board: Board) -> list[tuple[str, Table]]:
    """The scoreboard's tables, each under its title."""
    return [
        ("Error of the total, best first", table(RANKING_HEADER, ranking(board), words=3)),
        ("Bias by term, GB (predicted minus counted)", table(BIAS_HEADER, bias_by_term(board))),
    ]


def part_tables(part: Part, frontiers: Sequence[Frontier]) -> dict[str, Any]:
    """What the page says of one configuration beside its figures."""
    return {
        "configuration": configuration_text(part.configuration),
        "tiles": tiles(part),
        "forms": [(f.phase, f.name, "\n".join(formula_text(f))) for f in part.derived],
        "breakdown": table(("phase, shape", *SEGMENTS, "peak, B"), breakdown_rows(part)),
        "all_points": table(POINT_HEADER, point_rows(part)),
        "frontiers": [(kind_text(*kind), frontier_table(own)) for kind, own in by_kind(frontiers).items()],
    }


def tiles(part: Part) -> list[tuple[str, str, str]]:
    """The coefficients in short, (what, value, unit): from the calibration, nothing if there is none."""
    calibration = part.campaign.calibration
    own = dict(coefficients(calibration)).get(part.configuration) if calibration else None
    if own is None:
        return []
    units = ("B", "B a token", "B a sequence", "B a token")
    names = ("weights", "KV cache", "recurrent + conv state", "a prefill adds")
    found = [(name, value, unit) for name, value, unit in zip(names, own, units, strict=True)]
    residuals = [abs(r) for r in _residuals(part) if r is not None]
    if residuals:
        found.append(("farthest from the formula", f"{max(residuals):,}", f"B over {len(residuals):,} points"))
    return found


def _residuals(part: Part) -> list[int | None]:
    said = {w: part.formulas[w.phase].peak(w) if w.phase in part.formulas else None for w in part.ran}
    return [None if (s := said[w]) is None else m.warm.requested_bytes - s for w, m in part.ran.items()]


def breakdown_rows(part: Part) -> list[tuple[str, ...]]:
    """Every byte of the bars: a row a chosen point, the segments and the peak that they add up to."""
    rows = []
    for phase in part.phases:
        points = part.points(phase)
        for context, batch in chosen(part, phase):
            sizes = ledger(part.workload(phase, context, batch), points[context, batch])
            cells = [f"{sizes[segment]:,}" for segment in SEGMENTS]
            rows.append((f"{phase}, B={batch}, L={context:,}", *cells, f"{sum(sizes.values()):,}"))
    return rows


def point_rows(part: Part) -> list[tuple[str, ...]]:
    """Every point: its peak, what the formula says, and what was running."""
    rows: list[tuple[str, ...]] = []
    for phase in part.phases:
        formula = part.formulas.get(phase)
        for (context, batch), outcome in part.points(phase).items():
            peak = outcome.warm.requested_bytes
            said = formula.peak(part.workload(phase, context, batch)) if formula else None
            site = " · ".join(text for text in (outcome.site.stage, outcome.site.op, outcome.site.source) if text)
            difference = "–" if said is None else f"{peak - said:+,}" if peak != said else "0"
            rows.append((phase, f"{batch}", f"{context:,}", f"{peak:,}", number(said), difference, site))
    return rows


def frontier_table(frontiers: Sequence[Frontier]) -> Table:
    """Longest contexts by card and batch."""
    batches = sorted({longest.at for f in frontiers for longest in f.contexts})
    rows = []
    for own in sorted(frontiers, key=lambda f: (most_room_first(f), f.gpu)):
        found = {longest.at: longest.text for longest in own.contexts}
        rows.append((own.gpu, *(found.get(b, "–") for b in batches)))
    return table(("GPU", *(f"batch {b}" for b in batches)), rows)


def environment_rows(environment: Environment) -> list[tuple[str, str]]:
    """Every field of the environment but the card's own number, and the fingerprint that they make."""
    names = [f.name for f in dataclasses.fields(environment) if f.name not in TOLD_APART]
    rows = [("fingerprint", environment.fingerprint())]
    rows += [(name, _value(getattr(environment, name))) for name in names]
    probes = (f"{p.asked_bytes:,} → {p.allocated_bytes:,} → {p.reserved_bytes:,}" for p in environment.allocator)
    return [*rows, ("allocator (asked → allocated → reserved, B)", "; ".join(probes) or "–")]


def _value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value) if value not in (None, "") else "–"


def commands(campaign: Campaign) -> list[str]:
    """What makes these numbers again, and this page of them."""
    environment = campaign.results.environment
    grid = grid_of(environment.grid_sha256)
    label = environment.gpu_label.removeprefix("fake-")
    card = f"FAKE={label}" if environment.device == "fake" else f"GPU={label}"
    measure = f"make measure MODEL={model_of(campaign.results)} GRID={grid or '…'} {card}"
    note = "" if grid else f"   # a grid of SHA-256 {environment.grid_sha256[:12]}, which is not in configs/grids"
    return [f"{measure}{note}", "make calibrate report"]


def grid_of(sha256: str) -> str:
    """The name of the grid with this checksum in ``configs/grids``; "" if there is none any more."""
    for path in sorted((REPOSITORY / "configs" / "grids").glob("*.toml")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path.stem
    return ""
