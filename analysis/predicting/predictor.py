"""One model and one card with all that is known of them, ready to answer any number of questions."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.formula.shapes import Shapes, resident_bytes
from vram_ledger.analysis.formula.terms import element_bytes
from vram_ledger.analysis.ground.cards import Card, sizes_text
from vram_ledger.analysis.predicting.prediction import FITS, Outside, Prediction, Seen, prediction
from vram_ledger.analysis.predicting.program import MASK_TOKENS
from vram_ledger.analysis.predicting.simulated import Excess
from vram_ledger.analysis.predicting.sources import Source
from vram_ledger.analysis.predicting.workspace import Workspace
from vram_ledger.errors import InputError, NothingKnown
from vram_ledger.harness.records import Configuration, Phase, Workload
from vram_ledger.names import MOST_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of one configuration in one phase: sources, best first, and what the allocator adds."""

    sources: tuple[Source, ...]
    excess: Excess


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """One model in one configuration on one card, or on none in particular.

    model, transformers: as they were asked for. most_context_tokens: the model's own limit. known: for every
    configuration and phase that a question can come to.
    """

    model: str
    transformers: str
    config: Path
    shapes: Shapes
    most_context_tokens: int
    configuration: Configuration
    card: Card | None
    known: dict[tuple[Configuration, Phase], Known]
    workspace: Workspace
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
        configuration = asked_configuration(self.configuration, phase, context_tokens)
        workload = Workload(configuration=configuration, phase=phase, context_tokens=context_tokens, batch=batch)
        label = self.card.label if self.card else ""
        request = Request(workload=workload, shapes=self.shapes, config=str(self.config), gpu_label=label)
        known = self.known[configuration, phase]
        for source in known.sources:
            requested = source(request)
            if requested is not None:
                return prediction(
                    request,
                    requested,
                    self.card,
                    resident_bytes=self.resident_bytes,
                    excess=known.excess,
                    workspace=self.workspace,
                    outside=self.outside,
                    seen=self._seen(workload),
                )
        raise NothingKnown(self._why(request))

    def _seen(self, workload: Workload) -> Seen | None:
        """What was seen of a workload, or follows: below one that fits all fit, above one that does not none does.

        That does not hold of a chunked prefill, whose rest may be padded.
        """
        if workload in self.seen or workload.configuration.prefill_chunk_tokens:
            return self.seen.get(workload)
        for other, seen in self.seen.items():
            low, high = (workload, other) if seen.fit == FITS else (other, workload)
            ordered = low.batch <= high.batch and low.context_tokens <= high.context_tokens
            if ordered and other.phase == workload.phase and other.configuration == workload.configuration:
                return seen
        return None

    def _why(self, request: Request) -> str:
        configuration = request.workload.configuration
        variant, chunk = variant_of(configuration), configuration.prefill_chunk_tokens
        of = f" of transformers {self.transformers}" if self.transformers else ""
        what = f"{request.text}: nothing stored{of} tells the transient of variant {variant!r} there"
        if chunk % MASK_TOKENS:
            return f"{what}; chunks of a multiple of {MASK_TOKENS} tokens are known"
        weights = sizes_text(self.resident_bytes)
        return (
            f"{what} (weights alone: {weights}); derive its formula (make derive MODEL={self.model} "
            f"VARIANT={variant}), or replay it (vram-ledger log)"
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
