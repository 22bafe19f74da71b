"""canitrun: nominal parameters and KV on every layer of one sequence, and 12 % on top. Claims: the process."""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimators.nominal import every_layer_kv_bytes, nominal_parameters

OVERHEAD = 0.12


def estimate(request: Request) -> Breakdown:
    """Weights, cache, and 12 % of both."""
    weights = 2 * nominal_parameters(request)
    kv_cache = every_layer_kv_bytes(request.shapes) * request.context_tokens
    return added_up("process", weights=weights, kv_cache=kv_cache, overhead=OVERHEAD * (weights + kv_cache))
