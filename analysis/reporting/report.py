"""The report: figures and tables of campaigns, put together on one page that needs nothing but itself."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vram_ledger.analysis.estimating.breakdown import Estimator, EstimatorError
from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.evidence.lines import MixedError
from vram_ledger.analysis.ground.files import put
from vram_ledger.analysis.ground.kinds import REPLAYED, kind_of, predicted_banner
from vram_ledger.analysis.predicting.capacity import Frontier
from vram_ledger.analysis.refereeing.campaign import Campaign, stored_campaign
from vram_ledger.analysis.refereeing.scoreboard import Board, assumptions, scoreboard
from vram_ledger.analysis.refereeing.validation import title
from vram_ledger.analysis.reporting import sections, tabular
from vram_ledger.analysis.reporting.bars import breakdown
from vram_ledger.analysis.reporting.capacity import (
    by_kind,
    frontier_figure,
    frontier_heading,
    holds_anything,
    predicted_role,
    words_of,
)
from vram_ledger.analysis.reporting.drawing import Drawing, styled
from vram_ledger.analysis.reporting.estimates import estimator_batches, estimators
from vram_ledger.analysis.reporting.findings import findings
from vram_ledger.analysis.reporting.palette import properties
from vram_ledger.analysis.reporting.part import Part, chosen, parts_of
from vram_ledger.analysis.reporting.peaks import counters, peaks
from vram_ledger.analysis.reporting.residuals import residual_map
from vram_ledger.analysis.reporting.svg import MARK, inline, plain
from vram_ledger.harness.records import Phase

FITS = 5_000  # fits times lines that the held-out row may take: about a second
HELD_OUT = "ours-held-out"
CONTENTS = (
    ("peaks", "Peak against context"),
    ("breakdown", "What the peak is made of"),
    ("residuals", "Residual map"),
    ("frontier", "What fits which GPU"),
    ("drift", "Drift"),
    ("scoreboard", "Scoreboard"),
    ("environment", "Environment"),
)
FrontiersOf = Callable[[Part], Sequence[Frontier]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The page and the figures that stand on it."""

    html: str
    drawings: tuple[Drawing, ...]


def no_frontiers(part: Part) -> Sequence[Frontier]:
    """Nothing is known of what fits which GPU; the section is left out."""
    return ()


def build(files: Sequence[Path], frontiers_of: FrontiersOf = no_frontiers) -> Report:
    """The report on these results files. frontiers_of: what fits which GPU, of a configuration."""
    campaigns = [(campaign, parts_of(campaign)) for campaign in map(stored_campaign, files)]
    _distinct(part for _, parts in campaigns for part in parts)
    with styled():
        chapters = [_chapter(campaign, parts, frontiers_of) for campaign, parts in campaigns]
    drawings = tuple(d for chapter in chapters for part in chapter["parts"] for group in part["groups"] for d in group)
    return Report(html=_page(chapters), drawings=drawings)


def write(report: Report, folder: Path) -> Iterator[Path]:
    """Puts the figures and the page into the folder; figures of an earlier report that this one lacks are removed."""
    figures = folder / "figures"
    wanted = {figures / f"{drawing.name}.svg": drawing.svg for drawing in report.drawings}
    for path, text in wanted.items():
        put(path, text)
    put(folder / "report.html", report.html)
    for path in sorted(set(figures.glob("*.svg")) - set(wanted)):
        if MARK in path.read_text(encoding="utf-8", errors="replace")[:200]:
            path.unlink()
    yield folder / "report.html"
    yield from wanted


def _distinct(parts: Iterator[Part]) -> None:
    found = Counter(part.name for part in parts)
    if twice := [name for name, count in found.items() if count > 1]:
        raise MixedError(f"{twice[0]} is in two of the results files; name the one to report (FILE=…)")


def _board(campaign: Campaign) -> tuple[Board | None, str]:
    """The scoreboard, and who is not on it, and why; none where there is nothing to hold anybody against."""
    if not campaign.points:
        return None, ""
    silent = [name for name, estimator in ESTIMATORS.items() if not _answers(estimator, campaign)]
    notes = [f"{' and '.join(silent)} can’t tell for this model."] if silent else []
    contexts = len({p.request.context_tokens for p in campaign.points})
    slow = campaign.calibration is not None and contexts * len(campaign.results.measurements) > FITS
    board = scoreboard(campaign, (*silent, *((HELD_OUT,) if slow else ())))
    notes += [f"{name} is left out: {why}." for name, why in board.silent.items()]
    notes += [f"{HELD_OUT} is left out: it would take {contexts:,} fits."] if slow else []
    return board, " ".join(notes)


def _answers(estimator: Estimator, campaign: Campaign) -> bool:
    try:
        for point in campaign.points:
            estimator(point.request)
    except EstimatorError:
        return False
    return True


def _chapter(campaign: Campaign, parts: Sequence[Part], frontiers_of: FrontiersOf) -> dict[str, Any]:
    board, note = _board(campaign)
    frontiers = [frontiers_of(part) for part in parts]
    written = [_part(part, own) for part, own in zip(parts, frontiers, strict=True)]
    words = words_of([frontier for own in frontiers for frontier in own])
    missing = {
        *(() if any(p["groups"][3] for p in written) else ("frontier",)),
        *(() if board else ("scoreboard",)),
        *(() if written else ("peaks", "breakdown", "residuals")),
    }
    return {
        "id": f"c-{campaign.results.environment.fingerprint()}",
        "contents": [(name, text) for name, text in CONTENTS if name not in missing],
        "kind": kind_of(campaign.results.environment),
        "predicted": predicted_banner(words),
        "predicted_role": predicted_role(words),
        "subject": title(campaign),
        "findings": findings(parts, board),
        "parts": written,
        "board": tabular.board_tables(board) if board else [],
        "board_medians": tabular.median_tables(board) if board else [],
        "board_assumptions": list(assumptions(board)) if board else [],
        "board_note": note,
        **sections.campaign_facts(campaign, parts),
    }


def _part(part: Part, frontiers: Sequence[Frontier]) -> dict[str, Any]:
    """Everything of one configuration: groups of figures in the order of the page, then its tables."""
    phases = part.phases
    maps = [residual_map(part, phase, name) for name in ("", "fitmygpu") for phase in phases]
    groups = [
        [
            *(peaks(part, phase) for phase in phases),
            *(drawing for phase in phases if (drawing := counters(part, phase))),
            *(estimators(part, phase, b) for i in (0, 1) for phase in phases for b in _nth(part, phase, i)),
        ],
        [breakdown(part, phase) for phase in phases if chosen(part, phase)],
        [drawing for drawing in maps if drawing],
        _frontiers(part, frontiers),
    ]
    return {"groups": groups, **sections.part_tables(part, frontiers)}


def _nth(part: Part, phase: Phase, number: int) -> tuple[int, ...]:
    """The first or the second of the batches at which estimators are drawn, if there are so many."""
    return estimator_batches(part, phase)[number : number + 1]


def _frontiers(part: Part, frontiers: Sequence[Frontier]) -> list[Drawing]:
    caption = (
        "Solid line: fits. Band: within the margin: what the allocator adds is known in an interval, at most 1 GiB is "
        "assumed beside it, and a card has what one of its label reported, else its nominal memory or up to a tenth "
        "less. Nothing longer than 262,144 tokens was tried. One card of each size; those that hold the same are one "
        "line, and the table names them. make capacity answers for every card of configs/gpus.toml."
    )
    drawings = []
    for (phase, chunk), own in by_kind(frontiers).items():
        if any(map(holds_anything, own)):
            heading = frontier_heading(part.model, own)
            others = set(words_of(own)) - {REPLAYED.word}
            counted = " What was measured or emulated on a card stands there instead." if others else ""
            name = f"{part.name}.{phase}{f'-chunk{chunk}' if chunk else ''}.frontier"
            drawings.append(frontier_figure(name, heading, own, f"{caption}{counted}{_set_aside(phase, chunk)}"))
    return drawings


def _set_aside(phase: Phase, chunk_tokens: int) -> str:
    """What a frontier of that kind leaves out, in words."""
    if phase == "decode":
        return " Set aside: shapes at which the old cache may stay pinned; `make predict` names them."
    return " Beyond one chunk, contexts are whole chunks." if chunk_tokens else ""


def _page(chapters: Sequence[dict[str, Any]]) -> str:
    templates = Templates(
        loader=PackageLoader("vram_ledger.analysis.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    templates.filters["inline"] = _inlined
    templates.filters["breakable"] = lambda cell: Markup(".<wbr>").join(map(escape, plain(cell).split(".")))
    return templates.get_template("report.html.j2").render(
        chapters=chapters,
        predicted=any(p["groups"][3] for c in chapters for p in c["parts"]),
        kinds={c["kind"].word: c["kind"] for c in chapters if c["kind"].banner}.values(),
        light=properties(dark=False),
        dark=properties(dark=True),
    )


def _inlined(drawing: Drawing) -> Markup:
    """A figure as markup; its text was escaped when it was drawn."""
    return Markup(inline(drawing.svg, drawing.name, f"{drawing.title}. {drawing.description}"))
