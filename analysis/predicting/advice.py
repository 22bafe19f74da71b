"""What else to know beside one answer: the chunk in which a prefill fits, and what to do where nothing does."""

from collections.abc import Iterator
from typing import Any, Protocol

from vram_ledger.analysis.allocation.settings import Rules
from vram_ledger.analysis.derivation.program import OutOfRoom
from vram_ledger.analysis.formula.shapes import vision_parameters
from vram_ledger.analysis.formula.terms import element_bytes
from vram_ledger.analysis.ground.cards import Card, read_cards, sizes_text
from vram_ledger.analysis.predicting.alternatives import alternative_text, choices
from vram_ledger.analysis.predicting.prediction import DOES_NOT_FIT, FITS, Prediction
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.analysis.versions.chunked import chunked_text
from vram_ledger.errors import NothingKnown
from vram_ledger.home import GPUS

CHUNKS = (8192, 4096, 2048, 1024, 512)  # tried from the largest where a single shot does not fit
NAMED_CARDS = 4


class Predictors(Protocol):
    """The predictor of a question, by the chunk of its prefill; with the allocator's rules as asked, or others.

    other: fields of the configuration that are to be otherwise than asked.
    """

    def __call__(self, chunk: int, rules: Rules | None = None, **other: Any) -> Predictor: ...


def advice(predictors: Predictors, found: Prediction, chunk: int) -> Iterator[str]:
    """Lines on an answer, most of them for a card. ``chunk``: of the prefill, as it was asked."""
    too_heavy = None
    if found.card is not None:
        too_heavy = weights_text(predictors(chunk), found.card, found.least_bytes)
    yield from _alternatives(predictors, found, chunk, only_weights=too_heavy is not None)
    if found.card is None or too_heavy is not None:
        yield from (too_heavy,) if too_heavy else ()
        return
    batch, context = found.workload.batch, found.workload.context_tokens
    if found.failed is not None and predictors(chunk).rules == "default":
        other = predictors(chunk, "expandable_segments").predict(found.workload.phase, batch, context)
        if other.verdict == FITS:
            yield f"With ALLOCATOR=expandable_segments:True it fits: {span(other)}."
    before = found
    if found.workload.phase == "decode":
        try:
            before = predictors(chunk).predict("prefill", batch, context)
        except NothingKnown as error:
            yield f"Of the prefill that it follows nothing is known: {error}."
            return
        how = f"in chunks of {chunk:,}" if chunk else "in a single shot"
        yield f"The prefill that it follows, {how}: {span(before)}, {before.verdict}."
    if before.verdict != FITS and before.workload.configuration.cache == "dynamic":
        yield from _smaller_chunks(predictors, batch, context, chunk)


def _alternatives(predictors: Predictors, found: Prediction, chunk: int, only_weights: bool) -> Iterator[str]:
    """What each choice would take that could be made otherwise. only_weights: only of those that are about weights."""
    workload = found.workload
    for choice in choices(workload.configuration):
        if (only_weights and "dtype" not in choice.fields) or (found.card is None and not choice.told):
            continue
        try:
            other = predictors(chunk, **choice.fields).predict(workload.phase, workload.batch, workload.context_tokens)
        except NothingKnown as error:
            yield f"{choice.option}, {choice.words}: not known. {error}."
        else:
            yield alternative_text(choice.option, choice.words, found, other)


def failure_text(failed: OutOfRoom) -> str:
    """The request that finds no memory, as torch's own message has it, and what makes it."""
    failure, origin = failed.failure, failed.origin
    where = (
        "building the model" if origin is None else f"{origin.op} in {origin.module or 'the model'} ({origin.source})"
    )
    return (
        f"out of memory in {where}: tried to allocate {failure.asked_bytes / 2**30:,.2f} GiB, "
        f"{failure.free_bytes / 2**30:,.2f} GiB free, {failure.held.allocated_bytes / 2**30:,.2f} GiB allocated"
    )


def weights_text(predictor: Predictor, card: Card, least_bytes: int = 0) -> str | None:
    """Why nothing fits, if the weights alone are more than a card has: what would hold them; else ``None``.

    least: what the card must have for what was asked, if more than the weights.
    """
    weights = predictor.resident_bytes
    if weights <= card.most_bytes:
        return None
    names = cards_holding(max(weights, least_bytes))
    return (
        f"The weights alone, {sizes_text(weights)}, are more than the card has. Quantised weights (4 or 8 bits) are "
        "another runtime, which nothing here knows. "
        + (f"The smallest cards here that may hold it: {', '.join(names)}." if names else "No card here does.")
    )


def cards_holding(size: int) -> list[str]:
    """The labels of the smallest cards that are sure to have so many bytes."""
    holding = sorted(read_cards(GPUS).values(), key=lambda c: (c.least_bytes, c.label))
    return [c.label for c in holding if c.least_bytes >= size][:NAMED_CARDS]


def class_text(predictor: Predictor) -> str | None:
    """Which of a model's classes the answer is for, and what the other one would keep; ``None`` if it has but one."""
    if predictor.shapes.vision is None:
        return None
    tower = element_bytes(predictor.configuration) * vision_parameters(predictor.shapes)
    if predictor.configuration.model_class == "Qwen3_5ForConditionalGeneration":
        return f"with the vision tower, as the config says; without it, VARIANT=text, {sizes_text(tower)} less"
    return f"without the vision tower; with it, VARIANT=default, {sizes_text(tower)} more"


def _smaller_chunks(predictors: Predictors, batch: int, context: int, chunk: int) -> Iterator[str]:
    """The largest chunk in which the prefill fits, of those smaller than the given one; or that none does."""
    last = None
    for size in (c for c in CHUNKS if c < (chunk or context) and c < context):
        try:
            last = predictors(size).predict("prefill", batch, context)
        except NothingKnown as error:
            yield f"Whether a prefill in chunks fits is not known: {error}."
            return
        if last.verdict == FITS:
            yield f"A prefill in chunks of {size:,} fits: {span(last)}."
            yield chunked_text(predictors(size).transformers)
            return
    if last is not None:
        sure = "can fit" if last.verdict == DOES_NOT_FIT else "is sure to fit"
        needed = f"{sizes_text(last.requested_bytes)} are asked for" if last.verdict == DOES_NOT_FIT else span(last)
        yield f"No chunk down to {CHUNKS[-1]:,} {sure}: {needed} in the smallest."


def span(found: Prediction) -> str:
    """What the card must have, from least to most, in GB and GiB."""
    return sizes_text(found.least_bytes, found.most_bytes)
