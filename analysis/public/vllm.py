"""What an expression may call of vLLM, over a config's shapes or a record's own sizes: `analysis/serving` answers.

kv: bytes of an element of the cache. parts: cards of tensor parallelism. drafts: speculative tokens.
"""

from fractions import Fraction

from vram_ledger.analysis.formula.config import MOST_LAYERS
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.serving.loading import loaded_bytes
from vram_ledger.analysis.serving.model import MROPE_STRETCH, of_shapes_alone
from vram_ledger.analysis.serving.plan import CacheType
from vram_ledger.analysis.serving.vllm import Blocks, blocks_of
from vram_ledger.errors import InputError

ELEMENT_BYTES = 2


def block_tokens(shapes: Shapes, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """Tokens of an attention block."""
    return _blocks(shapes, kv, parts, drafts).tokens


def block_bytes(shapes: Shapes, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """Bytes of a block on one card."""
    return _blocks(shapes, kv, parts, drafts).bytes


def state_page_bytes(shapes: Shapes, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """One layer's state of one sequence on one card."""
    return _blocks(shapes, kv, parts, drafts).state_page_bytes


def request_blocks(shapes: Shapes, context: int, kv: int = 2, parts: int = 1, drafts: int = 0, copies: int = 1) -> int:
    """Blocks of one request. copies: of each state, 2 with aligned prefix caching."""
    return _blocks(shapes, kv, parts, drafts).request(context, copies > 1, drafts)


def pool_tokens(shapes: Shapes, blocks: int, kv: int = 2, parts: int = 1, drafts: int = 0) -> int:
    """ "GPU KV cache size" as versions up to 0.19 print it: blocks shared out over the groups."""
    own = _blocks(shapes, kv, parts, drafts)
    return blocks // (own.full_groups + own.state_groups) * own.tokens


def request_tokens(blocks: int, needed: int, context: int) -> int:
    """ "GPU KV cache size" as later versions print it: requests of the longest context that fit, in tokens."""
    return int(Fraction(blocks * context, needed))


def weights(shapes: Shapes, positions: int, tower: int = 0) -> int:
    """ "Model loading took", in bytes. positions: the model's longest context. tower: 1 with the vision tower."""
    if tower and shapes.vision is None:
        raise InputError("vllm_weights: this model has no vision tower")
    if shapes.n_full + shapes.n_linear > MOST_LAYERS:
        raise InputError(f"vllm_weights: more than {MOST_LAYERS:,} layers")
    layers, full = shapes.n_full + shapes.n_linear, shapes.n_full
    if full and layers // (layers // full) != full:
        raise InputError(f"vllm_weights: {full} of {layers} layers with full attention do not come every so many")
    return loaded_bytes(shapes, not tower, ELEMENT_BYTES, MROPE_STRETCH * positions)


def _blocks(shapes: Shapes, kv: int, parts: int, drafts: int) -> Blocks:
    return blocks_of(of_shapes_alone(shapes), CacheType(name=f"{kv} B", elements=1, bytes=kv), drafts, parts)
