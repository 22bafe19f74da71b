"""What the formulas of this room say of a published figure, and of a stock server's plan on an emulated card."""

from collections.abc import Callable
from fractions import Fraction

from vram_ledger.analysis.ground.figures import FromRuntime
from vram_ledger.analysis.ground.printed import Range, read_printed
from vram_ledger.analysis.serving import llama_cpp, sglang, vllm
from vram_ledger.analysis.serving.model import Served
from vram_ledger.analysis.serving.plan import Asked, Plan, ServingError, Span, cache_type, exactly

PLANS: dict[str, Callable[[Asked], Plan]] = {"vllm": vllm.plan, "sglang": sglang.plan, "llama.cpp": llama_cpp.plan}
LEAST = {"context": 1, "batch": 1, "drafts": 0, "cards": 1}
MOST = 10**9  # of each of them


def said(asked: FromRuntime, model: Served) -> Range:
    """What a term comes to, in bytes or in its own unit; :class:`ServingError` names those that there are."""
    if asked.runtime not in PLANS:
        raise ServingError(f"runtime {asked.runtime!r} is none of {', '.join(PLANS)}")
    for name, least in LEAST.items():
        if not least <= getattr(asked, name) <= MOST:
            raise ServingError(f"{name} is from {least} to {MOST:,}, got {getattr(asked, name)}")
    special = SPECIAL.get((asked.runtime, asked.term))
    if special is not None:
        value = Fraction(special(asked, model))
        return Range(least=value, most=value)
    plan = PLANS[asked.runtime](question(asked, model, _pool(asked, model)))
    known = {figure.name: (Fraction(figure.least), Fraction(figure.most)) for figure in plan.figures}
    known |= {term.name: (Fraction(term.least_bytes), Fraction(term.most_bytes)) for term in plan.terms}
    known |= {
        term.name: (Fraction(term.least_bytes * asked.batch), Fraction(term.most_bytes * asked.batch))
        for term in plan.requests
    }
    if asked.term not in known:
        names = [*known, *(name for runtime, name in SPECIAL if runtime == asked.runtime and name not in known)]
        without = "" if asked.pool else "; with pool there are more"
        raise ServingError(f"term {asked.term!r} is none of {asked.runtime}'s: {', '.join(names)}{without}")
    least_, most_ = known[asked.term]
    return Range(least=least_, most=most_)


def printed_pool(printed: str) -> Span:
    """A pool as printed, such as "55.08GiB"; a whole number is itself."""
    found = read_printed(printed)
    return _span(found.range) if found.decimals else exactly(int(found.value))


def question(asked: FromRuntime, model: Served, pool: Span | None = None) -> Asked:
    """The question that a figure answers."""
    return Asked(
        model=model,
        text=asked.text,
        context_tokens=asked.context,
        kv_type=asked.kv_type,
        prefix_caching=asked.prefix_caching,
        drafts=asked.drafts,
        cards=asked.cards,
        pool=pool,
    )


def _pool(asked: FromRuntime, model: Served) -> Span | None:
    """The pool; in tokens, as vLLM prints it from 0.20 on, it is the fewest whole blocks that have so many."""
    if not asked.pool:
        return None
    printed = read_printed(asked.pool)
    if printed.unit != "tokens":
        return _span(printed.range)
    if asked.runtime != "vllm":
        raise ServingError(f"pool: {asked.runtime} has one in bytes, got {asked.pool!r}")
    blocks = _blocks(asked, model)
    request = blocks.request(asked.context, bool(asked.prefix_caching), asked.drafts)
    return exactly(-(-int(printed.value) * request // asked.context) * blocks.bytes)


def _span(own: Range) -> Span:
    return Span(least=int(own.least), most=int(own.most))


def _blocks(asked: FromRuntime, model: Served) -> vllm.Blocks:
    return vllm.blocks_of(model, cache_type(asked.kv_type, vllm.CACHE_TYPES, "auto", "vLLM"), asked.drafts, asked.cards)


def _vllm_loading(asked: FromRuntime, model: Served) -> int:
    return sum(term.least_bytes for term in vllm.plan(question(asked, model)).terms)


def _vllm_padding(asked: FromRuntime, model: Served) -> Fraction:
    blocks = _blocks(asked, model)
    if not blocks.state_page_bytes:
        raise ServingError(f"{model.name}: it has no states, so no page is padded")
    return 100 * Fraction(blocks.page_bytes - blocks.state_page_bytes, blocks.state_page_bytes)


def _sglang_keys(asked: FromRuntime, model: Served) -> int:
    kv = cache_type(asked.kv_type, sglang.CACHE_TYPES, "auto", "SGLang")
    return sglang.token_bytes(model, kv, asked.cards) // 2 * asked.context


# Terms that a log prints and a plan has otherwise or not: percent, requests, or bytes. batch: slots, or sequences.
SPECIAL: dict[tuple[str, str], Callable[[FromRuntime, Served], int | Fraction]] = {
    ("vllm", "weights"): _vllm_loading,
    ("vllm", "padding"): _vllm_padding,
    ("sglang", "ssm"): lambda a, model: (a.batch + sglang.SPARE_SLOTS) * sglang.ssm_bytes(model, a.cards),
    ("sglang", "conv"): lambda a, model: (a.batch + sglang.SPARE_SLOTS) * sglang.conv_bytes(model, cards=a.cards),
    ("sglang", "KV cache"): _sglang_keys,
    ("sglang", "state page"): lambda a, model: vllm.state_page_bytes(model, cards=a.cards),
    ("sglang", "running"): lambda a, model: a.batch // sglang.SLOTS_CACHED,
    ("sglang", "draft ssm"): lambda a, model: sglang.draft_ssm_bytes(model, a.batch, a.drafts, a.cards),
    ("sglang", "draft conv"): lambda a, model: sglang.draft_conv_bytes(model, a.batch, a.drafts, a.cards),
    ("llama.cpp", "R"): lambda a, model: llama_cpp.columns_bytes(model, a.drafts) * a.batch,
    ("llama.cpp", "S"): lambda a, model: llama_cpp.matrices_bytes(model, a.drafts) * a.batch,
}
