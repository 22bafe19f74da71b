"""The formulas of this room against the figures of :data:`CHECKED`: each is asked what the server was asked."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from vram_ledger.analysis.serving import llama_cpp, sglang, vllm
from vram_ledger.analysis.serving.checked import Check
from vram_ledger.analysis.serving.model import Served, read_served
from vram_ledger.analysis.serving.plan import Asked, Plan, Span
from vram_ledger.home import MODELS

UNITS: dict[str, int | Fraction] = {
    "GiB": 2**30,
    "MiB": 2**20,
    "bytes": 1,
    "tokens": 1,
    "×": 1,
    "": 1,
    "%": Fraction(1, 100),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is said of a printed figure, in its unit. agrees: whether it can lie within the printed digits."""

    check: Check
    least: float
    most: float
    agrees: bool


def held(check: Check) -> Held:
    """A figure beside what its formula says now."""
    model = read_served(MODELS / f"{check.model}.json", check.model)
    least, most = digits(check.printed)
    if check.runtime == "vllm" and check.term in ("concurrency", "cache size") and not check.pool:
        said = _whole_blocks(check, model, least, most)
    else:
        unit = UNITS.get(check.unit, 1)
        low, high = _said(check, model)
        said = Fraction(low) / unit, Fraction(high) / unit
    return Held(
        check=check,
        least=float(said[0]),
        most=float(said[1]),
        agrees=said[0] <= most and said[1] >= least,
    )


def digits(printed: str) -> tuple[Fraction, Fraction]:
    """What a printed number can stand for: half a unit of its last digit to both sides; a whole number is itself."""
    half = Fraction(1, 2 * 10 ** len(printed.partition(".")[2])) if "." in printed else Fraction(0)
    value = Fraction(printed)
    return value - half, value + half


def printed_pool(printed: str) -> Span:
    """A pool as printed, such as "55.08GiB"."""
    number, unit = printed[:-3], UNITS[printed[-3:]]
    least, most = digits(number)
    return Span(least=int(least * unit), most=int(most * unit))


def asked_of(check: Check, model: Served, pool: Span | None = None) -> Asked:
    """The question that a figure answers."""
    return Asked(
        model=model,
        text=check.text,
        context_tokens=check.context_tokens,
        kv_type=check.kv_type,
        prefix_caching=check.prefix_caching if check.runtime != "llama.cpp" else None,
        drafts=check.drafts,
        cards=check.cards,
        pool=pool,
    )


def _whole_blocks(check: Check, model: Served, least: Fraction, most: Fraction) -> tuple[Fraction, Fraction]:
    """What the whole number of blocks gives that comes nearest to a figure."""
    kv = vllm.CACHE_TYPES[check.kv_type or "auto"]
    blocks = vllm.blocks_of(model, kv, check.drafts, check.cards)
    request = blocks.request(check.context_tokens, check.prefix_caching, check.drafts)
    per_block = Fraction(check.context_tokens if check.term == "cache size" else 1, request)
    count = -(-least // per_block)
    said = Fraction(count * per_block)
    said = Fraction(int(said)) if check.term == "cache size" else said
    return said, said


def _said(check: Check, model: Served) -> tuple[int | Fraction, int | Fraction]:
    special = SPECIAL.get((check.runtime, check.term))
    if special is not None:
        value = special(check, model)
        return value, value
    plans: dict[str, Callable[[Asked], Plan]] = {"vllm": vllm.plan, "llama.cpp": llama_cpp.plan}
    pool = printed_pool(check.pool) if check.pool else None
    plan = plans[check.runtime](asked_of(check, model, pool))
    for term in plan.requests:
        if term.name == check.term:
            return term.least_bytes * check.batch, term.most_bytes * check.batch
    found = next(figure for figure in plan.figures if figure.name == check.term)
    return Fraction(found.least), Fraction(found.most)


def _vllm_loading(check: Check, model: Served) -> int:
    terms = vllm.plan(asked_of(check, model)).terms
    return sum(term.least_bytes for term in terms)


def _vllm_padding(check: Check, model: Served) -> Fraction:
    blocks = vllm.blocks_of(model, vllm.CACHE_TYPES[check.kv_type or "auto"], check.drafts, check.cards)
    return Fraction(blocks.page_bytes - blocks.state_page_bytes, blocks.state_page_bytes)


def _sglang_keys(check: Check, model: Served) -> int:
    return sglang.token_bytes(model, sglang.CACHE_TYPES[check.kv_type]) // 2 * check.context_tokens


SPECIAL: dict[tuple[str, str], Callable[[Check, Served], int | Fraction]] = {
    ("vllm", "weights"): _vllm_loading,
    ("vllm", "padding"): _vllm_padding,
    ("sglang", "ssm"): lambda check, model: (check.batch + sglang.SPARE_SLOTS) * sglang.ssm_bytes(model),
    ("sglang", "conv"): lambda check, model: (check.batch + sglang.SPARE_SLOTS) * sglang.conv_bytes(model),
    ("sglang", "KV cache"): _sglang_keys,
    ("sglang", "state page"): lambda check, model: sglang.state_bytes(model) // model.n_linear,
    ("sglang", "running"): lambda check, model: check.batch // sglang.SLOTS_CACHED,
    ("sglang", "draft ssm"): lambda check, model: sglang.draft_ssm_bytes(model, check.batch, check.drafts),
    ("sglang", "draft conv"): lambda check, model: sglang.draft_conv_bytes(model, check.batch, check.drafts),
    ("llama.cpp", "R"): lambda check, model: llama_cpp.columns_bytes(model, check.drafts) * check.batch,
    ("llama.cpp", "S"): lambda check, model: llama_cpp.matrices_bytes(model, check.drafts) * check.batch,
}
