"""What the report says beside its figures, as plain text and tables; the template escapes all of it."""

import dataclasses
import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.derivation.ledger import formula_text
from vram_ledger.analysis.evidence.tables import (
    configuration_text,
    environment_text,
    invented_lines,
    out_of_memory_lines,
)
from vram_ledger.analysis.evidence.verdict import Verdict, exit_code, summary
from vram_ledger.analysis.ground.kinds import kind_of
from vram_ledger.analysis.judging.campaign import formulas_for, main_campaigns, model_of
from vram_ledger.analysis.judging.drift import counting_lines, judge, out_of_memory
from vram_ledger.analysis.predicting.capacity import Frontier
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.analysis.reporting.axes import GB
from vram_ledger.analysis.reporting.capacity import by_kind, kind_text
from vram_ledger.analysis.reporting.part import SEGMENTS, Part
from vram_ledger.analysis.reporting.peaks import counted
from vram_ledger.analysis.reporting.residuals import bytes_text, residuals_of
from vram_ledger.analysis.reporting.tabular import breakdown_rows, drift_rows, frontier_table, point_table, table
from vram_ledger.harness.records import Environment, Measured
from vram_ledger.home import GRIDS, RESULTS

TOLD_APART = ("gpu_uuid", "allocator")  # one is nobody's business, the other is not one line


def campaign_facts(campaign: Campaign, parts: Sequence[Part]) -> dict[str, Any]:
    """What the page says of a campaign as a whole: verdicts in short, environment, how to make it again."""
    results = campaign.results
    verdicts = judge(results, campaign.shapes, calibration=campaign.calibration, derived=formulas_for(results))
    decisions = Counter(v.decision for v in verdicts)
    refused = out_of_memory(results)
    return {
        "agrees": exit_code(verdicts) == 0,
        "summary": summary_text(verdicts),
        "decisions": ", ".join(f"{count} {name}" for name, count in sorted(decisions.items())),
        "drift": [
            {"configuration": configuration_text(c), **split_verdicts([v for v in verdicts if v.configuration == c])}
            for c in dict.fromkeys(v.configuration for v in verdicts)
        ],
        "software": software_text(results.environment),
        "out_of_memory": [*out_of_memory_lines(refused), *invented_lines(counting_lines(results))],
        "calibration": campaign.calibration.origin if campaign.calibration else "",
        "derived": [formula.derived.origin for part in parts for formula in part.derived],
        "points": len(campaign.points),
        "invented": campaign.invented,
        "points_text": points_text(campaign, len(refused)),
        "file": source_text(campaign),
        "environment_text": environment_text(results.environment),
        "environment": table(("field", "value"), environment_rows(results.environment), words=2),
        "commands": commands(campaign, parts),
    }


def summary_text(verdicts: Sequence[Verdict]) -> str:
    """The gate's answer for a reader: "no drift", what did not fit, or what drifted."""
    text = summary(verdicts).partition(": ")[2]
    return text.replace("in agreement", "no drift") if exit_code(verdicts) == 0 else text


def points_text(campaign: Campaign, refused: int) -> str:
    """How many points there are, and how many of them no card has held: "70 points of FILE; 10 of them …"."""
    ran = len(campaign.points) + campaign.left_out
    beyond = f"; {campaign.left_out:,} of them need more than the card holds and are left out of the scoreboard"
    return (
        (counted(ran) if ran else "nothing ran that counts" if campaign.invented else "nothing ran")
        + (beyond if campaign.left_out else "")
        + (f"; {counted(refused, 'workload')} ran out of memory" if refused else "")
        + (f"; {campaign.invented:,} read what nothing had written and count nowhere" if campaign.invented else "")
    )


def split_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts that a reader must see, and those that agree, which fold away."""
    rows = drift_rows(verdicts)
    at = rows.header.index("verdict")
    agreeing = tuple(row for row in rows.rows if row[at] == "EQUIVALENT")
    others = tuple(row for row in rows.rows if row[at] != "EQUIVALENT")
    return {"table": replace(rows, rows=others), "agreeing": replace(rows, rows=agreeing)}


def software_text(environment: Environment) -> str:
    """What dates the numbers, since the lines themselves have no date: the software that ran."""
    ran = {"torch": environment.torch, "transformers": environment.transformers, "fla": environment.fla}
    return ", ".join(f"{name} {version}" for name, version in ran.items() if version)


def exact_text(part: Part) -> str:
    """Where the formula meets every point to the byte: that it does; "" where it does not, or there is none."""
    found = [value for phase in part.phases for value in residuals_of(part, phase).values()]
    return "" if not found or any(found) else f"All {len(found):,} residuals of our formula are {bytes_text(0)}."


def source_text(campaign: Campaign) -> str:
    """The results file, from the repository's root where it is in there."""
    path = campaign.results.path.resolve()
    return path.relative_to(RESULTS.parent).as_posix() if path.is_relative_to(RESULTS.parent) else path.name


def part_tables(part: Part, frontiers: Sequence[Frontier]) -> dict[str, Any]:
    """What the page says of one configuration beside its figures; cards that were asked at one batch are above."""
    kinds = by_kind([own for own in frontiers if len(own.contexts) > 1])
    return {
        "configuration": configuration_text(part.configuration),
        "exact": exact_text(part),
        "resident": f"{next(iter(part.ran.values())).baseline_bytes / GB:,.1f} GB",
        "forms": [(f.derived.phase, f.derived.name, "\n".join(formula_text(f))) for f in part.derived],
        "breakdown": table(("phase, shape", *SEGMENTS, "peak, bytes"), breakdown_rows(part)),
        "all_points": point_table(part),
        "count_text": f"All {counted(len(part.ran) + len(part.refused) + len(part.invented))}",
        "frontiers": [(kind_text(*kind), *frontier_table(own)) for kind, own in kinds.items()],
    }


def environment_rows(environment: Environment) -> list[tuple[str, str]]:
    """Every field of the environment but the card's own number, and the fingerprint that they make."""
    names = [f.name for f in dataclasses.fields(environment) if f.name not in TOLD_APART]
    rows = [("fingerprint", environment.fingerprint())]
    rows += [(name, _value(getattr(environment, name))) for name in names]
    probes = (f"{p.asked_bytes:,} → {p.allocated_bytes:,} → {p.reserved_bytes:,}" for p in environment.allocator)
    return [*rows, ("allocator (bytes asked → allocated → reserved)", "; ".join(probes) or "–")]


def _value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value) if value not in (None, "") else "–"


def commands(campaign: Campaign, parts: Sequence[Part]) -> list[str]:
    """What makes these numbers again, and this page of them."""
    environment = campaign.results.environment
    grid = grid_of(environment.grid_sha256)
    label = shlex.quote(environment.card)
    model = f"MODEL={shlex.quote(model_of(campaign.results))}"
    card = f"{kind_of(environment).option}={label}"
    note = "" if grid else f"   # a grid of SHA-256 {environment.grid_sha256[:12]}, which is not in configs/grids"
    lines = [f"make measure {model} GRID={grid or '…'} {card}{note}"]
    if variants := " ".join(dict.fromkeys(variant_of(p.configuration) for p in parts if p.derived)):
        lines.append(f"make derive {model} VARIANT={shlex.quote(variants)} FAKE={label}")
    if campaign.results.path.resolve() in [path.resolve() for path in main_campaigns()]:
        return [*lines, "make calibrate report RESULTS=results"]
    file = f"FILE={shlex.quote(source_text(campaign))}"
    ran = any(isinstance(m.outcome, Measured) for m in campaign.results.measurements)
    return [*lines, *([f"make calibrate {file}"] if ran else []), f"make report {file} RESULTS=report"]


def grid_of(sha256: str) -> str:
    """The name of the grid with this checksum in ``configs/grids``; "" if there is none any more."""
    for path in sorted(GRIDS.glob("*.toml")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path.stem
    return ""
