"""How much fits: the longest context for each batch and the largest batch for each context, for sure and perhaps.

What is requested grows with batch and context, what the allocator needs does not always: freed blocks fit one size and
not the next (27B, decode, batch 16: of every 64 tokens from 13,057 on, 16 to 24 do not fit on one memory that holds
25,280). So an end is looked for from where what is requested alone would still fit, downwards. What surely fits is then
looked at from below: at distances of 1, 2, 4 … up to half, and at :data:`SPREAD` more, spread over all of it. "Certain"
is one of which none of these was seen to fail. A prefill in chunks has all the calls of a shorter one before its own;
only its last chunk can be one that lacks a token, and is looked at as such.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.derivation.forms import MOST_BATCH
from vram_ledger.analysis.ground.kinds import Word
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.harness.records import Phase

SPREAD, IRREGULAR = 48, (5**0.5 - 1) / 2  # how many, and whose multiples lie evenly and in no step with any size
FIRST_STEPS = 128  # how many of the steps with which a search begins it is from one end to the other
Fits = Callable[[int, bool], bool]
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
    spread: int = SPREAD,
) -> Frontier:
    """The frontier of a predictor with a card, up to the model's own limit. spread: how many looks at all sizes."""
    assert predictor.card is not None, "a frontier is one of a card"
    chunk = predictor.configuration.prefill_chunk_tokens if phase == "prefill" else 0

    most_context = min(most_context or predictor.most_context_tokens, predictor.most_context_tokens)
    contexts = [c for c in contexts if c <= most_context]

    @functools.cache
    def fits(batch: int, context_tokens: int, sure: bool) -> bool:
        return predictor.fits(phase, batch, context_tokens, sure)

    def requests(batch: int, context_tokens: int, sure: bool) -> bool:
        return predictor.requests_fit(phase, batch, context_tokens, sure)

    def longest(batch: int) -> Largest:
        here, bound = functools.partial(fits, batch), functools.partial(requests, batch)
        if 1 < chunk <= most_context and here(chunk, False):
            return _in_chunks(predictor, batch, here, bound, most_context // chunk)
        return _ends(batch, here, bound, most_context, spread)

    def largest(context: int) -> Largest:
        def here(batch: int, sure: bool) -> bool:
            return fits(batch, context, sure)

        return _ends(context, here, lambda batch, sure: requests(batch, context, sure), MOST_BATCH, spread)

    return Frontier(
        gpu=predictor.card.label,
        phase=phase,
        chunk_tokens=chunk,
        contexts=tuple(map(longest, batches)),
        batches=tuple(map(largest, contexts)),
        words=predictor.words(phase),
    )


def _ends(at: int, fits: Fits, requests: Fits, most: int, spread: int) -> Largest:
    """Both ends of an axis."""

    def ceiling(sure: bool) -> int:
        return _last(lambda n: requests(n, sure), most)

    certain = _surely(lambda n: fits(n, True), ceiling(True), spread)
    ceiling_of_all = ceiling(False)
    possible = _end(lambda n: fits(n, False), ceiling_of_all, ceiling_of_all)
    return Largest(at=at, certain=certain, possible=max(certain, possible), most=most)


def _in_chunks(predictor: Predictor, batch: int, fits: Fits, requests: Fits, most: int) -> Largest:
    """Both ends of the context of a prefill, in whole chunks; the longest prefill's calls tell where to look."""
    unit = predictor.configuration.prefill_chunk_tokens

    def end(sure: bool) -> int:
        def holds(n: int) -> bool:
            # A last chunk that lacks a token takes more where a mask is padded, so it must fit as well to be sure.
            return fits(n * unit, sure) and (not sure or fits(n * unit - 1, sure))

        guess = predictor.calls_that_fit(batch, sure)
        if guess is None:
            guess = _last(lambda n: requests(n * unit, sure), most)
        return unit * _end(holds, min(guess, most), most)

    certain = end(sure=True)
    return Largest(at=batch, certain=certain, possible=max(certain, end(sure=False)), most=most * unit)


def _surely(holds: Callable[[int], bool], most: int, spread: int) -> int:
    """The last for which a thing holds, such that it holds of all below that are looked at."""
    end = _end(holds, most, most)
    while (fails := next((n for n in _below(end, spread) if not holds(n)), None)) is not None:
        end = _end(holds, fails - 1, fails - 1)
    return end


def _below(end: int, spread: int) -> list[int]:
    """Numbers below an end, from the smallest: all of few; of many, the nearer the denser, and some of all sizes."""
    near = {end - 2**power for power in range(end.bit_length() - 1)}
    wide = {int(end * (number * IRREGULAR % 1)) for number in range(1, spread + 1)}
    return sorted((near | wide) - {0, end})


def _end(holds: Callable[[int], bool], guess: int, most: int) -> int:
    """A number of 0 … most for which a thing holds and for the next not, looked for from a guess."""
    low, high, step = 0, most + 1, max(1, most // FIRST_STEPS)
    tried = min(max(guess, 0), most)
    while low < tried < high:
        low, high = (tried, high) if holds(tried) else (low, tried)
        tried, step = (low + step if low else high - step), 2 * step
        if low and high <= most:
            break
    return low + _last(lambda n: holds(low + n), high - low - 1)


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest of 1 … most for which a thing holds that holds for all below it; 0 if it never does."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
