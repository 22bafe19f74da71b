"""hf-mem: the safetensors' bytes and a KV cache on the full-attention layers. Claims: the allocated bytes.

No linear state. The warm-up is what one forward pass of T batched tokens takes, T being the whole batch here.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import checkpoint_bytes
from vram_ledger.analysis.formula.terms import kv_bytes_per_token


def estimate(request: Request) -> Breakdown:
    """Weights and KV cache."""
    return added_up("allocated", weights=checkpoint_bytes(request.shapes), kv_cache=_kv_cache(request))


def estimate_warm_up(request: Request) -> Breakdown:
    """Weights, KV cache, and the widest of the attention, the feed-forward and the logits beside the hidden states."""
    shapes, tokens = request.shapes, request.batch * request.context_tokens
    attention = 2 * tokens * (shapes.query_heads + 2 * shapes.kv_heads) * shapes.head_dim
    feed_forward = 4 * tokens * shapes.intermediate
    logits = 2 * shapes.vocabulary * min(tokens, request.batch)
    return added_up(
        "allocated",
        weights=checkpoint_bytes(shapes),
        kv_cache=_kv_cache(request),
        activations=2 * tokens * shapes.hidden + max(attention, feed_forward, logits),
    )


def _kv_cache(request: Request) -> int:
    return kv_bytes_per_token(request.shapes, request.element_bytes) * request.batch * request.context_tokens
