"""gguf-parser-go: cache and weights of a text-only file. Claims: the allocated bytes.

Up to v0.25 a hybrid of this family paid KV on every layer and had no state; then KV on the full layers and a float32
state. Its output buffer, mask and graph are not described well enough to be here.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimators.nominal import every_layer_kv_bytes
from vram_ledger.analysis.formula.shapes import Shapes, text_parameters
from vram_ledger.analysis.formula.terms import kv_bytes_per_token


def estimate_old(request: Request) -> Breakdown:
    """Weights, and KV on every layer."""
    tokens = request.batch * request.context_tokens
    return added_up(
        "allocated",
        weights=request.element_bytes * text_parameters(request.shapes),
        kv_cache=every_layer_kv_bytes(request.shapes, request.element_bytes) * tokens,
    )


def estimate(request: Request) -> Breakdown:
    """Weights, KV on the full-attention layers, and both states in float32."""
    shapes, batch = request.shapes, request.batch
    convolution, matrices = state_elements(shapes)
    return added_up(
        "allocated",
        weights=request.element_bytes * text_parameters(shapes),
        kv_cache=kv_bytes_per_token(shapes, request.element_bytes) * batch * request.context_tokens,
        recurrent_state=4 * matrices * shapes.n_linear * batch,
        conv_state=4 * convolution * shapes.n_linear * batch,
    )


def state_elements(shapes: Shapes) -> tuple[int, int]:
    """Elements of one layer's and sequence's convolution (K−1 columns) and of its state matrices."""
    inner = shapes.linear_value_heads * shapes.linear_value_dim
    columns = inner + 2 * shapes.linear_key_heads * shapes.linear_key_dim
    return (shapes.conv_width - 1) * columns, shapes.linear_key_dim * inner
