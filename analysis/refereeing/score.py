"""Predictions beside measured bytes, term by term: which points count, the errors at each, and what sums them up."""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.estimating.breakdown import Breakdown, EstimatorError, Quantity, Request
from vram_ledger.analysis.estimating.ours import cache_at_peak
from vram_ledger.analysis.evidence.lines import measured
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.ground.cards import UNITS
from vram_ledger.analysis.judging.drift import configurations
from vram_ledger.harness.records import Measured, ResultsFile

# The ledger of a peak. "state" is recurrent and conv state together; "rest" is what the peak has beside the terms
# above it: the transient, inputs, logits, buffers, and on a card rounding and context.
TERMS = ("weights", "kv_cache", "recurrent_state", "conv_state", "state", "rest", "total")
FACTOR = 4.0  # how far a prediction may be off and still be recognised as one in another unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A request and the measurement that answers it."""

    request: Request
    outcome: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """What an estimator said about one term at one point, beside what was measured."""

    request: Request
    term: str
    predicted_bytes: int
    measured_bytes: int

    @property
    def bytes(self) -> int:
        """Predicted minus counted: positive is too high."""
        return self.predicted_bytes - self.measured_bytes

    @property
    def share(self) -> float:
        """The same as a share of what was counted."""
        return self.bytes / self.measured_bytes if self.measured_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of one term in short, in bytes. bias: the mean, signed. worst: the largest, signed, and where."""

    n: int
    median_bytes: int
    bias_bytes: int
    worst_bytes: int
    worst_at: str
    median_share: float
    worst_share: float


def points(results: ResultsFile, shapes: Shapes, config: str, gpu_bytes: int | None) -> tuple[Point, ...]:
    """What ran, by context and batch. A replay knows no limit, so what the card could not hold is left out."""
    found = []
    for lines in configurations(results).values():
        for workload, outcome in measured(lines).items():
            request = Request(
                workload=workload,
                shapes=shapes,
                config=config,
                gpu_label=results.environment.card,
                gpu_bytes=gpu_bytes,
            )
            if gpu_bytes is None or outcome.warm.requested_bytes <= gpu_bytes:
                found.append(Point(request=request, outcome=outcome))
    return tuple(sorted(found, key=lambda p: (p.request.context_tokens, p.request.batch, p.request.workload.phase)))


def has(outcome: Measured, quantity: Quantity) -> bool:
    """Whether a quantity is known of a point: that of the process is not where segments were given back meanwhile."""
    return getattr(outcome.warm, f"{quantity}_bytes") is not None


def compared(claim: Quantity, outcomes: Iterable[Measured]) -> Quantity:
    """The quantity that a claim is held against, one for all points: itself, or "requested" where none has it."""
    return claim if any(has(outcome, claim) for outcome in outcomes) else "requested"


def measured_terms(point: Point, against: Quantity) -> dict[str, int]:
    """Measured bytes by term at the peak. Beyond "requested", rounding and context are in the rest."""
    workload, outcome = point.request.workload, point.outcome
    total = getattr(outcome.warm, f"{against}_bytes")
    held = outcome.held
    kv_cache = cache_at_peak(workload, held.kv_cache_bytes)
    state = held.recurrent_state_bytes + held.conv_state_bytes
    return {
        "weights": outcome.weights_bytes,
        "kv_cache": kv_cache,
        "recurrent_state": held.recurrent_state_bytes,
        "conv_state": held.conv_state_bytes,
        "state": state,
        "rest": total - outcome.weights_bytes - kv_cache - state,
        "total": total,
    }


def predicted_terms(answer: Breakdown) -> dict[str, int]:
    """Predicted bytes by term, without those that the estimator does not have."""
    parts = [part for part in (answer.recurrent_state_bytes, answer.conv_state_bytes) if part is not None]
    extra = [part for part in (answer.activations_bytes, answer.overhead_bytes) if part is not None]
    terms = {
        "weights": answer.weights_bytes,
        "kv_cache": answer.kv_cache_bytes,
        "recurrent_state": answer.recurrent_state_bytes,
        "conv_state": answer.conv_state_bytes,
        "state": answer.state_bytes if answer.state_bytes is not None else sum(parts) if len(parts) == 2 else None,
        "rest": sum(extra) if extra else None,
        "total": answer.total_bytes,
    }
    return {name: value for name, value in terms.items() if value is not None}


def errors(point: Point, answer: Breakdown, against: Quantity) -> tuple[Error, ...]:
    """The errors of one answer, its total held against a quantity that the point has.

    :class:`EstimatorError` if it is plainly in another unit than bytes.
    """
    truth, said = measured_terms(point, against), predicted_terms(answer)
    for name in ("total", "weights"):
        _in_bytes(point.request, name, said[name], truth[name])
    return tuple(
        Error(request=point.request, term=name, predicted_bytes=said[name], measured_bytes=truth[name])
        for name in TERMS
        if name in said
    )


def _in_bytes(request: Request, name: str, said: int, truth: int) -> None:
    for unit, size in UNITS.items():
        ratio = said / truth if truth else 1.0
        if 1 / FACTOR < ratio * size < FACTOR:
            hint = f"it looks like {unit}: multiply by {size:,}"
        elif 1 / FACTOR < ratio / size < FACTOR:
            hint = f"it looks like bytes taken for {unit}: divide by {size:,}"
        else:
            continue
        raise EstimatorError(f"{request.text}: {name}_bytes is {said:,}, where {truth:,} B were counted; {hint}")


def score(found: Iterable[Error]) -> Score | None:
    """The errors of one term in short; ``None`` if there are none."""
    listed = list(found)
    if not listed:
        return None
    worst = max(listed, key=lambda e: abs(e.bytes))
    shares = [abs(e.share) for e in listed]
    return Score(
        n=len(listed),
        median_bytes=round(statistics.median(abs(e.bytes) for e in listed)),
        bias_bytes=round(statistics.mean(e.bytes for e in listed)),
        worst_bytes=worst.bytes,
        worst_at=worst.request.text.partition(", ")[2],
        median_share=statistics.median(shares),
        worst_share=max(shares),
    )


def by_term(found: Sequence[Error]) -> dict[str, Score]:
    """A score for each term that the estimator has."""
    scores = {term: score(e for e in found if e.term == term) for term in TERMS}
    return {term: value for term, value in scores.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The largest error of a total that is let through: a share of the measured bytes, or bytes."""

    text: str
    allows: Callable[[Error], bool]


def read_tolerance(text: str) -> Tolerance:
    """A tolerance such as "5%", "2GB", "512MiB"; :class:`EstimatorError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|GB|GiB|MB|MiB|B)", text.strip())
    if not found:
        raise EstimatorError(f"tolerance {text!r} is not a share or an amount, such as 5%, 2GB or 512MiB")
    value, unit = float(found[1]), found[2]
    if unit == "%":
        return Tolerance(text=text, allows=lambda e: abs(e.bytes) <= value / 100 * e.measured_bytes)
    return Tolerance(text=text, allows=lambda e: abs(e.bytes) <= value * UNITS.get(unit, 1))
