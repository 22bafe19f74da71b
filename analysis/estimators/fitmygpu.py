"""FitMyGPU, a web calculator, as its page on Qwen3.5-27B describes it. Claims: the process on its card.

Weights are a profile of the published checkpoint, the state is a whole and in float32, 10 % are added for the
runtime. No activations, no CUDA context.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import Shapes, checkpoint_bytes

PROFILE_BYTES = {"qwen3.5-27b": 55_560_000_000, "qwen3.5-9b": 20_000_000_000}  # 27e9 × 2.06 (2.0578), 10e9 × 2.00
CONTEXT_TOKENS = (256, 256_000)  # inputs are clamped to these
BATCHES = (1, 64)
TRANSFORMERS_CONTEXT_TOKENS = 4096
LEAST_OVERHEAD_BYTES, OVERHEAD = 1_500_000_000, 0.10
UTILISATION = 0.9
LARGEST_CONCURRENCY = 4096


def estimate(request: Request) -> Breakdown:
    """The core memory in the vLLM setting; what the card must have is :func:`required_bytes`."""
    context = min(max(request.context_tokens, CONTEXT_TOKENS[0]), CONTEXT_TOKENS[1])
    return _core(request, context, min(max(request.batch, BATCHES[0]), BATCHES[1]))


def estimate_transformers(request: Request) -> Breakdown:
    """The core memory in the Transformers setting, where context and batch are forced to 4,096 and 1."""
    return _core(request, TRANSFORMERS_CONTEXT_TOKENS, 1)


def required_bytes(request: Request, utilisation: float = UTILISATION) -> int:
    """Memory that the vLLM setting asks of the card; the utilisation is clamped to 0.5–0.99."""
    return round(estimate(request).total_bytes / min(max(utilisation, 0.5), 0.99))


def max_concurrency(request: Request, gpu_gb: int, count: int = 1) -> int:
    """The largest batch that fits ``count`` cards labelled ``gpu_gb``, at most 4,096; 0 if not even one sequence."""
    capacity = gpu_gb * 2**30 * count
    context = min(max(request.context_tokens, CONTEXT_TOKENS[0]), CONTEXT_TOKENS[1])
    fits, too_many = 0, LARGEST_CONCURRENCY + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _core(request, context, middle).total_bytes / UTILISATION <= capacity:
            fits = middle
        else:
            too_many = middle
    return fits


def state_bytes(shapes: Shapes) -> int:
    """Bytes of one sequence's linear state: matrices and all K columns of the convolution, in float32."""
    if not shapes.n_linear:
        return 0
    per_key_head = -(-shapes.linear_value_heads * shapes.linear_value_dim // shapes.linear_key_heads)
    matrices = shapes.linear_key_heads * shapes.linear_key_dim * per_key_head
    return shapes.n_linear * (matrices + shapes.conv_width * shapes.conv_channels) * 4


def _core(request: Request, context_tokens: int, batch: int) -> Breakdown:
    shapes = request.shapes
    weights = PROFILE_BYTES.get(request.model) or checkpoint_bytes(shapes)  # a model without a page has no profile
    kv_cache = batch * context_tokens * shapes.n_full * 2 * shapes.kv_heads * shapes.head_dim * request.element_bytes
    state = batch * state_bytes(shapes)
    overhead = max(LEAST_OVERHEAD_BYTES, OVERHEAD * (weights + kv_cache + state))
    return added_up("process", weights=weights, kv_cache=kv_cache, state=state, overhead=overhead)
