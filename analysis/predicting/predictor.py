"""One model and one card with all that is known of them, ready to answer any number of questions."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.allocation.settings import Rules
from vram_ledger.analysis.derivation.derived import OutsideDomain
from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.formula.shapes import Shapes, resident_bytes
from vram_ledger.analysis.formula.terms import element_bytes
from vram_ledger.analysis.ground.cards import Card, sizes_text
from vram_ledger.analysis.ground.kinds import Word
from vram_ledger.analysis.predicting.kernels import CARDS, derived_on
from vram_ledger.analysis.predicting.prediction import FITS, Outside, Prediction, Seen, prediction
from vram_ledger.analysis.predicting.program import MASK_TOKENS
from vram_ledger.analysis.predicting.sources import DERIVED, SYMBOLS, Outcome, Source, word_of
from vram_ledger.errors import InputError, NothingKnown
from vram_ledger.harness.records import Configuration, Phase, Workload
from vram_ledger.names import MOST_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """One model in one configuration on one card, or on none in particular.

    model, transformers: as they were asked for. most_context_tokens: the model's own limit. capability: of the card
    whose attention kernel is meant. rules: of the allocator. sources: best first, for every configuration and phase
    that a question can come to.
    """

    model: str
    transformers: str
    config: Path
    shapes: Shapes
    most_context_tokens: int
    configuration: Configuration
    capability: str
    rules: Rules
    card: Card | None
    sources: dict[tuple[Configuration, Phase], tuple[Source, ...]]
    outside: Outside
    seen: dict[Workload, Seen]

    def predict(self, phase: Phase, batch: int, context_tokens: int) -> Prediction:
        """The answer for one shape; :class:`NothingKnown` if no source has one, :class:`InputError` beyond limits."""
        if not 1 <= context_tokens <= self.most_context_tokens:
            raise InputError(
                f"context is {context_tokens:,} tokens, but {self.config.name} ends at {self.most_context_tokens:,} "
                "(max_position_embeddings)"
            )
        if not 1 <= batch <= MOST_BATCH:
            raise InputError(f"batch is {batch:,} sequences; answers are for 1 to {MOST_BATCH:,}")
        request = self._request(phase, batch, context_tokens)
        source, _ = self._source(request)
        seen = self.seen.get(request.workload)
        return prediction(request, source.answer(request), self._outcome(request), self.card, self.outside, seen)

    def requests_fit(self, phase: Phase, batch: int, context_tokens: int, sure: bool) -> bool:
        """Whether a card has what is requested alone: quickly answered, and never less than what the allocator needs.

        sure: with the most that may lie outside the allocator, else with the least.
        """
        return self._source(self._request(phase, batch, context_tokens))[1] <= self._room(sure)

    def fits(self, phase: Phase, batch: int, context_tokens: int, sure: bool) -> bool:
        """Whether the verdict is that it fits, or, if it need not be sure, is not that it does not."""
        request = self._request(phase, batch, context_tokens)
        if (seen := self.seen.get(request.workload)) is not None:
            return seen.fit == FITS
        if (held := self._held(request, sure)) is not None:
            done, calls = held
            return done == calls
        source, requested = self._source(request)
        if sure:
            reserved = source.answer(request).reserved_bytes
            return reserved is not None and reserved <= self._room(sure)
        return requested <= self._room(sure)

    def calls_that_fit(self, batch: int, sure: bool) -> int | None:
        """Of the longest prefill in chunks, the calls that a card has the memory for; ``None`` if not known."""
        held = self._held(self._request("prefill", batch, self.most_context_tokens), sure)
        return None if held is None else held[0]

    def _room(self, sure: bool) -> int:
        assert self.card is not None, "a verdict is on a card"
        if sure:
            return self.card.least_bytes - self.outside.most_bytes
        return self.card.most_bytes - self.outside.least_bytes

    def _outcome(self, request: Request) -> Outcome | None:
        """What becomes of a request on a card, from the best source that knows it."""
        return next((found for s, _ in self._answering(request) if (found := s.outcome(request)) is not None), None)

    def _held(self, request: Request, sure: bool) -> tuple[int, int] | None:
        """How many of a request's calls a card has the memory for, and of how many: the same without the reasons."""
        for source in self.sources[request.workload.configuration, request.workload.phase]:
            if (held := source.held(request)) is not None:
                with suppress(OutsideDomain):
                    return held(self._room(sure))
        return None

    def _answering(self, request: Request) -> Iterator[tuple[Source, int]]:
        """The sources that have an answer, best first, and the requested bytes of each."""
        for source in self.sources[request.workload.configuration, request.workload.phase]:
            if (requested := source.requested(request)) is not None:
                yield source, requested

    def underived(self, phase: Phase, batch: int, context_tokens: int) -> tuple[Configuration, str] | None:
        """The configuration whose program would tell more of a question, and the emulated card that runs it.

        ``None`` if it is there or something was counted; if there is no such card; or if a version was asked for.
        """
        request = self._request(phase, batch, context_tokens)
        known = self.sources[request.workload.configuration, phase]
        best = next((source.basis for source, _ in self._answering(request)), SYMBOLS)
        if best != SYMBOLS or self.transformers or any(source.basis == DERIVED for source in known):
            return None
        whole = dataclasses.replace(request.workload.configuration, prefill_chunk_tokens=0)
        card = CARDS.get(derived_on(self.capability, phase, whole) or "")
        return None if card is None else (whole, card)

    def _request(self, phase: Phase, batch: int, context_tokens: int) -> Request:
        configuration = asked_configuration(self.configuration, phase, context_tokens)
        if phase == "decode" and configuration.cache == "none":
            raise InputError("without a cache there is no decode step: each token is a prefill of all before it")
        workload = Workload(configuration=configuration, phase=phase, context_tokens=context_tokens, batch=batch)
        label = self.card.label if self.card else ""
        return Request(workload=workload, shapes=self.shapes, config=str(self.config), gpu_label=label)

    def words(self, phase: Phase) -> tuple[Word, ...]:
        """The kinds of number that the best source of a phase's verdicts is made from."""
        request = self._request(phase, 1, 1)
        source, _ = self._source(request)
        return (word_of(source.basis),)

    def _source(self, request: Request) -> tuple[Source, int]:
        """The best source that has an answer, and the requested bytes."""
        for answering in self._answering(request):
            return answering
        raise NothingKnown(self._why(request))

    def _why(self, request: Request) -> str:
        configuration = request.workload.configuration
        variant, chunk = variant_of(configuration), configuration.prefill_chunk_tokens
        of = f" of transformers {self.transformers}" if self.transformers else ""
        what = f"{request.text}: nothing stored{of} tells the transient of variant {variant!r} there"
        if chunk % MASK_TOKENS:
            return f"{what}; chunks of a multiple of {MASK_TOKENS} tokens are known"
        for source in self.sources[configuration, request.workload.phase]:
            if refused := source.refusal(request):
                return f"{what}; {refused}"
        weights = sizes_text(self.resident_bytes)
        whole = variant_of(dataclasses.replace(configuration, prefill_chunk_tokens=0))  # its program has all chunks
        return (
            f"{what} (weights alone: {weights}); derive its formula (make derive MODEL={self.model} "
            f"VARIANT={whole}), or replay it (vram-ledger log)"
        )

    @property
    def resident_bytes(self) -> int:
        """Weights and buffers."""
        return resident_bytes(self.shapes, self.configuration.model_class, element_bytes(self.configuration))


def asked_configuration(configuration: Configuration, phase: Phase, context_tokens: int) -> Configuration:
    """The configuration that a question comes to.

    A decode step is the same however its prompt was fed, and has one row of logits; a prompt that is no longer than
    a chunk is fed in a single shot.
    """
    if phase == "decode":
        return dataclasses.replace(configuration, prefill_chunk_tokens=0, logits="last")
    if context_tokens <= configuration.prefill_chunk_tokens:
        return dataclasses.replace(configuration, prefill_chunk_tokens=0)
    return configuration
