"""How much fits: the longest context for each batch and the largest batch for each context, for sure and perhaps.

What is requested grows with batch and context, what the allocator needs does not always: freed blocks fit one size and
not the next (27B, decode, batch 13: some contexts shorter than the longest that fits do not fit). So the longest is
found by halving and then looked at from below, at :data:`LOOKED_AT` contexts: "certain" is one below which none of them
was seen to fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.ground.kinds import Word
from vram_ledger.analysis.predicting.prediction import DOES_NOT_FIT, FITS, Fit
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.harness.records import Phase

MOST_BATCH = 1024
LOOKED_AT = 6
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
    known: dict[tuple[int, int], Fit] = {}

    def verdict(batch: int, context_tokens: int) -> Fit:
        if (batch, context_tokens) not in known:
            known[batch, context_tokens] = predictor.fit(phase, batch, context_tokens)
        return known[batch, context_tokens]

    longest = tuple(_ends(b, lambda n, b=b: verdict(b, n), most_context, chunk or 1) for b in batches)  # type: ignore[misc]
    largest = tuple(_ends(c, lambda n, c=c: verdict(n, c), MOST_BATCH, 1) for c in contexts)  # type: ignore[misc]
    return Frontier(
        gpu=predictor.card.label,
        phase=phase,
        chunk_tokens=chunk,
        contexts=longest,
        batches=largest,
        words=predictor.words(phase),
    )


def _ends(at: int, verdict: Callable[[int], Fit], most: int, unit: int) -> Largest:
    """Both ends of an axis, in whole units; less than one unit is counted singly."""
    if 1 < unit <= most and verdict(unit) != DOES_NOT_FIT:
        certain = unit * _surely(lambda n: verdict(n * unit) == FITS, most // unit)
        possible = unit * _last(lambda n: verdict(n * unit) != DOES_NOT_FIT, most // unit)
        return Largest(at=at, certain=certain, possible=max(certain, possible), most=most // unit * unit)
    certain = _surely(lambda n: verdict(n) == FITS, most)
    possible = _last(lambda n: verdict(n) != DOES_NOT_FIT, most)
    return Largest(at=at, certain=certain, possible=max(certain, possible), most=most)


def _surely(holds: Callable[[int], bool], most: int) -> int:
    """The last for which a thing holds, such that it holds of all below that are looked at."""
    end = _last(holds, most)
    while fails := [n for n in _below(end) if not holds(n)]:
        end = _last(holds, fails[0] - 1)
    return end


def _below(end: int) -> list[int]:
    """Numbers below an end, the nearer the denser."""
    return sorted({end - end // 2**k for k in range(1, LOOKED_AT + 1)} - {end, 0})


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest of 1 … most for which a thing holds that holds for all below it; 0 if it never does."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
