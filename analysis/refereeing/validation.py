"""The validation of one estimator as Markdown: by term, by workload, what it assumes, and what changed."""

import dataclasses
from collections.abc import Iterator, Sequence

from vram_ledger.analysis.evidence.tables import banner_lines, environment_text
from vram_ledger.analysis.ground.kinds import REPLAYED, kind_of
from vram_ledger.analysis.ground.markdown import gb, percent, table
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.analysis.refereeing.changes import changes
from vram_ledger.analysis.refereeing.referee import Scored, Scores
from vram_ledger.analysis.refereeing.score import TERMS, Error, by_term
from vram_ledger.analysis.refereeing.suspects import named

TERM_HEADER = ("term", "assumes", "n", "median error, GB", "bias, GB", "worst, GB", "worst, %", "worst at")
POINT_TERMS = ("weights", "kv_cache", "state", "rest", "total")


def validation_markdown(found: Scores, replaced: Scores | None, points: bool) -> Iterator[str]:
    """The lines of the whole report. ``replaced``: the version before, scored. points: with a row for each workload."""
    yield f"# {found.scored[0].estimator} against counted bytes"
    for own in found.scored:
        yield from ("", f"## {title(own.campaign)}", "")
        yield from campaign_lines(own.campaign)
        yield f"{own.estimator} claims the {own.claims} bytes. Compared with: {own.compared_with}."
        if own.against != own.claims:
            yield f"These results have no {own.claims} bytes, so what lies between the two is in the error of the rest."
        if own.declined:
            yield f"It declined {own.declined} of {len(own.campaign.points)} points, and is held against the rest."
        yield from ("", *term_table(own.errors))
        if points:
            yield from ("", *point_table(own.errors))
    for before, now in pairs(found, replaced):
        lines = changes(before.errors, now.errors)
        yield from ("", f"## Instead of {before.estimator}, on {title(now.campaign)}", "")
        yield from [f"- {line}" for line in lines] or ["- nothing changed"]
    yield from (f"\nDeclined whole: {why}" for why in found.declined)
    if found.unused:
        yield f"\nRows that answered nothing: {', '.join(found.unused)}"


def pairs(found: Scores, replaced: Scores | None) -> list[tuple[Scored, Scored]]:
    """The version before and the one now, for each campaign that both answer."""
    before = {own.campaign.results.path: own for own in replaced.scored} if replaced else {}
    known = ((before.get(own.campaign.results.path), own) for own in found.scored)
    return [(old, now) for old, now in known if old is not None]


def plain(found: Scores) -> list[dict[str, object]]:
    """The scores for programs: an object a campaign, its terms and its points."""
    return [
        {
            "estimator": own.estimator,
            "model": own.campaign.model,
            "gpu": own.campaign.results.environment.gpu_label,
            "kind": kind_of(own.campaign.results.environment).word,
            "claims": own.claims,
            "against": own.against,
            "declined": own.declined,
            "terms": {term: dataclasses.asdict(score) for term, score in by_term(own.errors).items()},
            "assumes": named(own.errors),
            "points": [
                {
                    "phase": e.request.workload.phase,
                    "context_tokens": e.request.context_tokens,
                    "batch": e.request.batch,
                    "term": e.term,
                    "predicted_bytes": e.predicted_bytes,
                    "counted_bytes": e.measured_bytes,
                }
                for e in own.errors
            ],
        }
        for own in found.scored
    ]


def title(campaign: Campaign) -> str:
    """Which model, on what card."""
    return f"{campaign.model} on {campaign.results.environment.gpu_label}"


def campaign_lines(campaign: Campaign) -> Iterator[str]:
    """Where the points are from, and which were left out."""
    environment = campaign.results.environment
    kind = kind_of(environment)
    yield from banner_lines(kind)
    if kind is REPLAYED:
        yield "A replay has no rounding, no fragmentation and no CUDA context: an estimator that claims the allocated,"
        yield "process or device bytes is entitled to be higher by those, and only a card tells how much that is."
        yield ""
    elif kind.note:
        yield from (kind.note, "")
    yield f"{environment_text(environment)}"
    yield ""
    left_out = ""
    if campaign.left_out and campaign.gpu_bytes:
        card = f"{campaign.gpu_bytes / 2**30:.0f} GiB"
        left_out = (
            f"; {campaign.left_out} more were {kind.word} that need more than the card's {card}, and are left out"
        )
    if campaign.invented:
        left_out += f"; {campaign.invented} more read values that nothing had written, and are left out"
    yield f"{len(campaign.points)} points of `{campaign.results.path.name}`{left_out}."
    yield "Errors are predicted minus counted; GB is 10^9 bytes. The rest is an estimator's overhead and activations,"
    yield "held against what a peak has beside weights, cache and states: the transient, inputs, logits, buffers."


def term_table(found: Sequence[Error]) -> list[str]:
    """A row a term: how wrong, and by which wrong assumption where one gives its very numbers."""
    names, scores = named(found), by_term(found)
    rows = []
    for term in TERMS:
        if term not in scores:
            rows.append([term, "not given", *[""] * (len(TERM_HEADER) - 2)])
            continue
        s = scores[term]
        numbers = [gb(s.median_bytes, signed=False), gb(s.bias_bytes), gb(s.worst_bytes)]
        numbers.append(percent(s.worst_share) if term != "rest" else "")
        rows.append([term, names.get(term, ""), str(s.n), *numbers, s.worst_at])
    return table(TERM_HEADER, rows, words=2)


def point_table(found: Sequence[Error]) -> list[str]:
    """A row a workload: the signed error of each term, the predicted and measured total."""
    by_workload: dict[object, dict[str, Error]] = {}
    for error in found:
        by_workload.setdefault(error.request.workload, {})[error.term] = error
    rows = []
    for own in by_workload.values():
        total = own["total"]
        workload = total.request.workload
        rows.append(
            [
                workload.phase,
                f"{workload.context_tokens:,}",
                str(workload.batch),
                gb(total.predicted_bytes, signed=False),
                gb(total.measured_bytes, signed=False),
                *(gb(own[term].bytes) if term in own else "–" for term in POINT_TERMS),
                percent(total.bytes / total.measured_bytes, signed=True),
            ]
        )
    header = ("phase", "context", "batch", "predicted, GB", "counted, GB", *POINT_TERMS, "total, %")
    return table(header, rows)
