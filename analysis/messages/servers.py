"""What a server's failure to start is about, by the formulas of :mod:`analysis.serving`, and what would help."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import ceil, floor

from vram_ledger.analysis.ground.cards import Card, sizes_text
from vram_ledger.analysis.messages.message import Printed
from vram_ledger.analysis.messages.startup import Failed, FewStates, NoPool, NotFree, TooLong
from vram_ledger.analysis.serving import sglang, vllm
from vram_ledger.analysis.serving.model import Served
from vram_ledger.analysis.serving.plan import POOL, Asked, Plan
from vram_ledger.analysis.serving.vllm import Blocks, blocks_of

CACHES = ("auto", "fp8")
MOST_DRAFTS = 4
LEAST_CONTEXT = 4096  # for which a share of the card is said where a log names none


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """about: what the failure is about, one explanation a line, the plainest first. helping: what would help."""

    about: tuple[str, ...]
    helping: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """A way to start vLLM with a model, of which the failing request's bytes are those of the log."""

    model: Served
    kv: str
    caching: bool
    drafts: int

    @property
    def blocks(self) -> Blocks:
        return blocks_of(self.model, vllm.CACHE_TYPES[self.kv], self.drafts)

    def needs(self, context_tokens: int) -> int:
        return self.blocks.request(context_tokens, self.caching, self.drafts) * self.blocks.bytes

    def longest(self, pool_bytes: int) -> int:
        blocks = self.blocks
        left = pool_bytes // blocks.bytes - blocks.each(self.caching, self.drafts)
        return max(0, left // blocks.full_groups * blocks.tokens)

    @property
    def text(self) -> str:
        parts = [
            self.model.name,
            *(["KV cache in 8 bits"] if self.kv != "auto" else []),
            *(["prefix caching"] if self.caching else []),
            *([f"{self.drafts} drafts"] if self.drafts else []),
        ]
        return ", ".join(parts)


def explained(failed: Failed, models: Sequence[Served], card: Card | None) -> Answer:
    """What is known of a failure; models: those that it may be."""
    match failed:
        case TooLong():
            return _too_long(failed, models, card)
        case FewStates():
            return _few_states(failed, models)
        case NotFree():
            return _not_free(failed)
        case NoPool():
            return _no_pool(failed, models, card)


def _too_long(failed: TooLong, models: Sequence[Served], card: Card | None) -> Answer:
    settings = [
        _Setting(model=model, kv=kv, caching=caching, drafts=drafts)
        for drafts, caching, kv, model in product(range(MOST_DRAFTS + 1), (False, True), CACHES, models)
        if (model.n_linear or not caching) and (model.mtp_layers or not drafts)
    ]
    fitting = [s for s in settings if failed.needed.has(s.needs(failed.context_tokens))]
    about = tuple(
        f"{s.text}: a request of {failed.context_tokens:,} tokens takes {s.needs(failed.context_tokens):,} B, "
        f"{s.blocks.request(failed.context_tokens, s.caching, s.drafts):,} blocks of {s.blocks.bytes:,} B"
        for s in fitting
    )
    return Answer(about=about, helping=tuple(_shorter(failed, fitting[0], card)) if fitting else ())


def _shorter(failed: TooLong, meant: _Setting, card: Card | None) -> Iterator[str]:
    pool, asked = failed.available.least_bytes, failed.context_tokens
    if longest := meant.longest(pool):
        yield f"--max-model-len {longest}: what {failed.available.text} hold of one request, and no more."
    else:
        yield f"{failed.available.text} hold not even the states of one request: no --max-model-len is short enough."
    for other, flag in (
        (_Setting(model=meant.model, kv="fp8", caching=meant.caching, drafts=meant.drafts), "--kv-cache-dtype fp8"),
        (_Setting(model=meant.model, kv=meant.kv, caching=False, drafts=meant.drafts), "--no-enable-prefix-caching"),
        (_Setting(model=meant.model, kv=meant.kv, caching=meant.caching, drafts=0), "without speculation"),
    ):
        if (needs := other.needs(asked)) < meant.needs(asked):
            enough = "fits" if needs <= pool else f"is still too much; {other.longest(pool):,} tokens fit"
            yield f"{flag}: {sizes_text(needs)} for {asked:,} tokens {enough}."
    lacking = meant.needs(asked) - pool
    share = "" if card is None else f", {ceil(lacking / card.least_bytes * 100) / 100:.2f} more of {card.label}"
    yield f"Or {sizes_text(lacking)} more of the card (--gpu-memory-utilization{share}), if something else leaves it."


def _few_states(failed: FewStates, models: Sequence[Served]) -> Answer:
    about = tuple(
        f"{model.name}: {failed.blocks:,} blocks of {blocks.bytes:,} B are a pool of "
        f"{sizes_text(failed.blocks * blocks.bytes)}; each sequence that decodes keeps its states in "
        f"{blocks.each(False, 0)} of them"
        for model in models
        if model.n_linear and (blocks := blocks_of(model))
    )
    more = tuple(
        f"For {failed.sequences:,} sequences {sizes_text((failed.sequences - failed.blocks) * blocks_of(model).bytes)} "
        f"more of the card with {model.name}."
        for model in models[:1]
        if model.n_linear
    )
    return Answer(about=about, helping=(f"--max-num-seqs {failed.blocks} or less.", *more))


def _not_free(failed: NotFree) -> Answer:
    free, total = failed.free.middle_bytes, failed.total.middle_bytes
    wanted = int(total * failed.utilization)
    return Answer(
        about=(
            f"{sizes_text(total - free)} of the card were taken before vLLM began, by other processes and its own CUDA "
            f"context; {failed.utilization:g} of the card are {sizes_text(wanted)}",
        ),
        helping=(
            f"--gpu-memory-utilization {floor(failed.free.least_bytes / failed.total.most_bytes * 100) / 100:.2f} or "
            "less, as far as the model goes into that.",
            f"Or {sizes_text(wanted - free)} of the others' given back.",
        ),
    )


def _no_pool(failed: NoPool, models: Sequence[Served], card: Card | None) -> Answer:
    if failed.after is not None and failed.loaded is not None:
        before = failed.after.middle_bytes + failed.loaded.middle_bytes
        least = Fraction(failed.loaded.middle_bytes, before)
        return Answer(
            about=(
                f"{failed.loaded.text} of weights are more than the static share of the {sizes_text(before)} that were "
                "free before loading",
            ),
            helping=(f"--mem-fraction-static above {_up(least):.2f}: from there on something is left for the pool.",),
        )
    classes = [(model, text) for model in models for text in dict.fromkeys((not model.vision_parameters, True))]
    plans = [found for model, text in classes if (found := _plan_of(failed, model, text, card)) is not None]
    about = tuple(f"{name}: {', '.join(parts)}" for name, parts, _ in plans)
    flag = "--gpu-memory-utilization" if failed.runtime == "vllm" else "--mem-fraction-static"
    helping = tuple(
        f"{name}: {flag} from {least:.2f} on leaves room for one request of {LEAST_CONTEXT:,} tokens."
        if least < 1
        else f"{name}: the card is too small for it, whatever its share."
        for name, _, least in plans
    )
    return Answer(about=about, helping=helping)


def _plan_of(failed: NoPool, model: Served, text: bool, card: Card | None) -> tuple[str, list[str], float] | None:
    """A model's name, what is on the card beside the pool, and the least share of it in which one request is sure to
    find room, above 1 if there is none."""
    if card is None or model.quantised:
        return None
    asked = Asked(model=model, text=text, context_tokens=LEAST_CONTEXT, card=card)
    planned: Callable[[Asked], Plan] = vllm.plan if failed.runtime == "vllm" else sglang.plan

    def fits(percent: int) -> bool:
        share = replace(asked, utilization=Fraction(percent, 100))
        return planned(share).fits(1, LEAST_CONTEXT, sure=True)

    made = planned(asked)
    beside = [term for term in made.terms if term.name != POOL]
    if failed.loaded is not None and not _is_loaded(failed.loaded, made):
        return None
    return (
        f"{model.name}{', text alone' if text and model.vision_parameters else ''}",
        [f"{t.name} {sizes_text(t.least_bytes, t.most_bytes)}" for t in beside],
        (bisect_left(range(1, 100), True, key=fits) + 1) / 100,
    )


def _is_loaded(loaded: Printed, made: Plan) -> bool:
    """Whether a log's weights can be those of a plan, to a hundredth: releases differ by a table or a buffer."""
    weights = next(term for term in made.terms if term.name == "weights")
    return abs(loaded.middle_bytes - weights.most_bytes) <= weights.most_bytes // 100


def _up(share: Fraction) -> float:
    return ceil(share * 100) / 100
