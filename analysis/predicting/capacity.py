"""How much fits: the longest context for each batch and the largest batch for each context, for sure and perhaps.

A peak of a dynamic cache never falls with the batch, nor with the context, so the boundary is found by halving. In a
chunked prefill it may: a rest that is no multiple of 8 tokens has its mask padded. There, contexts are counted in
whole chunks, and one counts only if the rest of one token less fits as well: then every shorter context does. Shapes
at which a decode step may have its old cache pinned are set aside; there only a prediction of that very shape holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.ground.kinds import WORDS, Word
from vram_ledger.analysis.predicting.prediction import DOES_NOT_FIT, FITS, Fit, judged
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.harness.records import Phase

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
    """What fits a card: the longest contexts by batch, and the largest batches by context. chunk: 0, single shot.

    words: the kinds of number that it was made from.
    """

    gpu: str
    phase: Phase
    chunk_tokens: int
    contexts: tuple[Largest, ...]
    batches: tuple[Largest, ...]
    words: tuple[Word, ...]


def frontier(
    predictor: Predictor,
    phase: Phase,
    batches: Sequence[int] = BATCHES,
    contexts: Sequence[int] = CONTEXTS,
    most_context: int | None = None,
) -> Frontier:
    """The frontier of a predictor with a card, up to the model's own limit."""
    assert predictor.card is not None, "a frontier is one of a card"
    chunk = predictor.configuration.prefill_chunk_tokens if phase == "prefill" else 0

    most_context = min(most_context or predictor.most_context_tokens, predictor.most_context_tokens)
    contexts = [c for c in contexts if c <= most_context]
    words: set[Word] = set()

    def verdict(batch: int, context_tokens: int) -> Fit | None:
        found = predictor.predict(phase, batch, context_tokens)
        words.update(found.words)
        if found.card is None or found.seen is not None:
            return found.verdict
        return judged(found.least_bytes, found.most_bytes - found.pinned_bytes, found.card)

    found_contexts = tuple(_longest(b, lambda n, b=b: verdict(b, n), most_context, chunk) for b in batches)  # type: ignore[misc]
    found_batches = tuple(_largest(c, lambda n, c=c: verdict(n, c)) for c in contexts)  # type: ignore[misc]
    return Frontier(
        gpu=predictor.card.label,
        phase=phase,
        chunk_tokens=chunk,
        contexts=found_contexts,
        batches=found_batches,
        words=tuple(word for word in WORDS if word in words),
    )


def _longest(batch: int, verdict: Callable[[int], Fit | None], most: int, chunk: int) -> Largest:
    return Largest(
        at=batch,
        certain=_context(lambda n: verdict(n) == FITS, most, chunk),
        possible=_context(lambda n: verdict(n) != DOES_NOT_FIT, most, chunk),
        most=most // chunk * chunk if 0 < chunk <= most else most,
    )


def _largest(context_tokens: int, verdict: Callable[[int], Fit | None]) -> Largest:
    return Largest(
        at=context_tokens,
        certain=_last(lambda n: verdict(n) == FITS, MOST_BATCH),
        possible=_last(lambda n: verdict(n) != DOES_NOT_FIT, MOST_BATCH),
        most=MOST_BATCH,
    )


def _context(holds: Callable[[int], bool], most: int, chunk: int) -> int:
    """The longest context for which a thing holds; beyond one chunk, in whole chunks and their largest rests."""
    if not chunk:
        return _last(holds, most)
    whole = _last(lambda n: holds(n * chunk) and (n == 1 or holds(n * chunk - 1)), most // chunk)
    return whole * chunk or _last(holds, min(chunk - 1, most))


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest of 1 … most for which a thing holds that holds for all below it; 0 if it never does."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
