"""llama.cpp ``--fit``: its own allocator without memory, 1024 MiB left free on the card. Claims: the device.

KV cells of f16 on the full layers and, per sequence, K−1 columns and the state matrices in float32
(:mod:`vram_ledger.analysis.serving.llama_cpp`). The compute buffer comes out of the program itself and has no formula,
so it is missing here.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import text_parameters
from vram_ledger.analysis.serving.llama_cpp import (
    CACHE_TYPES,
    FIT_MARGIN_BYTES,
    cell_bytes,
    columns_bytes,
    matrices_bytes,
)
from vram_ledger.analysis.serving.model import of_shapes_alone


def estimate(request: Request) -> Breakdown:
    """Weights of the text model, cells, states and the margin."""
    model, batch = of_shapes_alone(request.shapes), request.batch
    return added_up(
        "device",
        weights=request.element_bytes * text_parameters(request.shapes),
        kv_cache=cell_bytes(model, CACHE_TYPES["f16"]) * batch * request.context_tokens,
        recurrent_state=matrices_bytes(model) * batch,
        conv_state=columns_bytes(model) * batch,
        overhead=FIT_MARGIN_BYTES,
    )
