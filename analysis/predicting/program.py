"""The family's program in symbols: the points at which a forward pass can peak, and the tensors alive there.

Read off the ledgers of derived formulas (``make derived``) of transformers 5.23.0 and 5.24.0, ``modeling_qwen3_5.py``
and ``cache_utils.py``, with fla 0.6.0, ``ops/gated_delta_rule``, ``ops/common/chunk_o.py`` and ``chunk_delta_h.py``:
what is a number there is a size of the config here, so that one program answers for every model of the family. A test
holds it against every stored formula of that software, byte for byte. It knows 16-bit weights, the fla kernels, sdpa
attention and a dynamic cache, layers in the family's order, of which the last has full attention, and all logits only
where the prefill is a single shot.

A call of the model feeds T tokens to each of B sequences and leaves E cached in each. A point is the sum of its
tensors, weights left out. Sizes are in bytes; "per row" is for each of the B·T tokens fed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import (
    CHUNK_TOKENS,
    STATE_ELEMENT_BYTES,
    TOKEN_ID_BYTES,
    conv_bytes_per_sequence,
    kv_bytes_per_token,
    recurrent_bytes_per_sequence,
)
from vram_ledger.harness.records import Configuration, Workload

TRANSFORMERS, FLA = ("5.24.0", "5.23.0"), "0.6.0"
ELEMENT_BYTES, FLOAT32_BYTES, BOOL_BYTES, INT64_BYTES = 2, 4, 1, 8
IN_REGISTERS = 128  # head dimension up to which the memory-efficient attention keeps its sums in registers
MASK_TOKENS = 8  # the memory-efficient attention wants a mask's rows padded to this


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the model. id_tokens: of each sequence's prompt, all alive during every call. continued: whether
    there was a cache before it."""

    batch: int
    tokens: int
    cached: int
    id_tokens: int
    continued: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Bytes alive at one point of a call, weights left out, and the stage that it is in."""

    stage: str
    bytes: int


def knows(shapes: Shapes, configuration: Configuration) -> bool:
    """Whether the program is that of a configuration and a layout."""
    chunked_logits = configuration.logits == "all" and configuration.prefill_chunk_tokens > 0  # all are kept, by call
    return (
        shapes.n_full > 0
        and shapes.regular
        and not chunked_logits
        and configuration.images is None
        and configuration.dtype in ("bfloat16", "float16")
        and configuration.logits in ("last", "all")
        and (configuration.kernels, configuration.attention, configuration.cache) == ("fla", "sdpa", "dynamic")
        and not shapes.attention_bias
        and configuration.prefill_chunk_tokens % MASK_TOKENS == 0
    )


def masks_by_cudnn(capability: str) -> bool:
    """Whether a card of this capability, such as "9.0", gives attention with a mask to cuDNN.

    PyTorch 2.14.1, ``sdp_utils.cpp``: on 9.0 and 10.x. Others take the memory-efficient kernel, which needs more, and
    so does "", a card that is not known.
    """
    return capability == "9.0" or capability.startswith("10.")


def peak(shapes: Shapes, workload: Workload, capability: str = "") -> Point:
    """The highest point of a workload on a card of this capability, weights left out."""
    every, cudnn = workload.configuration.logits == "all", masks_by_cudnn(capability)
    return max((p for call in calls(workload) for p in points(shapes, call, every, cudnn)), key=lambda p: p.bytes)


def calls(workload: Workload) -> Iterator[Call]:
    """The calls that can hold a workload's peak: of a chunked prefill the first, the last full one and the rest."""
    batch, context = workload.batch, workload.context_tokens
    if workload.phase == "decode":
        yield Call(batch=batch, tokens=1, cached=context + 1, id_tokens=1, continued=True)
        return
    chunk = workload.configuration.prefill_chunk_tokens
    first = min(chunk or context, context)
    yield Call(batch=batch, tokens=first, cached=first, id_tokens=context, continued=False)
    full, rest = divmod(context, first)
    if full > 1:
        yield Call(batch=batch, tokens=first, cached=full * first, id_tokens=context, continued=True)
    if rest:
        yield Call(batch=batch, tokens=rest, cached=context, id_tokens=context, continued=True)


def points(shapes: Shapes, call: Call, all_logits: bool, cudnn: bool) -> Iterator[Point]:
    """Every point that was found to be the highest in some model of the family."""
    always = call.batch * (
        recurrent_bytes_per_sequence(shapes) + conv_bytes_per_sequence(shapes) + TOKEN_ID_BYTES * call.id_tokens
    )
    positions = INT64_BYTES * call.tokens
    mask = BOOL_BYTES * call.tokens * call.cached if _masked(call) else 0
    through_layers = always + positions + mask
    if shapes.n_linear:
        yield _output_norm(shapes, call, through_layers)
        if call.tokens > 1 or not call.continued:
            yield _chunk_output(shapes, call, through_layers)
    yield _query_norm(shapes, call, through_layers)
    yield _feed_forward(shapes, call, through_layers)
    if call.continued:
        yield _cache_growth(shapes, call, through_layers)
    if _masked(call):
        yield from _masked_attention(shapes, call, through_layers, cudnn)
    yield _head(shapes, call, always, all_logits)


def _masked(call: Call) -> bool:
    """A later chunk sees the cache through a mask; a whole prompt and a single token need none."""
    return call.continued and call.tokens > 1


def _rows(call: Call) -> int:
    return call.batch * call.tokens


def _residual(shapes: Shapes, call: Call, copies: int = 3) -> int:
    """The embedding, the layer's input and its normed copy; and what every attention layer reads: cosines, sines."""
    return _rows(call) * ELEMENT_BYTES * (copies * shapes.hidden + 2 * shapes.rotary_dim)


def _cache(shapes: Shapes, call: Call, grown_layers: int) -> int:
    """Keys and values: ``grown_layers`` layers at their new length, the rest at the old one if there was one."""
    per_layer = kv_bytes_per_token(shapes) // shapes.n_full * call.batch
    before = (call.cached - call.tokens) if call.continued else 0
    return per_layer * (grown_layers * call.cached + (shapes.n_full - grown_layers) * before)


def _state(shapes: Shapes, call: Call) -> int:
    """A layer's recurrent state of the batch."""
    return (
        call.batch * shapes.linear_value_heads * shapes.linear_key_dim * shapes.linear_value_dim * STATE_ELEMENT_BYTES
    )


def _convolved(shapes: Shapes, call: Call) -> int:
    """Queries, keys and values after the convolution. fla is given the cached columns as well; a short prompt is
    padded to the convolution's width."""
    if call.continued:
        columns = call.tokens + (shapes.conv_width if call.tokens > 1 else 0)
    else:
        columns = max(call.tokens, shapes.conv_width)
    return call.batch * shapes.conv_channels * columns * ELEMENT_BYTES


def _gates(shapes: Shapes) -> int:
    """Per row: b, a and beta in 16 bits, the decay in 32, a number a head each."""
    return shapes.linear_value_heads * (3 * ELEMENT_BYTES + FLOAT32_BYTES)


def _output_norm(shapes: Shapes, call: Call, beside: int) -> Point:
    """The gated norm after a delta rule (``Qwen3_5RMSNormGated``): its output and gate twice in float32."""
    value = shapes.linear_value_heads * shapes.linear_value_dim
    per_row = _gates(shapes) + value * (3 * ELEMENT_BYTES + 2 * FLOAT32_BYTES)
    per_row += shapes.linear_value_heads * FLOAT32_BYTES  # the mean of the squares
    scratch = _rows(call) * per_row + _convolved(shapes, call) + _state(shapes, call)
    total = beside + _cache(shapes, call, shapes.n_full - 1) + _residual(shapes, call) + scratch
    return Point(stage="linear_attn.norm", bytes=total)


def _chunk_output(shapes: Shapes, call: Call, beside: int) -> Point:
    """The output pass of fla's chunked delta rule: a state for each chunk and head, and every operand of the rule.

    The layer's own state is not cached yet in a first call; in a later one the old state still is.
    """
    key, value = shapes.linear_key_dim, shapes.linear_value_dim
    heads, key_heads = shapes.linear_value_heads, shapes.linear_key_heads
    per_row = _gates(shapes) + heads * FLOAT32_BYTES  # the decay summed up
    per_row += ELEMENT_BYTES * heads * (5 * value + key + CHUNK_TOKENS)  # z, v, u, new v, output; w; the chunk's matrix
    per_row += key_heads * (4 * key * ELEMENT_BYTES + 2 * FLOAT32_BYTES)  # q and k, as they are and normed; the norms
    chunks = call.batch * -(-call.tokens // CHUNK_TOKENS) * heads * key * value * ELEMENT_BYTES
    scratch = _rows(call) * per_row + _convolved(shapes, call) + chunks + _state(shapes, call)
    uncached = 0 if call.continued else _state(shapes, call)
    total = beside + _cache(shapes, call, shapes.n_full - 1) + _residual(shapes, call) + scratch - uncached
    return Point(stage="linear_attn", bytes=total)


def _query_norm(shapes: Shapes, call: Call, beside: int) -> Point:
    """The queries' norm of the last layer: queries and gate as projected, the gate again, and two copies in float32."""
    query = shapes.query_heads * shapes.head_dim
    per_row = query * (3 * ELEMENT_BYTES + 2 * FLOAT32_BYTES) + shapes.query_heads * FLOAT32_BYTES
    total = beside + _cache(shapes, call, shapes.n_full - 1) + _residual(shapes, call) + _rows(call) * per_row
    return Point(stage="self_attn.q_norm", bytes=total)


def _feed_forward(shapes: Shapes, call: Call, beside: int) -> Point:
    """The last layer's gated feed-forward part: both projections and their product."""
    total = beside + _cache(shapes, call, shapes.n_full) + _residual(shapes, call, copies=4)
    return Point(stage="mlp", bytes=total + _rows(call) * 3 * shapes.intermediate * ELEMENT_BYTES)


def _cache_growth(shapes: Shapes, call: Call, beside: int) -> Point:
    """The last layer's values put behind the cached ones: a copy, beside the old values."""
    query, kv = shapes.query_heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    before = call.batch * kv * (call.cached - call.tokens) * ELEMENT_BYTES
    operands = _rows(call) * 2 * (query + kv) * ELEMENT_BYTES
    total = beside + _cache(shapes, call, shapes.n_full) + before + _residual(shapes, call) + operands
    return Point(stage="self_attn", bytes=total)


def _masked_attention(shapes: Shapes, call: Call, beside: int, cudnn: bool) -> Iterator[Point]:
    """Attention of a later chunk: keys and values repeated for every query head, a bias made of the mask.

    cuDNN takes the bias as it is, and puts the output out head by head, so it is copied. For the memory-efficient
    kernel the bias is copied to padded rows before the attention runs where the cached tokens are no multiple of 8; it
    sums up in float32, outside the registers where the heads are wide (``kernel_forward.h``).
    """
    query, cached = shapes.query_heads * shapes.head_dim, call.cached
    repeated = 2 * call.batch * query * cached * ELEMENT_BYTES if shapes.query_heads > shapes.kv_heads else 0
    bias, padded_row = _rows(call) * ELEMENT_BYTES, -(-cached // MASK_TOKENS) * MASK_TOKENS
    rows = _residual(shapes, call) + _rows(call) * 2 * query * ELEMENT_BYTES  # gate and rotated queries
    total = beside + _cache(shapes, call, shapes.n_full) + repeated + rows
    output, seeds = _rows(call) * query * ELEMENT_BYTES, 2 * INT64_BYTES  # of a dropout that never is
    if cudnn:
        yield Point(stage="self_attn", bytes=total + bias * cached + output + seeds)
        yield Point(stage="self_attn", bytes=total + 2 * output)
        return
    sums = _rows(call) * query * FLOAT32_BYTES if shapes.head_dim > IN_REGISTERS else 0
    yield Point(stage="self_attn", bytes=total + bias * padded_row + output + seeds + sums)
    if cached % MASK_TOKENS:
        yield Point(stage="self_attn", bytes=total + bias * (cached + padded_row))


def _head(shapes: Shapes, call: Call, beside: int, all_logits: bool) -> Point:
    """The head: the normed hidden states, and the logits of the last token or of all."""
    positions = _rows(call) if all_logits else call.batch
    hidden = _rows(call) * shapes.hidden * ELEMENT_BYTES
    logits = positions * shapes.vocabulary * ELEMENT_BYTES
    return Point(stage="lm_head", bytes=beside + _cache(shapes, call, shapes.n_full) + hidden + logits)
