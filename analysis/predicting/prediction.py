"""One answer: the bytes of a workload by term, each with its interval, and whether a card has them."""

from dataclasses import dataclass
from typing import Literal

from analysis.cards import Card
from analysis.formula import predict
from analysis.predicting.pinned import pinned_bytes
from analysis.predicting.simulated import Excess
from analysis.predicting.sources import Basis, Requested
from analysis.refereeing.breakdown import Request
from analysis.refereeing.ours import cache_at_peak
from harness.records import Workload

Fit = Literal["fits", "does not fit", "within the margin"]
FITS: Fit = "fits"
DOES_NOT_FIT: Fit = "does not fit"
WITHIN_MARGIN: Fit = "within the margin"
TRANSIENT, ALLOCATOR, OUTSIDE = "transient", "allocator", "outside the allocator"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedTerm:
    """One term's bytes, the least and the most that it can be, and where that comes from."""

    name: str
    bytes: int
    least_bytes: int
    most_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a workload takes on a card. requested: what the program asks for at its peak, all terms but the last two.

    least, most: of what the card must have, everything included. pinned: the part of ``most`` that is needed only if
    segments of the old cache can't be given back (:mod:`analysis.predicting.pinned`). seen: whether this card was
    seen to hold this workload, or what bounds it.
    """

    workload: Workload
    card: Card | None
    requested_bytes: int
    basis: Basis
    origin: str
    stage: str
    terms: tuple[PredictedTerm, ...]
    least_bytes: int
    most_bytes: int
    pinned_bytes: int
    seen: Fit | None

    @property
    def verdict(self) -> Fit | None:
        """Whether the card has it for certain, for certain not, or neither; ``None`` without a card."""
        if self.card is None or self.seen is not None:
            return self.seen
        return judged(self.least_bytes, self.most_bytes, self.card)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a card needs beside the allocator's segments: the CUDA context, loaded modules, other processes."""

    least_bytes: int
    most_bytes: int
    source: str


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
    outside: Outside,
    seen: Fit | None = None,
) -> Prediction:
    """The breakdown of a request whose requested bytes are known. resident: weights and buffers."""
    terms = _terms(request, requested)
    total, half = requested.bytes, requested.half_width_bytes
    least, most = excess.bytes(total - resident_bytes)
    source = excess.source
    pinned = pinned_bytes(request.shapes, request.workload)
    if pinned:
        most, source = most + pinned, f"{source}; the old cache may stay in segments that a conv state pins"
    # Where the allocator's bounds are no better than a guess, their middle is no worse than any other.
    terms.append(
        PredictedTerm(name=ALLOCATOR, bytes=(least + most) // 2, least_bytes=least, most_bytes=most, source=source)
    )
    terms.append(
        PredictedTerm(
            name=OUTSIDE,
            bytes=outside.most_bytes,
            least_bytes=outside.least_bytes,
            most_bytes=outside.most_bytes,
            source=outside.source,
        )
    )
    return Prediction(
        workload=request.workload,
        card=card,
        requested_bytes=total,
        basis=requested.basis,
        origin=requested.origin,
        stage=requested.stage,
        terms=tuple(terms),
        least_bytes=total - half + least + outside.least_bytes,
        most_bytes=total + half + most + outside.most_bytes,
        pinned_bytes=pinned,
        seen=seen,
    )


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
        *(PredictedTerm(name=n, bytes=v, least_bytes=v, most_bytes=v, source="config") for n, v in exact.items()),
        PredictedTerm(
            name=TRANSIENT, bytes=rest, least_bytes=rest - half, most_bytes=rest + half, source=requested.basis
        ),
    ]
