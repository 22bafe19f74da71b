"""SGLang: a pool of states and one of tokens, out of what the static fraction of the card leaves beside the weights.

Read in sgl-project/sglang in 2026: the split, slots and running requests, ``srt/model_executor/`` (in newer releases
``model_runner_components/``) ``kv_cache_configurator.py``, ``_profile_available_bytes``, ``_handle_max_mamba_cache``,
``_calculate_mamba_ratio``; the pools' shapes, ``srt/mem_cache/memory_pool.py``, ``MambaPool``; the default fraction,
``srt/server_args.py``, ``_handle_gpu_memory_settings``.
"""

from fractions import Fraction

from vram_ledger.analysis.serving.logs import logs_of
from vram_ledger.analysis.serving.model import Served
from vram_ledger.analysis.serving.plan import (
    POOL,
    Asked,
    CacheType,
    Figure,
    Limit,
    Plan,
    ServingError,
    Span,
    Term,
    cache_type,
    exactly,
    figure,
    share,
    shared_heads,
    term,
)
from vram_ledger.analysis.serving.vllm import FP8, state_page_bytes
from vram_ledger.analysis.serving.weights import loaded

RATIO = Fraction(9, 10)  # mamba_full_memory_ratio
STATE_BYTES = 4  # mamba_ssm_dtype, float32
SPARE_SLOTS = 1  # of the pool, for requests that are padding
# Slots that a running request has claim to: without a radix cache; with one, by its strategy (extra_buffer, the default
# now, has 5; extra_buffer_lazy 4, no_buffer 3, which was the default before).
SLOTS_ALONE, SLOTS_CACHED, LEAST_SLOTS_CACHED = 1, 5, 3
MIB, GIB = 2**20, 2**30
# Memory of the card in MiB below which, tokens of a prefill's chunk, and requests of the largest CUDA graph: on few
# cards, and from MANY_CARDS on.
BY_MEMORY = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 2048, 24, 80),
    (60 * 1024, 4096, 32, 160),
    (160 * 1024, 8192, 256, 512),
)
LARGEST = (16_384, 512, 512)
MANY_CARDS, EACH_CARD_MIB = 4, 128
LEAST_RESERVED_MIB, LARGE_CARD_MIB, DRAFTS_MIB = 10 * 1024, 60 * 1024, 2 * 1024
CACHE_TYPES = {
    "auto": CacheType(name="auto", elements=1, bytes=2),
    "bfloat16": CacheType(name="bfloat16", elements=1, bytes=2),
    "fp8": FP8,
    "fp8_e4m3": FP8,
    "fp8_e5m2": FP8,
}


def ssm_bytes(model: Served, cards: int = 1) -> int:
    """One slot's matrices, in float32."""
    return model.n_linear * share(model.state_elements, cards, "state elements") * STATE_BYTES


def conv_bytes(model: Served, columns: int | None = None, cards: int = 1) -> int:
    """One slot's last columns of the convolution in bf16, K−1 of them."""
    width = model.conv_width - 1 if columns is None else columns
    return model.n_linear * width * share(model.conv_channels, cards, "channels") * 2


def state_bytes(model: Served, cards: int = 1) -> int:
    """One slot: ``mamba_cache_per_req``."""
    return model.n_linear * state_page_bytes(model, cards=cards)


def token_bytes(model: Served, kv: CacheType, cards: int = 1) -> int:
    """One token's keys and values in all layers with full attention."""
    return 2 * model.n_full * shared_heads(model.kv_heads, cards) * kv.of(model.head_dim)


def draft_ssm_bytes(model: Served, requests: int, drafts: int, cards: int = 1) -> int:
    """The matrices after each drafted token, of every request and a spare one."""
    return (requests + SPARE_SLOTS) * drafts * ssm_bytes(model, cards)


def draft_conv_bytes(model: Served, requests: int, drafts: int, cards: int = 1) -> int:
    """The columns that the drafted tokens' windows share."""
    return (requests + SPARE_SLOTS) * conv_bytes(model, drafts + model.conv_width - 2, cards)


def default_fraction(total_bytes: int, drafts: int, vision: bool, cards: int = 1) -> Fraction:
    """mem_fraction_static that SGLang sets itself: what its estimate of activations and graphs leaves of the card.

    With a vision tower it takes about a tenth less, by the tower's size, which is not counted here.
    """
    memory = total_bytes // MIB
    chunk, few, many = next((row[1:] for row in BY_MEMORY if memory < row[0]), LARGEST)
    graphs = few if cards < MANY_CARDS else many
    reserved = 512 + Fraction(3, 2) * max(chunk, 2048) + 2 * graphs + EACH_CARD_MIB * cards
    if memory > LARGE_CARD_MIB:
        reserved = max(reserved, Fraction(LEAST_RESERVED_MIB))
    reserved += DRAFTS_MIB if drafts else 0
    return Fraction(round((memory - reserved) / memory, 3)) * (Fraction(19, 20) if vision else 1)


def split(rest: Span, state: int, token: int, ratio: Fraction, drafts: Fraction = Fraction(0)) -> tuple[Span, Span]:
    """Slots of states and tokens that the rest of the card holds: nine nineteenths for the states, tokens the rest.

    drafts: states of drafted tokens for every slot. Newer releases take the spare slot out of the states' share as
    well, so there may be one less.
    """
    if not state:
        return exactly(0), rest.over(token)

    def ends(room: int) -> tuple[int, int]:
        slots = max(0, int(room * ratio / (1 + ratio) // (state * (1 + drafts))))
        return slots, max(0, int((room - slots * state * (1 + drafts)) // token))

    (least, few), (most, many) = ends(rest.least), ends(rest.most)
    return Span(least=max(0, least - SPARE_SLOTS), most=most), Span(least=few, most=many)


def plan(asked: Asked) -> Plan:
    """What SGLang makes of a card, or of what is left beside the weights."""
    kv = cache_type(asked.kv_type, CACHE_TYPES, "auto", "SGLang")
    model, cards = asked.model, asked.cards
    state, token = state_bytes(model, cards) if model.n_linear else 0, token_bytes(model, kv, cards)
    if not token:
        raise ServingError(f"{model.name}: no layer has full attention, so there are no tokens to keep")
    cached = asked.prefix_caching is not False
    claim = SLOTS_CACHED if cached else SLOTS_ALONE
    terms = _terms(asked)
    pool = next((one for one in terms if one.name == POOL), None)
    requests = (
        term(
            "KV cache",
            exactly(token * asked.context_tokens),
            f"{asked.context_tokens:,} tokens of {token:,} B",
            logs_of("sglang", "KV cache"),
        ),
        *_states(asked, state, claim),
    )
    if pool is None:
        return Plan(runtime="sglang", terms=terms, requests=requests, figures=(), limits=(), notes=_notes(asked))
    room = Span(least=pool.least_bytes, most=pool.most_bytes)
    slots, tokens = split(room, state, token, RATIO, Fraction(asked.drafts, claim))
    figures, limits = _counted(asked, slots, tokens, claim)
    return Plan(runtime="sglang", terms=terms, requests=requests, figures=figures, limits=limits, notes=_notes(asked))


def _terms(asked: Asked) -> tuple[Term, ...]:
    weights = loaded(asked, "SGLang", 0)
    if asked.pool is not None:
        return weights, term(POOL, asked.pool, "as given: what the static fraction leaves beside the weights")
    if asked.card is None:
        return (weights,)
    outside = asked.outside or Span(least=0, most=GIB)
    known = "as known of the card, or given" if asked.outside else "not known; assumed"
    vision = bool(asked.model.vision_parameters) and not asked.text
    least = asked.utilization or default_fraction(asked.card.least_bytes, asked.drafts, vision, asked.cards)
    most = asked.utilization or default_fraction(asked.card.most_bytes, asked.drafts, vision, asked.cards)
    room = Span(
        least=int((asked.card.least_bytes - outside.most) * least),
        most=int((asked.card.most_bytes - outside.least) * most),
    )
    loaded_span = Span(least=weights.least_bytes, most=weights.most_bytes)
    default = "" if asked.utilization else ", by SGLang's default (server_args.py); UTILIZATION= as its log has it"
    source = f"{float(most):.3g} of what is free before loading{default}, less the weights"
    return weights, term("outside the allocator", outside, known), term(POOL, room - loaded_span, source)


def _states(asked: Asked, state: int, claim: int) -> tuple[Term, ...]:
    if not state:
        return ()
    source = f"{claim} slots of {state:,} B" if claim > 1 else f"a slot of {state:,} B"
    found = [term("states", exactly(claim * state), source, logs_of("sglang", "ssm") + logs_of("sglang", "conv"))]
    if asked.drafts:
        size = asked.drafts * ssm_bytes(asked.model, asked.cards) + conv_bytes(
            asked.model, asked.drafts + asked.model.conv_width - 2, asked.cards
        )
        source = f"the states after each of {asked.drafts} drafted tokens"
        found.append(term("draft states", exactly(size), source, logs_of("sglang", "draft ssm") * 2))
    return tuple(found)


def _counted(asked: Asked, slots: Span, tokens: Span, claim: int) -> tuple[tuple[Figure, ...], tuple[Limit, ...]]:
    found = [
        figure(
            "tokens",
            tokens,
            "",
            "max_total_num_tokens: the remainder in tokens",
            logs_of("sglang", "KV cache"),
        )
    ]
    limits = [Limit(name="tokens", least=tokens.least, most=tokens.most, each=0, step=1, step_tokens=1)]
    if not asked.model.n_linear:
        return tuple(found), tuple(limits)
    source = f"max_mamba_cache_size: {float(RATIO / (1 + RATIO)):.3f} of the pool in states; one more is allocated"
    pool = (slots.most + SPARE_SLOTS) * ssm_bytes(asked.model, asked.cards) / GIB
    found = [
        figure("slots", slots, "", source, logs_of("sglang", "ssm")),
        Figure(
            name="ssm_state size",
            least=(slots.least + SPARE_SLOTS) * ssm_bytes(asked.model, asked.cards) / GIB,
            most=pool,
            unit="GiB",
            source="as SGLang prints it",
            logs=logs_of("sglang", "ssm"),
            digits=2,
        ),
        *found,
        figure(
            "running requests",
            slots.over(claim),
            "",
            f"slots / {claim}: max_running_requests",
            logs_of("sglang", "running"),
        ),
    ]
    limits.append(Limit(name="slots", least=slots.least, most=slots.most, each=claim, step=0, step_tokens=1))
    return tuple(found), tuple(limits)


def _notes(asked: Asked) -> tuple[str, ...]:
    notes = []
    if asked.model.n_linear and asked.prefix_caching is not False:
        notes.append(
            f"with its radix cache of states (extra_buffer: {SLOTS_CACHED} slots a request; no_buffer has "
            f"{LEAST_SLOTS_CACHED}); PREFIX_CACHING=0 is --disable-radix-cache, one slot"
        )
    if asked.drafts:
        notes.append("the drafter's own weights beside the MTP part, and its cache, are not counted")
    if asked.cards > 1:
        notes.append(f"every figure is one of {asked.cards} cards")
    return tuple(notes)
