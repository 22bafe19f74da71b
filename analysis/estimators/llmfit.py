"""llmfit: nominal parameters, KV and 0.5 GB. Claims: the process.

Its KV is on every layer whatever the layout says (AlexsJones/llmfit, issues 418 and 951), for one sequence.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimators.nominal import every_layer_kv_bytes, nominal_parameters

OVERHEAD_BYTES = 500_000_000


def estimate(request: Request) -> Breakdown:
    """Weights, cache and half a gigabyte."""
    return added_up(
        "process",
        weights=request.element_bytes * nominal_parameters(request),
        kv_cache=every_layer_kv_bytes(request.shapes, request.element_bytes) * request.context_tokens,
        overhead=OVERHEAD_BYTES,
    )
