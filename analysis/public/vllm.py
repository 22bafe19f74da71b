"""What vLLM takes for a hybrid of the family: its weights with their tables, its blocks, and what a request takes.

Weights are counted as vLLM does, by what PyTorch's allocator holds: the tensors of ``vllm/model_executor/models/
qwen3_5.py`` and ``qwen3_vl.py`` (vLLM 0.20) in the order in which they are made, put through the allocator's rules. The
rotary table is ``rotary_embedding/mrope.py``'s, for four times the positions, and the tower's for 8,192.

Blocks are those of ``vllm/v1/core/kv_cache_utils.py`` and ``model_executor/models/config.py``: a group of linear layers
has as many as there are full layers, and an attention block is stretched until it is no smaller than a state.
"""

import functools
from collections.abc import Callable, Iterator
from fractions import Fraction

from vram_ledger.analysis.allocation.settings import allocator
from vram_ledger.analysis.formula.config import MOST_LAYERS
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import STATE_ELEMENT_BYTES
from vram_ledger.errors import InputError

BLOCK_TOKENS = 16
ELEMENT_BYTES, FLOAT32_BYTES = 2, 4
TABLE_STRETCH = 4  # mrope.py: positions of a table that images may run ahead of
TOWER_POSITIONS = 8_192  # qwen3_vl.py


def state_page_bytes(shapes: Shapes, parts: int = 1, drafts: int = 0) -> int:
    """One layer's state of one sequence on one of so many cards; a column more of the convolution for each draft."""
    matrices = shapes.linear_value_heads * shapes.linear_value_dim * shapes.linear_key_dim * STATE_ELEMENT_BYTES
    columns = (shapes.conv_width - 1 + drafts) * shapes.conv_channels * ELEMENT_BYTES
    return (matrices + columns) // parts


def block_tokens(shapes: Shapes, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """Tokens of an attention block. kv: bytes of an element of the cache; parts: cards of tensor parallelism."""
    step = BLOCK_TOKENS * _layer_token_bytes(shapes, kv, parts)
    return BLOCK_TOKENS * max(1, -(-state_page_bytes(shapes, parts, drafts) // step) if shapes.n_linear else 1)


def block_bytes(shapes: Shapes, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """Bytes of a block on one card: a page for each layer of a group."""
    return shapes.n_full * block_tokens(shapes, kv, parts, drafts) * _layer_token_bytes(shapes, kv, parts)


def request_blocks(shapes: Shapes, context: int, kv: int = 2, parts: int = 1, drafts: int = 0, copies: int = 1) -> int:
    """Blocks of one request. copies: of each state, 2 with aligned prefix caching; drafts: one more for each."""
    groups = -(-shapes.n_linear // shapes.n_full)
    return -(-context // block_tokens(shapes, kv, parts, drafts)) + groups * (copies + drafts)


def pool_tokens(shapes: Shapes, blocks: int, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """ "GPU KV cache size" as versions up to 0.19 print it: blocks shared out over the groups."""
    groups = 1 + (-(-shapes.n_linear // shapes.n_full))
    return blocks // groups * block_tokens(shapes, kv, parts, drafts)


def request_tokens(blocks: int, needed: int, context: int) -> int:
    """ "GPU KV cache size" as later versions print it: requests of the longest context that fit, in tokens."""
    return int(Fraction(blocks * context, needed))


def weights(shapes: Shapes, positions: int, tower: int = 0) -> int:
    """ "Model loading took", in bytes. positions: the model's longest context. tower: 1 with the vision tower."""
    if tower and shapes.vision is None:
        raise InputError("vllm_weights: this model has no vision tower")
    if shapes.n_full + shapes.n_linear > MOST_LAYERS:
        raise InputError(f"vllm_weights: more than {MOST_LAYERS:,} layers")
    return _weights(shapes, positions, bool(tower))


@functools.cache
def _weights(shapes: Shapes, positions: int, tower: bool) -> int:
    own = allocator("default", None, None)
    steps: list[int] = []
    sizes: list[int] = []

    def make(size: int) -> int:
        steps.append(len(sizes))
        sizes.append(size)
        return len(sizes) - 1

    if tower:
        for elements in _tower(shapes):
            make(elements * ELEMENT_BYTES)
        head_dim = shapes.vision.hidden // shapes.vision.heads if shapes.vision else 0
        for number in _table(make, TOWER_POSITIONS, head_dim // 2):
            steps.append(~number)
    for size in _text(shapes):
        if size:
            make(size)
        else:
            for number in _table(make, TABLE_STRETCH * positions, shapes.rotary_dim):
                steps.append(~number)
    own.run(steps, sizes)
    return own.held.allocated_bytes


def _table(make: Callable[[int], int], positions: int, width: int) -> list[int]:
    """Makes a rotary table: angles, cosines and sines in float32, which are gone afterwards; their numbers."""
    places = make(positions * FLOAT32_BYTES)
    halves = [make(positions * (width // 2) * FLOAT32_BYTES) for _ in range(3)]
    whole = make(positions * width * FLOAT32_BYTES)
    make(positions * width * ELEMENT_BYTES)
    return [places, *halves, whole]


def _text(shapes: Shapes) -> Iterator[int]:
    """Bytes of the text model's tensors, 0 for the place where the rotary table is made."""
    h, e = shapes.hidden, ELEMENT_BYTES
    yield shapes.vocabulary * h * e
    every = (shapes.n_full + shapes.n_linear) // shapes.n_full
    made = False
    for layer in range(shapes.n_full + shapes.n_linear):
        if (layer + 1) % every:
            yield from (elements * e for elements in _linear(shapes))
        else:
            query, kv = shapes.query_heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
            yield (2 * query + 2 * kv) * h * e
            yield h * query * e
            if not made:
                yield 0
                made = True
            yield from (shapes.head_dim * e,) * 2
        yield 2 * shapes.intermediate * h * e
        yield h * shapes.intermediate * e
        yield from (h * e,) * 2
    yield h * e
    if not shapes.tied_embeddings:
        yield shapes.vocabulary * h * e


def _linear(shapes: Shapes) -> Iterator[int]:
    """Elements of a linear layer's tensors: convolution, the two merged projections, gates, norm, output."""
    h, value = shapes.hidden, shapes.linear_value_heads * shapes.linear_value_dim
    yield shapes.conv_channels * shapes.conv_width
    yield (shapes.conv_channels + value) * h
    yield 2 * shapes.linear_value_heads * h
    yield shapes.linear_value_heads
    yield 2 * shapes.linear_value_heads  # A_log is float32
    yield shapes.linear_value_dim
    yield h * value


def _tower(shapes: Shapes) -> Iterator[int]:
    """Elements of the vision tower's tensors."""
    assert shapes.vision is not None
    v = shapes.vision
    h, i, merged = v.hidden, v.intermediate, v.hidden * v.merge**2
    yield from (h * v.channels * v.temporal_patch * v.patch**2, h, v.positions * h)
    for _ in range(v.depth):
        yield from (h, h, h, h, 3 * h * h, 3 * h, h * h, h, h * i, i, i * h, h)
    yield from (h, h, merged * merged, merged, merged * v.out_hidden, v.out_hidden)


def _layer_token_bytes(shapes: Shapes, kv: int, parts: int) -> int:
    return 2 * max(1, shapes.kv_heads // parts) * shapes.head_dim * kv
