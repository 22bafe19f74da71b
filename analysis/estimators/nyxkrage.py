"""NyxKrage's LLM-Model-VRAM-Calculator, for one sequence. Claims: the allocated bytes.

KV on every layer, the head's width taken from the hidden size; compute buffers after llama.cpp's. The page shows
its gigabytes to the power of 1024; these are bytes.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import checkpoint_bytes

BATCH_TOKENS = 512  # tokens a step, fixed in the page


def estimate(request: Request) -> Breakdown:
    """Weights, cache, input and compute buffers."""
    shapes, context = request.shapes, request.context_tokens
    width = shapes.hidden * shapes.kv_heads / shapes.query_heads
    inputs = 3 * BATCH_TOKENS + BATCH_TOKENS * shapes.hidden + BATCH_TOKENS * context + context
    compute = (context / 1024 * 2 + 0.75) * shapes.query_heads * 2**20
    return added_up(
        "allocated",
        weights=checkpoint_bytes(shapes) / 2 * request.element_bytes,
        kv_cache=2 * width * (shapes.n_full + shapes.n_linear) * context * request.element_bytes,
        activations=inputs + compute,
    )
