"""One answer: the bytes of a workload by term, what the allocator and the card make of them, and whether it fits."""

from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.derivation.program import OutOfRoom, Ran
from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.estimating.ours import cache_at_peak
from vram_ledger.analysis.formula.terms import predict
from vram_ledger.analysis.ground.cards import Card
from vram_ledger.analysis.ground.kinds import MEASURED, TYPED_IN, Word
from vram_ledger.analysis.predicting.sources import Answer, Outcome
from vram_ledger.harness.records import Workload

Fit = Literal["fits", "does not fit", "within the margin"]
FITS: Fit = "fits"
DOES_NOT_FIT: Fit = "does not fit"
WITHIN_MARGIN: Fit = "within the margin"
EXIT_CODES: dict[Fit | None, int] = {None: 0, FITS: 0, DOES_NOT_FIT: 1, WITHIN_MARGIN: 4}
TRANSIENT, WORKSPACE, OUTSIDE = "transient", "workspace", "outside the allocator"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedTerm:
    """One term's bytes, the least and the most that it can be, and where that comes from."""

    name: str
    least_bytes: int
    most_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Whether a card was seen to hold a workload, or to be out of memory."""

    fit: Fit
    word: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a card needs beside the allocator's segments: the CUDA context, loaded modules, other processes.

    given: by the user, who knows better than anything that was counted.
    """

    least_bytes: int
    most_bytes: int
    source: str
    given: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a workload takes on a card. terms: add up to the requested bytes.

    allocated, reserved: the allocator's peaks, ``None`` where only requests are known. On a card that is full, reserved
    is what it comes to there, cached blocks having been given back ``retries`` times. outside: beside the allocator.
    failed: the request that finds no memory, with the least outside, or, if that fits, with the most.
    """

    workload: Workload
    card: Card | None
    terms: tuple[PredictedTerm, ...]
    requested_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    outside: PredictedTerm
    basis: str
    word: Word
    origin: str
    stage: str
    retries: int
    failed: OutOfRoom | None
    fit: Fit | None
    seen: Seen | None

    @property
    def least_bytes(self) -> int:
        """The least that the process has on the card, as nvidia-smi shows it."""
        return self._inside + self.outside.least_bytes

    @property
    def most_bytes(self) -> int:
        """The most; of a workload whose allocator is not known, of its requests alone."""
        return self._inside + self.outside.most_bytes

    @property
    def _inside(self) -> int:
        return self.requested_bytes if self.reserved_bytes is None else self.reserved_bytes

    @property
    def verdict(self) -> Fit | None:
        """Whether the card has it: as it was seen, else as it follows; ``None`` without a card."""
        return self.seen.fit if self.seen is not None else self.fit

    @property
    def words(self) -> tuple[Word, ...]:
        """The kinds of number that the verdict is made from."""
        return (self.word, self.seen.word) if self.seen else (self.word,)


def prediction(
    request: Request,
    answer: Answer,
    outcome: Outcome | None,
    card: Card | None,
    outside: Outside,
    seen: Seen | None = None,
) -> Prediction:
    """The breakdown of a request that a source has answered."""
    beside = _outside(answer, outside)
    fit, ran, failed = judged(answer, outcome, card, beside)
    return Prediction(
        workload=request.workload,
        card=card,
        terms=tuple(_terms(request, answer)),
        requested_bytes=answer.requested_bytes,
        allocated_bytes=answer.allocated_bytes,
        reserved_bytes=answer.reserved_bytes if ran is None else ran.peak.reserved_bytes,
        outside=beside,
        basis=answer.basis,
        word=answer.word,
        origin=answer.origin,
        stage=answer.stage,
        retries=0 if ran is None else ran.retries,
        failed=failed,
        fit=fit,
        seen=seen,
    )


def judged(
    answer: Answer, outcome: Outcome | None, card: Card | None, outside: PredictedTerm
) -> tuple[Fit | None, Ran | None, OutOfRoom | None]:
    """The verdict, the run on the card where it is one, and the request that fails where one does.

    Of a source that knows the allocator it is exact but for what lies outside; else only requests beyond the card tell.
    """
    if card is None:
        return None, None, None
    most = card.most_bytes - outside.least_bytes
    least = card.least_bytes - outside.most_bytes
    if outcome is None:
        if answer.reserved_bytes is not None and answer.reserved_bytes <= least:
            return FITS, None, None
        return (DOES_NOT_FIT if answer.requested_bytes > most else WITHIN_MARGIN), None, None
    best, worst = outcome(most), outcome(least)
    if isinstance(best, OutOfRoom):
        return (DOES_NOT_FIT if isinstance(worst, OutOfRoom) else WITHIN_MARGIN), None, best
    if isinstance(worst, OutOfRoom):
        return WITHIN_MARGIN, best, worst
    return FITS, worst, None


def _outside(answer: Answer, known: Outside) -> PredictedTerm:
    if answer.process_bytes is not None and answer.reserved_bytes is not None and not known.given:
        source = answer.basis if answer.word == MEASURED.word else f"{answer.basis}: {TYPED_IN}"
        return _exactly(OUTSIDE, answer.process_bytes - answer.reserved_bytes, source)
    return PredictedTerm(
        name=OUTSIDE, least_bytes=known.least_bytes, most_bytes=known.most_bytes, source=known.source
    )  # fmt: skip


def _exactly(name: str, size: int, source: str) -> PredictedTerm:
    return PredictedTerm(name=name, least_bytes=size, most_bytes=size, source=source)


def _terms(request: Request, answer: Answer) -> list[PredictedTerm]:
    """The exact terms at the peak, and what is left of the requested bytes: the transient, buffers in it."""
    workload = request.workload
    sizes = predict(request.shapes, workload)
    exact = {
        "weights": sizes["weights"],
        "kv_cache": cache_at_peak(workload, sizes["kv_cache"]),
        "recurrent_state": sizes["recurrent_state"],
        "conv_state": sizes["conv_state"],
        "inputs": sizes["inputs"],
    }
    rest = answer.requested_bytes - answer.workspace_bytes - sum(exact.values())
    return [
        *(_exactly(n, v, "config") for n, v in exact.items()),
        _exactly(TRANSIENT, rest, answer.basis),
        _exactly(WORKSPACE, answer.workspace_bytes, "the card's libraries"),
    ]
