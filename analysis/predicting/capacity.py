"""How much fits: the longest context for each batch and the largest batch for each context, for sure and perhaps.

A peak never falls with the batch or the context, so the boundary is found by halving. Of a chunked prefill that holds
for whole chunks only (a rest is padded in its own way), so its contexts are whole chunks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.predicting.prediction import DOES_NOT_FIT, FITS, Fit
from analysis.predicting.predictor import Predictor
from harness.records import Phase

MOST_CONTEXT_TOKENS = 262_144  # what the family was trained for (max_position_embeddings)
MOST_BATCH = 1024
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (1024, 4096, 16_384, 32_768, 65_536, 131_072, 262_144)


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The largest value of one axis at a value of the other: the last that fits, and the last that may. 0: none.

    most: the largest that was tried.
    """

    at: int
    certain: int
    possible: int
    most: int

    @property
    def text(self) -> str:
        """Both ends in words: "–" if nothing fits, one number where they agree, "≥" where nothing larger was tried."""
        if not self.possible:
            return "–"
        ends = dict.fromkeys((self.certain, self.possible))
        return " to ".join(f"{'≥ ' if end == self.most else ''}{end:,}" for end in ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """What fits a card: the longest contexts by batch, and the largest batches by context. chunk: 0, single shot."""

    gpu: str
    phase: Phase
    chunk_tokens: int
    contexts: tuple[Largest, ...]
    batches: tuple[Largest, ...]


def frontier(
    predictor: Predictor,
    phase: Phase,
    batches: Sequence[int] = BATCHES,
    contexts: Sequence[int] = CONTEXTS,
    most_context: int = MOST_CONTEXT_TOKENS,
) -> Frontier:
    """The frontier of a predictor with a card."""
    assert predictor.card is not None, "a frontier is one of a card"
    chunk = predictor.configuration.prefill_chunk_tokens if phase == "prefill" else 0
    step = chunk or 1

    def verdict(batch: int, context_tokens: int) -> Fit | None:
        return predictor.predict(phase, batch, context_tokens).verdict

    return Frontier(
        gpu=predictor.card.label,
        phase=phase,
        chunk_tokens=chunk,
        contexts=tuple(_largest(b, lambda n, b=b: verdict(b, n), most_context, step) for b in batches),  # type: ignore[misc]
        batches=tuple(_largest(c, lambda n, c=c: verdict(n, c), MOST_BATCH, 1) for c in contexts),  # type: ignore[misc]
    )


def _largest(at: int, verdict: Callable[[int], Fit | None], most: int, step: int) -> Largest:
    return Largest(
        at=at,
        certain=step * _last(lambda n: verdict(step * n) == FITS, most // step),
        possible=step * _last(lambda n: verdict(step * n) != DOES_NOT_FIT, most // step),
        most=most // step * step,
    )


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest of 1 … most for which a thing holds that holds for all below it; 0 if it never does."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
