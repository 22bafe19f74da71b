"""gpu_poor: parameters from the hidden sizes alone, activations for one sequence. Claims: the process.

KV without grouped queries (it is the 8·c·h·L, on every layer with all heads, at 4 bytes an element each for keys and
values); a full score matrix; 650 MiB for the CUDA context.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up

CONTEXT_BYTES = 650 * 2**20


def estimate(request: Request) -> Breakdown:
    """Weights, cache, activations and the CUDA context."""
    s, context = request.shapes, request.context_tokens
    layers = s.n_full + s.n_linear
    parameters = 2 * s.vocabulary * s.hidden + layers * (4 * s.hidden**2 + 3 * s.hidden * s.intermediate)
    return added_up(
        "process",
        weights=2 * parameters,
        kv_cache=8 * context * s.hidden * layers,
        activations=10 * context * s.hidden + 2 * s.query_heads * context**2,
        overhead=CONTEXT_BYTES,
    )
