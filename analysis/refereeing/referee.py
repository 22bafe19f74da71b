"""Holds any estimator against stored measurements: a name, a Python function, a command, or a CSV of predictions."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import isfile  # unlike a Path's, it takes a text that is no path
from pathlib import Path

from vram_ledger.analysis.estimating.breakdown import Breakdown, Declined, Estimator, EstimatorError, Quantity
from vram_ledger.analysis.estimating.command import DEADLINE_S, python_function, running
from vram_ledger.analysis.estimating.ours import calibrated, exact_terms, held_out
from vram_ledger.analysis.estimating.predictions import read_predictions
from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.ground.kinds import kind_of
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.analysis.refereeing.score import Error, Point, Tolerance, compared, errors, has
from vram_ledger.names import nearest

OURS: dict[str, Callable[[Campaign], Estimator]] = {
    "ours": lambda campaign: _calibrated(campaign),
    "ours-held-out": lambda campaign: held_out(campaign.results, campaign.shapes),
    "exact-terms": lambda campaign: exact_terms,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An estimator's errors at the points of a campaign. claims: the measured quantity that it says it predicts.

    against: the quantity that the total was held against. left_out: points at which that is not known. declined:
    points that it did not answer.
    """

    estimator: str
    campaign: Campaign
    claims: Quantity
    against: Quantity
    left_out: int
    declined: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """An estimator on several campaigns. declined: those that it declined whole. unused: see :class:`Opened`."""

    scored: tuple[Scored, ...]
    declined: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An estimator that can be asked. of: by campaign. unused: what of it has answered nothing so far, in words."""

    of: Callable[[Campaign], Estimator]
    unused: Callable[[], tuple[str, ...]] = tuple


@contextmanager
def opened(text: str, deadline_s: float = DEADLINE_S) -> Iterator[Opened]:
    """The estimator of ``text``; a command runs until the block is left.

    What is there as a path is that path, however it is written. :class:`EstimatorError` says what ``text`` could have
    been if it is nothing.
    """
    function = re.fullmatch(r"(.+\.py):(\w+)", text, re.DOTALL)
    path = Path(text)
    if text in ESTIMATORS:
        yield Opened(of=lambda campaign: ESTIMATORS[text])
    elif text in OURS:
        yield Opened(of=OURS[text])
    elif path.suffix.lower() == ".csv" and (isfile(text) or not re.search(r"\s", text)):
        table = read_predictions(path)
        yield Opened(of=lambda campaign: table.estimate, unused=table.unused)
    elif function and (isfile(function[1]) or not re.search(r"\s", text)):
        if not isfile(function[1]):
            raise EstimatorError(f"{text}: there is no file {function[1]}")
        with running(python_function(text), deadline_s, f"the function {function[2]} of {function[1]}") as command:
            yield Opened(of=lambda campaign: command.estimate)
    else:
        with running([text] if isfile(text) else _words(text), deadline_s) as command:
            yield Opened(of=lambda campaign: command.estimate)


def _words(text: str) -> Sequence[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise EstimatorError(f"{text}: not a command for a shell ({error})") from error
    if not words or (len(words) == 1 and "/" not in text and "." not in text):
        names = (*OURS, *ESTIMATORS)
        raise EstimatorError(
            f"{text!r} is no estimator{nearest(text, names)}: give path/file.py:function, a command with its "
            f"arguments, a .csv, or one of {', '.join(names)}"
        )
    return words


def scored(name: str, estimator: Estimator, campaign: Campaign) -> Scored:
    """Every point of a campaign, asked and compared; :class:`Declined` if all are."""
    answers: list[tuple[Point, Breakdown]] = []
    why = ""
    for point in campaign.points:
        try:
            answers.append((point, estimator(point.request)))
        except Declined as declined:
            why = why or str(declined)
    if not answers:
        raise Declined(f"{name} declined all {len(campaign.points)} points of {campaign.model}; the first: {why}")
    claims = list(dict.fromkeys(answer.predicts for _, answer in answers))
    if len(claims) > 1:
        raise EstimatorError(f"{name}: predicts {' and '.join(claims)}; an estimator claims one quantity")
    against = compared(claims[0], (point.outcome for point in campaign.points))
    known = [pair for pair in answers if has(pair[0].outcome, against)]
    return Scored(
        estimator=name,
        campaign=campaign,
        claims=claims[0],
        against=against,
        left_out=len(answers) - len(known),
        declined=len(campaign.points) - len(answers),
        errors=tuple(e for point, answer in known for e in errors(point, answer, against)),
    )


def score_all(text: str, campaigns: Sequence[Campaign], deadline_s: float = DEADLINE_S) -> Scores:
    """An estimator's scores on each campaign that it does not decline whole; :class:`EstimatorError` if it does all."""
    found, whole = [], []
    with opened(text, deadline_s) as estimator:
        for campaign in campaigns:
            try:
                found.append(scored(text, estimator.of(campaign), campaign))
            except Declined as declined:
                whole.append(str(declined))
        unused = estimator.unused()
    if not found:
        raise EstimatorError("; ".join(whole))
    return Scores(scored=tuple(found), declined=tuple(whole), unused=unused)


def _calibrated(campaign: Campaign) -> Estimator:
    if campaign.calibration is None:
        raise EstimatorError(f"ours: no calibration is stored beside {campaign.results.path}")
    return calibrated(campaign.calibration)
