"""Which part of the ledger a tensor belongs to, told from what made it."""

import re

from vram_ledger.harness.events import Allocation, stage_of

WEIGHTS, INPUTS, LOGITS, RESIDUAL = "weights", "inputs", "logits", "residual stream"
KV_CACHE, RECURRENT, CONVOLUTION = "kv_cache", "recurrent_state", "conv_state"
ATTENTION, DELTA_RULE, MLP, OTHER = "attention", "delta-rule scratch", "MLP", "other"
GROUPS = (
    WEIGHTS, INPUTS, KV_CACHE, RECURRENT, CONVOLUTION, RESIDUAL, ATTENTION, DELTA_RULE, MLP, LOGITS, OTHER
)  # fmt: skip

CACHE_SOURCE = "transformers/cache_utils.py:"
HARNESS_SOURCE = "harness/runtimes/"
STAGES = {
    "self_attn": ATTENTION,
    "rotary_emb": ATTENTION,  # cosines and sines, which only attention reads
    "linear_attn": DELTA_RULE,
    "mlp": MLP,
    "lm_head": LOGITS,
    "layer": RESIDUAL,
    "input_layernorm": RESIDUAL,
    "post_attention_layernorm": RESIDUAL,
    "norm": RESIDUAL,
    "embed_tokens": RESIDUAL,
}


def group_of(a: Allocation) -> str:
    """The ledger's group of a tensor: the cache by the line that keeps it, all else by the module that ran."""
    if a.op == "resident":
        return WEIGHTS
    if a.source.startswith(CACHE_SOURCE):
        return _cached(a)
    stage = stage_of(a.module)
    if stage in STAGES:
        return STAGES[stage]
    if "masking_utils" in a.source:
        return ATTENTION
    # Token ids are made by the harness; positions by the model itself, before the first layer.
    before_layers = a.source.startswith(HARNESS_SOURCE) or ".layers." not in a.module
    return INPUTS if a.dtype.startswith("int") and before_layers else OTHER


def _cached(a: Allocation) -> str:
    """Keys, values and counters, a linear layer's matrix a head, or its last columns before the convolution."""
    if len(a.shape) == 3:
        return CONVOLUTION
    linear = stage_of(a.module) == "linear_attn" or a.op == "zeros_like"
    return RECURRENT if linear and len(a.shape) == 4 else KV_CACHE


def any_layer(module: str) -> str:
    """The module's path with "*" for the number of the layer."""
    return re.sub(r"(?<=layers\.)\d+", "*", module)
