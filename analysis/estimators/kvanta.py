"""kvanta: KV cache, conv state at the cache's precision (all K columns), float32 recurrent state; no overhead.

Claims: the allocated bytes. Beside the checkpoint's own bytes as weights.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import checkpoint_bytes
from vram_ledger.analysis.formula.terms import conv_bytes_per_sequence, kv_bytes_per_token, recurrent_bytes_per_sequence


def estimate(request: Request) -> Breakdown:
    """Weights, cache and both states."""
    shapes, batch = request.shapes, request.batch
    return added_up(
        "allocated",
        weights=checkpoint_bytes(shapes),
        kv_cache=kv_bytes_per_token(shapes, request.element_bytes) * batch * request.context_tokens,
        recurrent_state=recurrent_bytes_per_sequence(shapes) * batch,
        conv_state=conv_bytes_per_sequence(shapes, request.element_bytes) * batch,
    )
