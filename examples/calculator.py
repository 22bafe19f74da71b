"""A calculator that vram-ledger can validate: make validate ESTIMATOR=examples/calculator.py:estimate

A request is a dict, the same that a command gets as a line of JSON (docs/estimators.md has every field). The answer is
a dict of bytes; ``None`` declines a request. The formula is FitMyGPU's, in its vLLM setting; replace it by yours.
"""

PROFILE_BYTES = {"qwen3.5-27b": 55.56e9, "qwen3.5-9b": 20e9}


def estimate(request: dict) -> dict:
    """The bytes of a workload at its peak."""
    shapes = request["shapes"]
    context = min(max(request["context_tokens"], 256), 256_000)
    batch = min(max(request["batch"], 1), 64)
    weights = PROFILE_BYTES.get(request["model"], request["checkpoint_bytes"])
    kv_cache = (
        batch * context * shapes["n_full"] * 2 * shapes["kv_heads"] * shapes["head_dim"] * request["element_bytes"]
    )
    state = batch * state_bytes(shapes)
    overhead = max(1.5e9, 0.1 * (weights + kv_cache + state))
    return {
        "predicts": "process",
        "weights_bytes": weights,
        "kv_cache_bytes": kv_cache,
        "state_bytes": state,
        "overhead_bytes": overhead,
        "total_bytes": weights + kv_cache + state + overhead,
    }


def state_bytes(shapes: dict) -> int:
    """The Gated DeltaNet state of one sequence, all of it in float32."""
    if not shapes["n_linear"]:
        return 0
    per_key_head = -(-shapes["linear_value_heads"] * shapes["linear_value_dim"] // shapes["linear_key_heads"])
    matrices = shapes["linear_key_heads"] * shapes["linear_key_dim"] * per_key_head
    return shapes["n_linear"] * (matrices + shapes["conv_width"] * shapes["conv_channels"]) * 4
