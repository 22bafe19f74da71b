"""vLLM: what it keeps of a card for its block pool, and how many blocks a request takes.

Read in vllm-project/vllm at release 0.20 and after. The block of a hybrid: ``vllm/platforms/interface.py``,
``_align_hybrid_block_size`` (before: ``vllm/model_executor/models/config.py``); a page and what a request takes:
``vllm/v1/kv_cache_interface.py`` (``FullAttentionSpec``, ``MambaSpec.max_memory_usage_bytes``); the state's shape:
``vllm/model_executor/layers/mamba/mamba_utils.py``, ``gated_delta_net_state_shape``; groups and concurrency:
``vllm/v1/core/kv_cache_utils.py`` (``_get_kv_cache_groups_uniform_page_size``,
``get_max_concurrency_for_kv_cache_config``); what is left for the pool: ``vllm/v1/worker/gpu_worker.py``,
``determine_available_memory``; the rotary table: ``vllm/model_executor/layers/rotary_embedding/mrope.py``.
"""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

from vram_ledger.analysis.serving.loading import loaded_bytes
from vram_ledger.analysis.serving.logs import NO_FORMULA, activation, logs_of, planned, seen
from vram_ledger.analysis.serving.model import MROPE_STRETCH, Served
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
from vram_ledger.analysis.serving.weights import loaded

BLOCK_TOKENS = 16  # of plain attention, and the kernels' alignment of a hybrid's block
UTILIZATION = Fraction(92, 100)  # vllm/config/cache.py; 0.9 in releases before
STATE_BYTES = 4  # mamba_ssm_dtype of the family's configs is float32
NULL_BLOCKS = 1  # vllm/v1/core/block_pool.py keeps one that no request gets
# Release from which the rotary table has a row a position: 0.29.0 has four (logs), 0.33.0 one (on an emulated card).
SHORT_TABLE, NEWEST = (0, 33), "0.33.0"
# vllm/platforms/interface.py and model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py (0.33.0): where prefixes are
# cached and a prefill's kernel leaves states on its way, as FlashInfer's does every 64 tokens, a block is a multiple of
# that (the 27B's is 832 on an H100, not 784) and a request keeps one more copy of its states.
CHECKPOINT_TOKENS, CHECKPOINTS_FROM = 64, (0, 33)
COLD_COMPILE = Fraction(105, 100)  # of the embedding's bytes
GROUP_STRETCH = Fraction(3, 2)  # below it all kinds of layers make one group each
FP8 = CacheType(name="fp8", elements=1, bytes=1)
CACHE_TYPES = {
    "auto": CacheType(name="auto", elements=1, bytes=2),
    "bfloat16": CacheType(name="bfloat16", elements=1, bytes=2),
    "float16": CacheType(name="float16", elements=1, bytes=2),
    "fp8": FP8,
    "fp8_e4m3": FP8,
    "fp8_e5m2": FP8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The pool's blocks on one card. page_bytes: of one layer. layers: of a group, which a block has a page of each.

    full_groups, state_groups: groups of full-attention layers and of linear ones, each with blocks of its own.
    """

    tokens: int
    page_bytes: int
    state_page_bytes: int
    layers: int
    full_groups: int
    state_groups: int

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        return self.layers * self.page_bytes

    def each(self, prefix_caching: bool, drafts: int) -> int:
        """Blocks that a request's states take: one a group, two where prefixes are cached, one more a draft."""
        return self.state_groups * ((2 if prefix_caching else 1) + drafts)

    def request(self, context_tokens: int, prefix_caching: bool = False, drafts: int = 0) -> int:
        """Blocks of one request."""
        return self.each(prefix_caching, drafts) + self.full_groups * -(-context_tokens // self.tokens)


def blocks_of(model: Served, kv: CacheType = CACHE_TYPES["auto"], drafts: int = 0, cards: int = 1) -> Blocks:
    """The blocks of a model: as long as it takes for a page of tokens to be no smaller than one of a state."""
    token = 2 * shared_heads(model.kv_heads, cards) * kv.of(model.head_dim)
    n_full = model.n_full + (model.mtp_layers if drafts else 0)
    if not model.n_linear:
        return Blocks(
            tokens=BLOCK_TOKENS,
            page_bytes=BLOCK_TOKENS * token,
            state_page_bytes=0,
            layers=n_full,
            full_groups=1,
            state_groups=0,
        )
    if not n_full:
        raise ServingError(f"{model.name}: no layer has full attention, so there is no block to keep a state in")
    state = state_page_bytes(model, drafts, cards)
    tokens = BLOCK_TOKENS * max(1, -(-state // (BLOCK_TOKENS * token)))
    fewest, most = sorted((n_full, model.n_linear))
    layers = most if most < fewest * GROUP_STRETCH else fewest
    return Blocks(
        tokens=tokens,
        page_bytes=tokens * token,
        state_page_bytes=state,
        layers=layers,
        full_groups=-(-n_full // layers),
        state_groups=-(-model.n_linear // layers),
    )


def blocks_as_run(model: Served, version: str, prefix_caching: bool, flashinfer_prefill: bool) -> tuple[Blocks, int]:
    """The blocks of a release on a card, and how many copies of its states a request keeps."""
    blocks = blocks_of(model)
    if not (prefix_caching and flashinfer_prefill and _release(version) >= CHECKPOINTS_FROM):
        return blocks, 1 + prefix_caching
    tokens = -(-blocks.tokens // CHECKPOINT_TOKENS) * CHECKPOINT_TOKENS
    return dataclasses.replace(blocks, tokens=tokens, page_bytes=blocks.page_bytes // blocks.tokens * tokens), 3


def state_page_bytes(model: Served, drafts: int = 0, cards: int = 1) -> int:
    """One layer's state of one sequence: float32 matrices; columns of bf16, K−1 and one more for each draft."""
    matrices = share(model.state_elements, cards, "state elements") * STATE_BYTES
    return matrices + (model.conv_width - 1 + drafts) * share(model.conv_channels, cards, "channels") * 2


def cold_compile_bytes(model: Served) -> int:
    """The activation peak of a first start: Inductor, choosing among fused kernels, makes a copy of the embedding.

    Seen with vLLM 0.20.1 on an emulated card, whose second start, with the compile cache warm, had 1.49 GiB more pool.
    """
    return int(model.vocabulary * model.hidden * model.element_bytes * COLD_COMPILE)


def rotary_rows(model: Served, version: str) -> int:
    """Rows of the table of cosines and sines: for mrope four times the positions, in newer releases once."""
    newer = _release(version) >= SHORT_TABLE
    return model.rotary_rows // MROPE_STRETCH if newer and model.shapes is not None else model.rotary_rows


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def rotary_bytes(model: Served) -> int:
    """The table of cosines and sines that all layers share, in the weights' dtype, up to release 0.29 at least."""
    return model.rotary_rows * _row_bytes(model)


def _row_bytes(model: Served) -> int:
    return model.rotary_dim * model.element_bytes


def plan(asked: Asked) -> Plan:
    """What vLLM makes of a card, or of a pool that a log printed."""
    kv = cache_type(asked.kv_type, CACHE_TYPES, "auto", "vLLM")
    blocks = blocks_of(asked.model, kv, asked.drafts, asked.cards)
    caching = bool(asked.prefix_caching)
    terms = _terms(asked)
    pool = next((one for one in terms if one.name == POOL), None)
    each = blocks.each(caching, asked.drafts)
    request = blocks.request(asked.context_tokens, caching, asked.drafts)
    found = _layout(asked, blocks, kv, request)
    limits: tuple[Limit, ...] = ()
    if pool is not None:
        count = Span(least=pool.least_bytes, most=pool.most_bytes).over(blocks.bytes)
        found += _counted(asked, blocks, count, request)
        limits = (
            Limit(
                name="blocks",
                least=count.least - NULL_BLOCKS,
                most=count.most - NULL_BLOCKS,
                each=each,
                step=blocks.full_groups,
                step_tokens=blocks.tokens,
            ),
        )
    return Plan(
        runtime="vllm",
        terms=terms,
        requests=_request(asked, blocks, each, request),
        figures=found,
        limits=limits,
        notes=_notes(asked, caching),
    )


def _terms(asked: Asked) -> tuple[Term, ...]:
    """What is on the card beside the pool, and the pool."""
    table = exactly(rotary_bytes(asked.model))
    weights = loaded(asked, "vLLM", logs_of("vllm", "weights"))
    loading: tuple[Term, ...] = (
        weights,
        term(
            "rotary table",
            table,
            _table_source(asked.model),
            logs_of("vllm", "weights"),
        ),
    )
    if (rounding := _rounding(asked, sum(t.most_bytes for t in loading))) is not None:
        loading = (*loading, rounding)
    if asked.pool is not None:
        return (*loading, term(POOL, asked.pool, "as given"))
    if asked.card is None:
        return loading
    beside = _beside(asked)
    share_of_card = asked.utilization or UTILIZATION
    room = Span(least=int(asked.card.least_bytes * share_of_card), most=int(asked.card.most_bytes * share_of_card))
    taken = exactly(0) - Span(least=0, most=table.most - rotary_rows(asked.model, NEWEST) * _row_bytes(asked.model))
    taken += sum((Span(least=t.least_bytes, most=t.most_bytes) for t in (*loading, *beside)), exactly(0))
    default = "" if asked.utilization else ", vLLM's default; 0.9 before"
    source = f"{float(share_of_card):g} of the card{default}, less the lines above"
    return (*loading, *beside, term(POOL, room - taken, source))


def _table_source(model: Served) -> str:
    if not model.rotary_rows:
        return "not counted: the config has no max_position_embeddings"
    rows = f"{model.rotary_rows:,} rows of {model.rotary_dim} × {model.element_bytes} B"
    return rows + ("; a quarter of it in 0.33.0" if model.shapes is not None else "")


def _rounding(asked: Asked, requested_bytes: int) -> Term | None:
    """What the allocator's blocks are larger than what is asked for; not known of quantised weights, of a share, or
    where layers with full attention do not come every so many.

    The MTP part, loaded after the rest, is taken as it is.
    """
    model = asked.model
    if model.shapes is None or not model.shapes.regular or asked.weights is not None or asked.cards > 1:
        return None
    blocks = loaded_bytes(model.shapes, asked.text, model.element_bytes, model.rotary_rows)
    drafting = model.mtp_parameters * model.element_bytes if asked.drafts else 0
    source = "the allocator's blocks beyond the two: its rules, over the tensors in order"
    return term("rounding", exactly(blocks + drafting - requested_bytes), source, logs_of("vllm", "weights"))


def _beside(asked: Asked) -> tuple[Term, ...]:
    """What vLLM measures at its start and leaves out of the pool."""
    assert asked.card is not None
    emulated = activation(planned(), "vllm", asked.model.name, asked.text, asked.card.label)
    found = []
    for name in NO_FORMULA:
        span, count = seen(name)
        least = 0 if name == "CUDA graphs" else span.least  # eager, or a release that does not count them
        source = f"not known: the least and most of {count} logs of other models and cards"
        if name == "activation peak" and emulated is not None:
            eager, source = emulated
            span = Span(least=eager.least, most=max(eager.most, cold_compile_bytes(asked.model)))
            least = span.least
            source += ", eager; the most with a cold compile cache"
        found.append(term(name, Span(least=least, most=span.most), source))
    return tuple(found)


def _layout(asked: Asked, blocks: Blocks, kv: CacheType, request: int) -> tuple[Figure, ...]:
    state = blocks.state_page_bytes
    why = (
        f"until its page of {8 * kv.bytes // kv.elements} bits is no smaller than a state of {state:,} B"
        if state
        else "vLLM's own"
    )
    found = [
        figure("block", exactly(blocks.tokens), "tokens", why, logs_of("vllm", "block")),
        figure(
            "block size",
            exactly(blocks.bytes),
            "bytes",
            f"{blocks.layers} pages of {blocks.page_bytes:,} B",
            logs_of("vllm", "blocks"),
        ),
    ]
    copies = request - blocks.full_groups * -(-asked.context_tokens // blocks.tokens)
    source = f"⌈{asked.context_tokens:,} / {blocks.tokens:,}⌉"
    source = f"{blocks.full_groups} × {source}" if blocks.full_groups > 1 else source
    if copies:
        each = copies // blocks.state_groups
        source += f" + {blocks.state_groups} groups of states × {each}"
    found.append(figure("request", exactly(request), "blocks", source, logs_of("vllm", "concurrency")))
    return tuple(found)


def _counted(asked: Asked, blocks: Blocks, count: Span, request: int) -> tuple[Figure, ...]:
    """The lines that vLLM prints of its pool."""
    groups = blocks.full_groups + blocks.state_groups
    tokens = Span(
        least=count.least * asked.context_tokens // request, most=count.most * asked.context_tokens // request
    )
    logs = logs_of("vllm", "concurrency")
    return (
        figure("blocks", count, "", f"the pool / {blocks.bytes:,} B", logs_of("vllm", "blocks")),
        Figure(
            name="concurrency",
            least=count.least / request,
            most=count.most / request,
            unit="×",
            source=f"blocks / {request:,}: maximum concurrency for {asked.context_tokens:,} tokens",
            logs=logs,
            digits=2,
        ),
        figure(
            "cache size",
            tokens,
            "tokens",
            "concurrency × length: GPU KV cache size of newer releases",
            logs_of("vllm", "cache size"),
        ),
        figure(
            "cache size to 0.19",
            Span(least=count.least // groups * blocks.tokens, most=count.most // groups * blocks.tokens),
            "tokens",
            f"the same line of older releases: blocks / {groups} groups × {blocks.tokens:,}",
            logs_of("vllm", "cache size to 0.19"),
        ),
    )


def _request(asked: Asked, blocks: Blocks, each: int, request: int) -> tuple[Term, ...]:
    cache = term(
        "KV cache",
        exactly((request - each) * blocks.bytes),
        f"{request - each:,} blocks for {asked.context_tokens:,} tokens",
        logs_of("vllm", "concurrency"),
    )
    if not each:
        return (cache,)
    copies = each // blocks.state_groups
    source = f"{each} blocks: {blocks.state_groups} groups of layers × {copies} {'copies' if copies > 1 else 'copy'}"
    return cache, term("states", exactly(each * blocks.bytes), source, logs_of("vllm", "concurrency"))


def _notes(asked: Asked, caching: bool) -> tuple[str, ...]:
    notes = []
    if asked.model.n_linear and asked.prefix_caching is None:
        notes.append(
            "without prefix caching; with it (PREFIX_CACHING=1; the default of 0.33.0) a request keeps its states twice"
        )
    if asked.model.n_linear and asked.prefix_caching is not False:
        notes.append(
            f"not counted: where 0.33.0 caches prefixes and prefills with FlashInfer (an H100), a request keeps its "
            f"states three times, in blocks of a multiple of {CHECKPOINT_TOKENS} tokens"
        )
    if asked.drafts and not asked.model.mtp_layers:
        notes.append("the model has no MTP part: a drafter of its own and its cache are not counted")
    if asked.cards > 1:
        notes.append(f"every figure is one of {asked.cards} cards")
    return tuple(notes)
