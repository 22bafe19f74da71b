"""What would have helped a run that was out of memory, each with its figure."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from vram_ledger.analysis.allocation.settings import Rules
from vram_ledger.analysis.ground.cards import Card, sizes_text
from vram_ledger.analysis.messages.message import Message
from vram_ledger.analysis.messages.suspects import Suspect
from vram_ledger.analysis.messages.tensors import HEAD, Named
from vram_ledger.analysis.predicting.advice import advice, cards_holding
from vram_ledger.analysis.predicting.configs import variant_with
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.errors import InputError, NothingKnown

LOSS_TOKENS = 1024


def rest(message: Message, settled: bool) -> Iterator[str]:
    """What else a message says of the card, and what of that would help.

    settled: whether a program has told what expandable segments would have done.
    """
    free = message.free.middle_bytes if message.free else None
    short = message.lacking_bytes
    if (spare := message.spare_bytes) is not None and short is not None:
        if spare < short:
            yield (
                f"Fragmentation is not why: {sizes_text(short)} were lacking, and {sizes_text(spare)} reserved but not "
                "allocated."
            )
        elif not settled:
            yield (
                f"{sizes_text(spare)} were reserved but not allocated, and {sizes_text(short)} were lacking: with "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True that may have sufficed."
            )
    held = sum(other.middle_bytes for other in message.others)
    if message.others:
        enough = "" if short is None else ", which would have sufficed" if held >= short else ", which is too little"
        yield f"Other processes held {sizes_text(held)} of the card{enough}."
    if message.process is not None and message.reserved_middle_bytes is not None:
        outside = message.process.middle_bytes - message.reserved_middle_bytes
        if outside > 0:
            yield f"Of the process {sizes_text(outside)} lay outside the allocator (CUDA context, libraries)."
    if message.total and free is not None and message.process:
        unseen = message.total.middle_bytes - free - message.process.middle_bytes - held
        if unseen > message.total.most_bytes - message.total.least_bytes + 2**26:
            yield f"{sizes_text(unseen)} of the card were held by something that the message does not name."
    if message.allowed is not None:
        yield f"The process was allowed {message.allowed.text} (set_per_process_memory_fraction); more may be there."


def of_tensor(found: Named, batch: int) -> Iterator[str]:
    """What makes a tensor of a config smaller, or spares it."""
    tensor, sequences = found.tensor, max(batch, 1)
    if tensor.kind == "tokens" and tensor.module == HEAD:
        last = found.bytes - sequences * tensor.bytes
        yield (
            f"The last token's logits alone (logits_to_keep=1 in generate and forward): {sizes_text(last)} less, "
            f"{sequences * tensor.bytes:,} B instead of {found.bytes:,}."
        )
        if found.tokens > LOSS_TOKENS:
            part = LOSS_TOKENS * tensor.bytes
            yield (
                f"For a loss, {LOSS_TOKENS:,} tokens at a time or a fused cross entropy: {sizes_text(part)} at a time "
                f"instead of {sizes_text(found.bytes)}."
            )
    elif tensor.kind == "tokens":
        yield f"Half the tokens in one call, or half the batch: {sizes_text(found.bytes // 2)} less here."
    elif tensor.kind == "squares":
        spared = sizes_text(found.bytes)
        yield f'A fused attention kernel (attn_implementation="sdpa" or flash) makes no scores: {spared} less.'
    elif tensor.name.endswith("in 16 bits"):
        yield "A weight: the model is larger than what was free, whatever the prompt."
    else:
        half, quarter = sizes_text(found.bytes // 2), sizes_text(found.bytes // 4 * 3)
        yield f"In 16 bits {half} less; as a state of an optimizer in 8 bits {quarter} less."


def of_loading(library: Library, models: Sequence[str], card: Card | None, message: Message) -> Iterator[str]:
    """Whether the weights of models are more than there was; nothing of a model that is not of the family."""
    for model in models:
        try:
            weights = library.predictor(model, "", card).resident_bytes
        except InputError:
            continue
        capacity = message.capacity_bytes or (card.most_bytes if card else None)
        if capacity is not None and weights > capacity:
            named = cards_holding(weights)
            yield (
                f"The weights of {model}, {sizes_text(weights)}, are more than the {sizes_text(capacity)} that there "
                f"were. The smallest cards here that may hold them: {', '.join(named) or 'none'}."
            )


def of_program(library: Library, card: Card, message: Message, suspect: Suspect) -> Iterator[str]:
    """What is known of the workload on this card, by predict's own advice, with as much memory as there was."""
    outside = None
    if (capacity := message.capacity_bytes) is not None:  # the least that the figures allow, for it did not suffice
        outside = max(0, card.most_bytes - capacity + message.reserved_spread_bytes) or None
    batch, context = suspect.shapes[0]
    phase = suspect.phase

    @functools.cache
    def predictors(chunk: int, rules: Rules | None = None, **other: Any) -> Predictor:
        variant = variant_with(suspect.model, suspect.variants[0], **other)
        return library.predictor(suspect.model, variant, card, outside, "", chunk, rules or "default")

    try:
        found = predictors(0).predict(phase, batch, context)
        yield from advice(predictors, found, 0)
        other = predictors(0, "expandable_segments").predict(phase, batch, context)
        if (failed := other.failed) is not None:
            yield (
                f"With expandable_segments:True it does not fit either: {sizes_text(failed.failure.asked_bytes)} are "
                f"asked for then, and {sizes_text(failed.failure.free_bytes)} free."
            )
    except (InputError, NothingKnown) as error:
        yield f"What else would fit is not known: {error}."
