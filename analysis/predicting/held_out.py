"""Scores on points that an answer was not made from: other contexts, other batches, another grid, another model.

Every answer states an interval; what counts is the share of points inside. A source that does not answer a point
(outside what it was fitted to) is not wrong about it: how many it answered stands beside.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.calibrating.calibration import NotCalibrated, make_calibration
from vram_ledger.analysis.derivation.derived import SOURCE_FIELDS
from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.evidence.lines import workspace_bytes
from vram_ledger.analysis.evidence.tables import banner_lines
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.ground.kinds import WORDS, Kind, kind_of
from vram_ledger.analysis.ground.markdown import gb, percent, table
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.analysis.predicting.pinned import pinned_bytes
from vram_ledger.analysis.predicting.simulated import NEAREST, Excess, Simulated, SimulatedPoint
from vram_ledger.analysis.predicting.sources import Source, calibrated_source, program_source
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.harness.records import PHASES, Measurement, Workload

HEADER = (
    "answered from", "asked about", "which were", "points", "answered", "inside", "median error, GB", "worst error, GB",
    "median width, GB",
)  # fmt: skip
READ_OFF = ("qwen3.5-27b", "qwen3.5-64l-mini", "qwen3.5-64l-nano")  # whose ledgers the program was read off
FOLDS = 10
OTHERS, ITS_OWN = "other models' allocator", "its own allocator, a tenth left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An answer as its middle and bounds."""

    bytes: int
    least_bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Answers beside what was found, point by point; ``None`` where there was no answer. kind: of what was found."""

    source: str
    asked: str
    kind: Kind
    pairs: tuple[tuple[Interval | None, int], ...]

    @property
    def answered(self) -> tuple[tuple[Interval, int], ...]:
        """The points that were answered."""
        return tuple((answer, found) for answer, found in self.pairs if answer is not None)

    @property
    def inside(self) -> int:
        """How many of those lie inside the stated interval."""
        return sum(answer.least_bytes <= found <= answer.most_bytes for answer, found in self.answered)


def other_points(campaign: Campaign, word: str, key: Callable[[Measurement], int]) -> HeldOut:
    """Each point answered from a fit to those of the same campaign that differ in ``key``, in words ``word``."""
    results = campaign.results
    sources: dict[int, Source] = {}
    for value in sorted({key(m) for m in results.measurements}):
        part = dataclasses.replace(results, measurements=tuple(m for m in results.measurements if key(m) != value))
        try:
            made = make_calibration(part, all_fitted_terms(part), judge(part, campaign.shapes), f"other {word}")
        except NotCalibrated:  # the points that are left can't tell every coefficient
            sources[value] = _silent
        else:
            sources[value] = calibrated_source(made, results.environment.card)
    pairs = []
    for point in campaign.points:
        measurement = Measurement(workload=point.request.workload, repeat=0, outcome=point.outcome)
        answer = _asked(sources[key(measurement)], point.request)
        pairs.append((answer, point.outcome.warm.requested_bytes - workspace_bytes(point.outcome)))
    return HeldOut(
        source=f"a fit to all other {word}",
        asked=f"{campaign.model} on {results.environment.card}, its campaign",
        kind=kind_of(results.environment),
        pairs=tuple(pairs),
    )


def _silent(request: Request) -> None:
    """The source that has no answer."""


def other_grid(campaign: Campaign, simulated: Simulated) -> HeldOut:
    """Random shapes of the same configuration answered from the campaign's calibration, a card's workspace left out."""
    assert campaign.calibration is not None, "only a calibrated campaign can answer"
    environment = campaign.results.environment
    source = calibrated_source(campaign.calibration, environment.card)
    name = f"the calibration on {environment.card} ({kind_of(environment).word})"
    return _random_shapes(name, source, simulated, campaign.shapes)


def other_models(simulated: Simulated, shapes: Shapes) -> HeldOut:
    """Random shapes of a model answered by the program in symbols, which was read off the 27B's ledgers."""
    return _random_shapes("the family's program in symbols", _program(simulated, shapes), simulated, shapes)


def _program(simulated: Simulated, shapes: Shapes) -> Source:
    """The program in symbols on the card that the points were replayed for."""
    return program_source(shapes, simulated.environment.gpu_capability or "")


def other_allocators(own: Simulated, others: Sequence[Simulated], shapes: Shapes) -> HeldOut:
    """What a device must have: the program's requested bytes, and the allocator's excess as other models have it."""
    shares = {phase: [share for other in others for share in other.shares(phase)] for phase in PHASES}
    margins = {phase: Excess(found) for phase, found in shares.items()}
    pairs = [_least_device(own, point, margins[point.phase], shapes) for point in own.points]
    return _of_simulated(OTHERS, own, "least device", pairs)


def own_allocator(own: Simulated, shapes: Shapes) -> HeldOut:
    """The same from the model's own points, a tenth of them left out at a time and asked about."""
    pairs = []
    for fold in range(FOLDS):
        rest = dataclasses.replace(own, points=tuple(p for i, p in enumerate(own.points) if i % FOLDS != fold))
        margins = {phase: Excess(rest.shares(phase)) for phase in PHASES}
        pairs += [_least_device(own, point, margins[point.phase], shapes) for point in own.points[fold::FOLDS]]
    return _of_simulated(ITS_OWN, own, "least device", pairs)


def _least_device(own: Simulated, point: SimulatedPoint, excess: Excess, shapes: Shapes) -> tuple[Interval | None, int]:
    request = _request(own, point, shapes)
    answer = _with_excess(_asked(_program(own, shapes), request), excess, own.resident_bytes)
    pinned = pinned_bytes(shapes, request.workload)
    return (answer and dataclasses.replace(answer, most_bytes=answer.most_bytes + pinned)), point.least_bytes


def _with_excess(answer: Interval | None, excess: Excess, resident_bytes: int) -> Interval | None:
    if answer is None:
        return None
    least, most = excess.bytes(answer.bytes - resident_bytes)
    return Interval(
        bytes=answer.bytes + (least + most) // 2,
        least_bytes=answer.least_bytes + least,
        most_bytes=answer.most_bytes + most,
    )


def _random_shapes(name: str, source: Source, simulated: Simulated, shapes: Shapes) -> HeldOut:
    pairs = [(_asked(source, _request(simulated, p, shapes)), p.requested_bytes) for p in simulated.points]
    return _of_simulated(name, simulated, "random shapes", pairs)


def _of_simulated(
    source: str, simulated: Simulated, what: str, pairs: Sequence[tuple[Interval | None, int]]
) -> HeldOut:
    kind = kind_of(simulated.environment)
    return HeldOut(source=source, asked=f"{_name(simulated)}: {what}", kind=kind, pairs=tuple(pairs))


def _request(simulated: Simulated, point: SimulatedPoint, shapes: Shapes) -> Request:
    workload = Workload(
        configuration=simulated.configuration,
        phase=point.phase,
        context_tokens=point.context_tokens,
        batch=point.batch,
    )
    return Request(workload=workload, shapes=shapes, config=simulated.configuration.model)


def _asked(source: Source, request: Request) -> Interval | None:
    found = source(request)
    if found is None:
        return None
    half = found.half_width_bytes
    return Interval(bytes=found.bytes, least_bytes=found.bytes - half, most_bytes=found.bytes + half)


def _name(simulated: Simulated) -> str:
    chunk = simulated.configuration.prefill_chunk_tokens
    return simulated.configuration.model + (f" in chunks of {chunk:,}" if chunk else "")


def held_out_scores(campaigns: Sequence[Campaign], simulated: Sequence[tuple[Simulated, Shapes]]) -> Iterator[HeldOut]:
    """Every score, given the calibrated campaigns and the simulated points with their models' shapes."""
    for campaign in campaigns:
        if campaign.calibration is None:
            continue
        yield other_points(campaign, "contexts", lambda m: m.workload.context_tokens)
        yield other_points(campaign, "batches", lambda m: m.workload.batch)
        for own, _ in simulated:
            asked = own.configuration in {p.request.workload.configuration for p in campaign.points}
            if asked and _same_program(own, campaign):
                yield other_grid(campaign, own)
    for own, shapes in simulated:
        if own.configuration.model not in READ_OFF:
            yield other_models(own, shapes)
    for own, shapes in simulated:
        alike = [s for s, _ in simulated if s.chunked == own.chunked]
        yield other_allocators(own, [s for s in alike if s.configuration.model != own.configuration.model], shapes)
        yield own_allocator(own, shapes)


def _same_program(simulated: Simulated, campaign: Campaign) -> bool:
    """Whether both ran the same code; else one is no answer about the other, whatever the device."""
    ours, theirs = campaign.results.environment, simulated.environment
    return all(getattr(ours, name) == getattr(theirs, name) for name in SOURCE_FIELDS)


def held_out_markdown(scores: Sequence[HeldOut]) -> Iterator[str]:
    """The table, with what its columns mean."""
    yield "# Answers about points that they were not made from"
    yield ""
    kinds = {score.kind.word: score.kind for score in scores}
    yield from banner_lines(*(kinds[word] for word in WORDS if word in kinds))
    yield "Generated by `make scoreboard`. Inside: the share of the answered points within the stated interval, whose"
    yield "width stands last. A fit without residuals and the program state a single number, not a range: inside then"
    yield "means to the byte. A fit answers only within its batches and contexts. The random shapes are those of"
    yield "`results/<gpu>/simulated`; the program in symbols was read off the ledgers of the 27B, the scaled-down and"
    yield "the counterfactual models, so only the others are asked about. The least device is the smallest on which the"
    yield f"sequence ran, by the allocator's rules; its interval is from the {NEAREST} nearest points of the other"
    yield "models, or of the model itself but a tenth that is left out and asked about, and is to hold 9 in 10. It"
    yield f"holds {_pooled(scores, OTHERS)} of the points asked of other models, {_pooled(scores, ITS_OWN)} of its own."
    yield ""
    yield from table(HEADER, [_row(score) for score in scores], words=3)


def _pooled(scores: Sequence[HeldOut], source: str) -> str:
    own = [score for score in scores if score.source == source]
    answered = sum(len(score.answered) for score in own)
    return percent(sum(score.inside for score in own) / answered) if answered else "none"


def _row(score: HeldOut) -> list[str]:
    answered = score.answered
    if not answered:
        return [score.source, score.asked, score.kind.word, str(len(score.pairs)), "0", *["–"] * 4]
    misses = [answer.bytes - found for answer, found in answered]
    widths = [answer.most_bytes - answer.least_bytes for answer, _ in answered]
    return [
        score.source,
        score.asked,
        score.kind.word,
        str(len(score.pairs)),
        str(len(answered)),
        percent(score.inside / len(answered)),
        gb(round(statistics.median(map(abs, misses))), signed=False),
        gb(max(misses, key=abs)),
        gb(round(statistics.median(widths)), signed=False),
    ]
