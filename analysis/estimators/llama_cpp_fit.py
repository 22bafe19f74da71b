"""llama.cpp ``--fit``: its own allocator without memory, 1024 MiB left free on the card. Claims: the device.

KV cells of f16 on the full layers and, per sequence, K−1 columns and the state matrices in float32. The compute
buffer comes out of the program itself and has no formula, so it is missing here.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimators.gguf_parser import state_elements
from vram_ledger.analysis.formula.shapes import text_parameters
from vram_ledger.analysis.formula.terms import kv_bytes_per_token

MARGIN_BYTES = 1024 * 2**20


def estimate(request: Request) -> Breakdown:
    """Weights of the text model, cells, states and the margin."""
    shapes, batch = request.shapes, request.batch
    convolution, matrices = state_elements(shapes)
    return added_up(
        "device",
        weights=request.element_bytes * text_parameters(shapes),
        kv_cache=kv_bytes_per_token(shapes) * batch * request.context_tokens,
        recurrent_state=4 * matrices * shapes.n_linear * batch,
        conv_state=4 * convolution * shapes.n_linear * batch,
        overhead=MARGIN_BYTES,
    )
