"""Holds any estimator against stored measurements: a name, a Python function, a command, or a CSV of predictions."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.estimating.breakdown import Breakdown, Estimator, EstimatorError, Quantity
from vram_ledger.analysis.estimating.command import DEADLINE_S, python_function, running
from vram_ledger.analysis.estimating.ours import calibrated, exact_terms, held_out
from vram_ledger.analysis.estimating.predictions import read_predictions
from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.ground.kinds import kind_of
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.analysis.refereeing.score import Error, Tolerance, compared, errors, has

OURS: dict[str, Callable[[Campaign], Estimator]] = {
    "ours": lambda campaign: _calibrated(campaign),
    "ours-held-out": lambda campaign: held_out(campaign.results, campaign.shapes),
    "exact-terms": lambda campaign: exact_terms,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An estimator's errors at the points of a campaign. claims: the measured quantity that it says it predicts.

    against: the quantity that the total was held against. left_out: points at which that is not known.
    """

    estimator: str
    campaign: Campaign
    claims: Quantity
    against: Quantity
    left_out: int
    errors: tuple[Error, ...]

    @property
    def compared_with(self) -> str:
        """The quantity that the total was held against, in words, and at how many points it could not be:

        "requested (replayed)", "process (measured; unknown at 3 of 49 points)".
        """
        kind = kind_of(self.campaign.results.environment)
        missing = f"; unknown at {self.left_out} of {len(self.campaign.points)} points" if self.left_out else ""
        return f"{kind.counter(self.against)} ({kind.word}{missing})"

    @property
    def totals(self) -> tuple[Error, ...]:
        """The errors of the total, a point each."""
        return tuple(e for e in self.errors if e.term == "total")

    def beyond(self, tolerance: Tolerance) -> tuple[Error, ...]:
        """The totals that a tolerance does not let through."""
        return tuple(e for e in self.totals if not tolerance.allows(e))


@contextmanager
def opened(text: str, deadline_s: float = DEADLINE_S) -> Iterator[Callable[[Campaign], Estimator]]:
    """The estimator of ``text``, by campaign; a command runs until the block is left.

    :class:`EstimatorError` says what ``text`` could have been if it is nothing.
    """
    if text in ESTIMATORS:
        yield lambda campaign: ESTIMATORS[text]
    elif text in OURS:
        yield OURS[text]
    elif text.endswith(".csv") and " " not in text:
        estimator = read_predictions(Path(text))
        yield lambda campaign: estimator
    else:
        with running(_words(text), deadline_s) as command:
            yield lambda campaign: command.estimate


def _words(text: str) -> Sequence[str]:
    if re.fullmatch(r"[^\s:]+\.py:\w+", text):
        return python_function(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise EstimatorError(f"{text}: not a command for a shell ({error})") from error
    if not words or (len(words) == 1 and "/" not in text and "." not in text):
        names = ", ".join((*OURS, *ESTIMATORS))
        raise EstimatorError(
            f"{text!r} is no estimator: give path/file.py:function, a command with its arguments, a .csv, "
            f"or one of {names}"
        )
    return words


def scored(name: str, estimator: Estimator, campaign: Campaign) -> Scored:
    """Every point of a campaign, asked and compared."""
    answers: list[Breakdown] = [estimator(point.request) for point in campaign.points]
    claims = list(dict.fromkeys(answer.predicts for answer in answers))
    if len(claims) > 1:
        raise EstimatorError(f"{name}: predicts {' and '.join(claims)}; an estimator claims one quantity")
    against = compared(claims[0], (point.outcome for point in campaign.points))
    known = [pair for pair in zip(campaign.points, answers, strict=True) if has(pair[0].outcome, against)]
    return Scored(
        estimator=name,
        campaign=campaign,
        claims=claims[0],
        against=against,
        left_out=len(answers) - len(known),
        errors=tuple(e for point, answer in known for e in errors(point, answer, against)),
    )


def score_all(text: str, campaigns: Sequence[Campaign], deadline_s: float = DEADLINE_S) -> list[Scored]:
    """An estimator's scores on each campaign."""
    with opened(text, deadline_s) as estimator_of:
        return [scored(text, estimator_of(campaign), campaign) for campaign in campaigns]


def _calibrated(campaign: Campaign) -> Estimator:
    if campaign.calibration is None:
        raise EstimatorError(f"ours: no calibration is stored beside {campaign.results.path}")
    return calibrated(campaign.calibration)
