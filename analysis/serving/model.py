"""What a server has to know of a model: its layers' sizes, and how many parameters there are to load.

The Qwen3.5 family by its shapes, dense or with experts, and plain full-attention models of which nothing but the cache
and the weights count. Anything with a cache of another form (windows, latent attention) is refused rather than guessed.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.analysis.formula.config import MODEL_TYPES, MOST, Config, ConfigError, config_from, read_json
from vram_ledger.analysis.formula.shapes import (
    Shapes,
    mtp_parameters,
    text_parameters,
    vision_parameters,
)
from vram_ledger.analysis.formula.terms import ELEMENT_BYTES

MROPE_STRETCH = 4  # vllm/model_executor/layers/rotary_embedding/mrope.py: cache_max_position_num
# Models of query, key, value and output projections, a gated feed-forward and two norms a layer, as transformers 5.24
# has them (models/<type>/modeling_<type>.py): whether the first three have biases, and whether heads are normed.
PLAIN_TYPES = {"llama": (False, False), "mistral": (False, False), "qwen2": (True, False), "qwen3": (False, True)}
# The family with experts: the same layers but for their feed-forward. Model type -> the dense one's.
EXPERT_TYPES = {"qwen3_5_moe": "qwen3_5", "qwen3_5_moe_text": "qwen3_5_text"}
OTHER_CACHES = {
    "kv_lora_rank": "latent attention",
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "layer_types": "layers of several kinds",
    "sliding_window": "a sliding window",
}
PLAIN_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as a server sees it; counts of elements, for one layer where they are a layer's.

    state_elements: of one sequence's recurrent matrices. rotary_rows: of the table of cosines and sines. parameters: of
    the text model; the vision tower and the MTP part beside it. quantised: what the config says of quantised weights,
    whose bytes only the checkpoint itself has. shapes: of the family; ``None`` for another model.
    """

    name: str
    vocabulary: int
    hidden: int
    tied_embeddings: bool
    n_full: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    rotary_rows: int
    n_linear: int
    state_elements: int
    conv_channels: int
    conv_width: int
    parameters: int
    vision_parameters: int
    mtp_layers: int
    mtp_parameters: int
    element_bytes: int
    most_context_tokens: int | None
    quantised: str = ""
    shapes: Shapes | None = None


def read_served(path: Path, name: str) -> Served:
    """The model of a ``config.json``; :class:`ConfigError` names the field that can't be served."""
    data = read_json(path)
    where = str(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object, got {type(data).__name__}")
    quantised = _without_quantisation(data)
    text = data.get("text_config", data)
    kind = text.get("model_type") if isinstance(text, dict) else None
    for section in (data, text):
        if isinstance(section, dict) and not isinstance(section.get("model_type"), str | None):
            raise ConfigError(f"{where}: model_type must be text, got {section['model_type']!r}")
    if kind is None or kind in MODEL_TYPES:
        served = of_shapes(name, config_from(data, where))
    elif kind in EXPERT_TYPES:
        served = _with_experts(data, text, name, where)
    elif kind in PLAIN_TYPES and text is data:
        served = _plain(data, name, where)
    else:
        raise ConfigError(
            f"{where}: model_type {kind!r} has a cache that is not known here; known are the Qwen3.5 family and "
            f"{', '.join(PLAIN_TYPES)}"
        )
    return dataclasses.replace(served, quantised=quantised)


def _without_quantisation(config: dict[str, Any]) -> str:
    """Takes the quantisation out of a config, and gives its method: the layers' sizes are the same without it."""
    methods = []
    for section in (config, config.get("text_config")):
        if isinstance(section, dict) and (found := section.pop("quantization_config", None)) is not None:
            methods.append(str(found.get("quant_method", "unnamed")) if isinstance(found, dict) else "unnamed")
    return methods[0] if methods else ""


def of_shapes(name: str, config: Config) -> Served:
    """A model of the Qwen3.5 dense family."""
    shapes, most = config.shapes, config.most_context_tokens
    matrices = shapes.linear_value_heads * shapes.linear_value_dim * shapes.linear_key_dim
    return Served(
        name=name,
        vocabulary=shapes.vocabulary,
        hidden=shapes.hidden,
        tied_embeddings=shapes.tied_embeddings,
        n_full=shapes.n_full,
        kv_heads=shapes.kv_heads,
        head_dim=shapes.head_dim,
        rotary_dim=shapes.rotary_dim,
        rotary_rows=MROPE_STRETCH * (most or 0),
        n_linear=shapes.n_linear,
        state_elements=matrices,
        conv_channels=shapes.conv_channels,
        conv_width=shapes.conv_width,
        parameters=text_parameters(shapes),
        vision_parameters=vision_parameters(shapes),
        mtp_layers=shapes.mtp_layers,
        mtp_parameters=mtp_parameters(shapes),
        element_bytes=ELEMENT_BYTES[config.dtype],
        most_context_tokens=most,
        shapes=shapes,
    )


def _with_experts(config: dict[str, Any], text: dict[str, Any], name: str, where: str) -> Served:
    """A model of the family with experts: the dense one of its shared expert, and the others and their router beside.

    Tensors: transformers 5.24.0, ``models/qwen3_5_moe/modeling_qwen3_5_moe.py``, ``Qwen3_5MoeSparseMoeBlock``.
    """
    experts, inner, shared, hidden = (
        _positive(text, field, where)
        for field in ("num_experts", "moe_intermediate_size", "shared_expert_intermediate_size", "hidden_size")
    )
    dense = {**text, "intermediate_size": shared, "model_type": EXPERT_TYPES[text["model_type"]]}
    del dense["num_experts"]
    kind = EXPERT_TYPES.get(config.get("model_type", ""), "qwen3_5")
    whole = dense if text is config else {**config, "model_type": kind, "text_config": dense}
    served = of_shapes(name, config_from(whole, where))
    more = experts * (3 * hidden * inner + hidden) + hidden
    return dataclasses.replace(
        served,
        parameters=served.parameters + (served.n_full + served.n_linear) * more,
        mtp_parameters=served.mtp_parameters + served.mtp_layers * more,
        shapes=None,
    )


def of_shapes_alone(shapes: Shapes) -> Served:
    """The layers of the family's shapes, for who asks of blocks and states alone."""
    return of_shapes("", Config(shapes=shapes, dtype="bfloat16", most_context_tokens=None))


def _plain(config: dict[str, Any], name: str, where: str) -> Served:
    """A model that has full attention in every layer and nothing else to keep."""
    for field, what in OTHER_CACHES.items():
        kinds = config.get(field)
        full = field == "layer_types" and isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
        unused = field == "sliding_window" and config.get("use_sliding_window") is False
        if kinds and not full and not unused:
            raise ConfigError(f"{where}: {field}: {what} has a cache that is not known here")
    vocabulary, hidden, inner, layers, heads = (_positive(config, field, where) for field in PLAIN_FIELDS)
    kv_heads = _positive(config, "num_key_value_heads", where, heads)
    head_dim = _positive(config, "head_dim", where, max(1, hidden // heads))
    bias, normed = PLAIN_TYPES[config["model_type"]]
    tied = config.get("tie_word_embeddings", False) is True
    query, kv = heads * head_dim, kv_heads * head_dim
    attention = 2 * hidden * query + 2 * hidden * kv + (query + 2 * kv if bias else 0) + (2 * head_dim if normed else 0)
    layer = attention + 3 * hidden * inner + 2 * hidden
    dtype = str(config.get("dtype", config.get("torch_dtype")) or "bfloat16").removeprefix("torch.")
    if dtype not in ELEMENT_BYTES:
        raise ConfigError(f"{where}: dtype {dtype!r} is none of {', '.join(ELEMENT_BYTES)}")
    most = _positive(config, "max_position_embeddings", where, 0) or None
    return Served(
        name=name,
        vocabulary=vocabulary,
        hidden=hidden,
        tied_embeddings=tied,
        n_full=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        rotary_rows=most or 0,
        n_linear=0,
        state_elements=0,
        conv_channels=0,
        conv_width=1,
        parameters=vocabulary * hidden * (1 if tied else 2) + layers * layer + hidden,
        vision_parameters=0,
        mtp_layers=0,
        mtp_parameters=0,
        element_bytes=ELEMENT_BYTES[dtype],
        most_context_tokens=most,
    )


def _positive(config: dict[str, Any], field: str, where: str, default: int | None = None) -> int:
    value = config.get(field)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not (0 < value <= MOST or value == default):
        raise ConfigError(f"{where}: {field} must be a positive integer of at most {MOST:,}, got {value!r}")
    return value
