"""The report: figures and tables of campaigns, put together on one page that needs nothing but itself."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.evidence.lines import MixedError
from vram_ledger.analysis.ground.files import put
from vram_ledger.analysis.ground.kinds import MEASURED, kind_of, predicted_banner
from vram_ledger.analysis.judging.campaign import model_of
from vram_ledger.analysis.predicting.capacity import Frontier
from vram_ledger.analysis.public.evidence import Row
from vram_ledger.analysis.refereeing.campaign import Campaign, stored_campaign
from vram_ledger.analysis.refereeing.scoreboard import Board, assumptions, scoreboard
from vram_ledger.analysis.refereeing.validation import title
from vram_ledger.analysis.reporting import published, sections, tabular
from vram_ledger.analysis.reporting.bars import breakdown, made_of
from vram_ledger.analysis.reporting.capacity import predicted_role, rooms, words_of
from vram_ledger.analysis.reporting.drawing import Drawing, styled
from vram_ledger.analysis.reporting.estimates import estimator_batches, estimators
from vram_ledger.analysis.reporting.findings import findings
from vram_ledger.analysis.reporting.palette import properties
from vram_ledger.analysis.reporting.part import Part, chosen, parts_of
from vram_ledger.analysis.reporting.peaks import counters, peaks
from vram_ledger.analysis.reporting.residuals import residual_map
from vram_ledger.analysis.reporting.svg import MARK, inline, own_id, plain
from vram_ledger.harness.records import Phase
from vram_ledger.home import own_version

MINIATURES = ("counterfactual-", "-mini", "-nano")  # in the names of models that nobody owns
FrontiersOf = Callable[[Part], Sequence[Frontier]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The page and the figures that stand on it."""

    html: str
    drawings: tuple[Drawing, ...]


def no_frontiers(part: Part) -> Sequence[Frontier]:
    """Nothing is known of what fits which GPU; the section is left out."""
    return ()


def build(files: Sequence[Path], frontiers_of: FrontiersOf = no_frontiers, evidence: Sequence[Row] = ()) -> Report:
    """The report on these results files.

    frontiers_of: what fits which GPU, of a configuration. evidence: figures that others published of real cards.
    """
    campaigns = [(campaign, parts_of(campaign)) for campaign in map(stored_campaign, files)]
    _distinct(part for _, parts in campaigns for part in parts)
    grouped: dict[str, list[tuple[Campaign, tuple[Part, ...]]]] = {}
    for own in campaigns:
        grouped.setdefault(model_of(own[0].results), []).append(own)
    owned = [model for model in grouped if not _miniature(model)]
    with styled():
        models = [
            _model(model, grouped[model], frontiers_of, shown=model in owned or not owned)
            for model in sorted(grouped, key=_miniature)
        ]
        picture = next((d for m in models for p in m["campaigns"][0]["parts"] if (d := made_of(p["part"]))), None)
    drawings = [d for m in models for c in m["campaigns"] for p in c["parts"] for group in p["groups"] for d in group]
    return Report(html=_page(models, picture, evidence), drawings=(*([picture] if picture else ()), *drawings))


def _miniature(model: str) -> bool:
    return any(mark in model for mark in MINIATURES)


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
    board = scoreboard(campaign, ("ours-held-out",))
    silent = [name for name in board.silent if name in ESTIMATORS]
    notes = [f"{' and '.join(silent)} can’t tell for this model."] if silent else []
    notes += [f"{name} is left out: {why}." for name, why in board.silent.items() if name not in ESTIMATORS]
    return board, " ".join(notes)


def _model(
    model: str, campaigns: Sequence[tuple[Campaign, Sequence[Part]]], frontiers_of: FrontiersOf, shown: bool
) -> dict[str, Any]:
    """A model's chapter: its first campaign and those of real cards with their figures, the others as tables."""
    first, written = campaigns[0][0], []
    for campaign, parts in campaigns:
        full = shown and (campaign is first or kind_of(campaign.results.environment) == MEASURED)
        written.append(_campaign(campaign, parts, frontiers_of, full))
    return {
        "id": f"m-{own_id(model)}",
        "name": model,
        "shown": shown,
        "campaigns": written,
        "beside": tabular.beside(campaigns, [own["summary"] for own in written]),
    }


def _campaign(campaign: Campaign, parts: Sequence[Part], frontiers_of: FrontiersOf, full: bool) -> dict[str, Any]:
    board, note = _board(campaign) if full else (None, "")
    written = [_part(part, frontiers_of(part) if full else (), full) for part in parts]
    return {
        "id": f"c-{campaign.results.environment.fingerprint()}",
        "full": full,
        "kind": kind_of(campaign.results.environment),
        "subject": title(campaign),
        "findings": findings(parts, board) if full else [],
        "parts": written,
        "board": tabular.board_tables(board) if board else [],
        "board_assumptions": list(assumptions(board)) if board else [],
        "board_note": note,
        **sections.campaign_facts(campaign, parts),
    }


def _part(part: Part, frontiers: Sequence[Frontier], full: bool) -> dict[str, Any]:
    """Everything of one configuration: groups of figures in the order of the page, then its tables."""
    phases = part.phases if full else ()
    groups = [
        [
            *(peaks(part, phase) for phase in phases),
            *(drawing for phase in phases if (drawing := counters(part, phase))),
            *(estimators(part, phase, b) for i in (0, 1) for phase in phases for b in _nth(part, phase, i)),
        ],
        [breakdown(part, phase) for phase in phases if chosen(part, phase)],
    ]
    words = words_of(frontiers)
    return {
        "part": part,
        "groups": groups,
        "maps": [own for name in ("", "fitmygpu") for phase in phases if (own := residual_map(part, phase, name))],
        "rooms": rooms(frontiers),
        "predicted": predicted_banner(words),
        "predicted_role": predicted_role(words),
        **sections.part_tables(part, frontiers),
    }


def _nth(part: Part, phase: Phase, number: int) -> tuple[int, ...]:
    """The first or the second of the batches at which estimators are drawn, if there are so many."""
    return estimator_batches(part, phase)[number : number + 1]


def _page(models: Sequence[dict[str, Any]], picture: Drawing | None, evidence: Sequence[Row]) -> str:
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
    campaigns = [c for m in models for c in m["campaigns"]]
    firsts = [(model["name"], part) for model in models for part in model["campaigns"][0]["parts"][:1]]
    answered = [(name, part) for name, part in firsts if part["rooms"]]
    return templates.get_template("report.html.j2").render(
        models=models,
        picture=picture,
        answer=answered[0] if answered else None,
        matrix=tabular.matrix(answered[0][1]["rooms"]) if answered else None,
        lookup=tabular.lookup([(name, part["rooms"]) for name, part in answered]),
        software=sorted({c["software"] for c in campaigns}),
        version=own_version(),
        evidence=published.evidence_facts(evidence) if evidence else None,
        real=[c for c in campaigns if c["kind"] == MEASURED],
        kinds={c["kind"].word: c["kind"] for c in campaigns if c["kind"].banner}.values(),
        light=properties(dark=False),
        dark=properties(dark=True),
    )


def _inlined(drawing: Drawing) -> Markup:
    """A figure as markup; its text was escaped when it was drawn."""
    return Markup(inline(drawing.svg, drawing.name, f"{drawing.title}. {drawing.description}"))
