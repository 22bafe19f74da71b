"""One answer: the bytes of a workload by term, each with its interval, and whether a card has them."""

from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.estimating.ours import cache_at_peak
from vram_ledger.analysis.formula.terms import predict
from vram_ledger.analysis.ground.cards import Card
from vram_ledger.analysis.ground.kinds import MEASURED, TYPED_IN, Word
from vram_ledger.analysis.predicting.pinned import pinned_bytes
from vram_ledger.analysis.predicting.simulated import Excess
from vram_ledger.analysis.predicting.sources import Basis, Requested
from vram_ledger.analysis.predicting.workspace import Workspace
from vram_ledger.harness.records import Workload

Fit = Literal["fits", "does not fit", "within the margin"]
FITS: Fit = "fits"
DOES_NOT_FIT: Fit = "does not fit"
WITHIN_MARGIN: Fit = "within the margin"
EXIT_CODES: dict[Fit | None, int] = {None: 0, FITS: 0, DOES_NOT_FIT: 1, WITHIN_MARGIN: 4}
TRANSIENT, WORKSPACE, ALLOCATOR, OUTSIDE = "transient", "workspace", "allocator", "outside the allocator"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedTerm:
    """One term's bytes, the least and the most that it can be, and where that comes from."""

    name: str
    bytes: int
    least_bytes: int
    most_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Whether a card was seen to hold a workload, or what bounds it; word: the card was measured or emulated."""

    fit: Fit
    word: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a workload takes on a card. requested: what the program asks for at its peak, all terms but the last two.

    least, most: of what the card must have, everything included. pinned: the part of ``most`` that is needed only if
    segments of the old cache can't be given back (:mod:`analysis.predicting.pinned`). word: the kind of number that
    the requested bytes are made from.
    """

    workload: Workload
    card: Card | None
    requested_bytes: int
    basis: Basis
    word: Word
    origin: str
    stage: str
    terms: tuple[PredictedTerm, ...]
    least_bytes: int
    most_bytes: int
    pinned_bytes: int
    seen: Seen | None

    @property
    def verdict(self) -> Fit | None:
        """Whether the card has it for certain, for certain not, or neither; ``None`` without a card."""
        if self.seen is not None:
            return self.seen.fit
        return None if self.card is None else judged(self.least_bytes, self.most_bytes, self.card)

    @property
    def words(self) -> tuple[Word, ...]:
        """The kinds of number that the verdict is made from."""
        return (self.word, self.seen.word) if self.seen else (self.word,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a card needs beside the allocator's segments: the CUDA context, loaded modules, other processes.

    given: by the user, who knows better than anything that was counted.
    """

    least_bytes: int
    most_bytes: int
    source: str
    given: bool = False


def judged(least_bytes: int, most_bytes: int, card: Card) -> Fit:
    """The verdict on an interval of bytes."""
    if most_bytes <= card.least_bytes:
        return FITS
    return DOES_NOT_FIT if least_bytes > card.most_bytes else WITHIN_MARGIN


def prediction(
    request: Request,
    requested: Requested,
    card: Card | None,
    *,
    resident_bytes: int,
    excess: Excess,
    workspace: Workspace,
    outside: Outside,
    seen: Seen | None = None,
) -> Prediction:
    """The breakdown of a request whose requested bytes are known. resident: weights and buffers.

    What was counted at the very point, reserved bytes and those of the process, stands before what is expected.
    """
    terms = _terms(request, requested)
    libraries = _workspace(requested, workspace)
    asked = requested.bytes + libraries.bytes
    allocator, pinned = _counted_allocator(requested, asked), 0
    if allocator is None:
        pinned = pinned_bytes(request.shapes, request.workload)
        allocator = _allocator(requested.bytes - resident_bytes, excess, pinned)
    terms += [libraries, allocator, _outside(requested, outside)]
    return Prediction(
        workload=request.workload,
        card=card,
        requested_bytes=asked,
        basis=requested.basis,
        word=requested.word,
        origin=requested.origin,
        stage=requested.stage,
        terms=tuple(terms),
        least_bytes=sum(term.least_bytes for term in terms),
        most_bytes=sum(term.most_bytes for term in terms),
        pinned_bytes=pinned,
        seen=seen,
    )


def _workspace(requested: Requested, known: Workspace) -> PredictedTerm:
    if requested.workspace_bytes is not None:
        return _exactly(WORKSPACE, requested.workspace_bytes, requested.basis)
    return PredictedTerm(
        name=WORKSPACE,
        bytes=known.most_bytes,
        least_bytes=known.least_bytes,
        most_bytes=known.most_bytes,
        source=known.source,
    )


def _counted_allocator(requested: Requested, asked_bytes: int) -> PredictedTerm | None:
    if requested.reserved_bytes is None:
        return None
    return _exactly(ALLOCATOR, requested.reserved_bytes - asked_bytes, requested.basis)


def _allocator(growth_bytes: int, excess: Excess, pinned: int) -> PredictedTerm:
    """Where the allocator's bounds are no better than a guess, their middle is no worse than any other."""
    least, most = excess.bytes(growth_bytes)
    source = excess.source
    if pinned:
        most, source = most + pinned, f"{source}; the old cache may stay in segments that a conv state pins"
    return PredictedTerm(
        name=ALLOCATOR, bytes=(least + most) // 2, least_bytes=least, most_bytes=most, source=source
    )  # fmt: skip


def _outside(requested: Requested, known: Outside) -> PredictedTerm:
    if requested.process_bytes is not None and requested.reserved_bytes is not None and not known.given:
        source = requested.basis if requested.word == MEASURED.word else f"{requested.basis}: {TYPED_IN}"
        return _exactly(OUTSIDE, requested.process_bytes - requested.reserved_bytes, source)
    return PredictedTerm(
        name=OUTSIDE,
        bytes=known.most_bytes,
        least_bytes=known.least_bytes,
        most_bytes=known.most_bytes,
        source=known.source,
    )


def _exactly(name: str, size: int, source: str) -> PredictedTerm:
    return PredictedTerm(name=name, bytes=size, least_bytes=size, most_bytes=size, source=source)


def _terms(request: Request, requested: Requested) -> list[PredictedTerm]:
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
    rest, half = requested.bytes - sum(exact.values()), requested.half_width_bytes
    return [
        *(_exactly(n, v, "config") for n, v in exact.items()),
        PredictedTerm(
            name=TRANSIENT, bytes=rest, least_bytes=rest - half, most_bytes=rest + half, source=requested.basis
        ),
    ]
