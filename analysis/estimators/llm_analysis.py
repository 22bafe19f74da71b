"""llm-analysis: KV on every layer, the head's width from the hidden size, the widest activation of one layer.

Claims: the allocated bytes. Given the exact text weights, as its published comparison was.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import text_parameters


def estimate(request: Request) -> Breakdown:
    """Weights, cache and inference activations."""
    s, batch = request.shapes, request.batch
    tokens = batch * request.context_tokens
    attention = 2 * (2 * tokens * s.hidden + 4 * s.query_heads * tokens)
    return added_up(
        "allocated",
        weights=request.element_bytes * text_parameters(s),
        kv_cache=4 * tokens * (s.hidden / s.query_heads) * s.kv_heads * (s.n_full + s.n_linear),
        activations=max(6 * tokens * s.hidden, attention, 2 * s.intermediate * tokens, 4 * tokens * s.hidden),
    )
