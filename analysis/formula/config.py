"""What a ``config.json`` says: the model's shapes, its dtype and its limit; or what in it can't be."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.analysis.formula.shapes import Shapes, VisionShapes
from vram_ledger.errors import InputError

MODEL_TYPES = ("qwen3_5", "qwen3_5_text")
LINEAR, FULL = "linear_attention", "full_attention"

# Name of each field of Shapes and VisionShapes -> its key in the config.
_TEXT_FIELDS = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "query_heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
_LINEAR_FIELDS = {
    "linear_key_heads": "linear_num_key_heads",
    "linear_value_heads": "linear_num_value_heads",
    "linear_key_dim": "linear_key_head_dim",
    "linear_value_dim": "linear_value_head_dim",
    "conv_width": "linear_conv_kernel_dim",
}
_VISION_FIELDS = {
    "depth": "depth",
    "hidden": "hidden_size",
    "heads": "num_heads",
    "intermediate": "intermediate_size",
    "positions": "num_position_embeddings",
    "out_hidden": "out_hidden_size",
    "channels": "in_channels",
    "patch": "patch_size",
    "temporal_patch": "temporal_patch_size",
    "merge": "spatial_merge_size",
}


DTYPES = ("bfloat16", "float16", "float32")
MOST = 10**7  # of any size in a config: the largest vocabulary is a fraction of it, and products stay below 2**63
MOST_LAYERS, MOST_HEAD_DIM, MOST_STRETCH = 10_000, 4_096, 1_024


class ConfigError(InputError):
    """A config that can't be used; the message starts with the file and names every field that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ``config.json`` says. dtype: of the weights, bfloat16 where it says none.

    most_context_tokens: ``max_position_embeddings``, stretched as its rope scaling says; ``None`` if it says none.
    """

    shapes: Shapes
    dtype: str
    most_context_tokens: int | None


def read_shapes(path: Path) -> Shapes:
    """The shapes in a ``config.json``; see :func:`read_config`."""
    return read_config(path).shapes


def read_config(path: Path) -> Config:
    """A ``config.json``; :class:`ConfigError` names the file and the field, or the line if it is not JSON."""
    return config_from(read_json(path), str(path))


def read_json(path: Path) -> Any:
    """What a config's file has; :class:`ConfigError` names the file, and the line if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: no config: nested too deeply, or a number of too many digits") from error


def config_from(config: Any, where: str) -> Config:
    """The config in what was read; :class:`ConfigError` starts with ``where``."""
    shapes = shapes_from(config, where)
    text = config.get("text_config", config)
    return Config(shapes=shapes, dtype=_dtype(config, text, where), most_context_tokens=_limit(text, where))


def _dtype(config: dict[str, Any], text: dict[str, Any], where: str) -> str:
    """The one dtype that all fields agree on."""
    named = {
        f"{prefix}{key}": section[key]
        for prefix, section in (("", config), ("text_config.", text))
        for key in ("dtype", "torch_dtype")
        if section.get(key) is not None
    }
    for field, value in named.items():
        if str(value).removeprefix("torch.") not in DTYPES:
            raise ConfigError(
                f"{where}: {field} is {value!r}; known are {', '.join(DTYPES)}. Quantised weights are another runtime"
            )
    found = {str(value).removeprefix("torch.") for value in named.values()}
    if len(found) > 1:
        raise ConfigError(
            f"{where}: {' and '.join(f'{k} is {v!r}' for k, v in named.items())}; they contradict each other"
        )
    return found.pop() if found else DTYPES[0]


def _limit(text: dict[str, Any], where: str) -> int | None:
    problems: list[str] = []
    most = _integers(text, "", {"most": "max_position_embeddings"}, problems)["most"]
    if "max_position_embeddings" not in text:
        return None
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    factor = rope.get("factor", 1) if isinstance(rope, dict) else 1
    original = rope.get("original_max_position_embeddings", most) if isinstance(rope, dict) else most
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= MOST_STRETCH:
        raise ConfigError(f"{where}: the rope's factor must be 1 to {MOST_STRETCH:,}, got {_short(factor)}")
    if not _positive(original):
        raise ConfigError(
            f"{where}: original_max_position_embeddings must be a positive integer, got {_short(original)}"
        )
    return max(most, int(original * factor))


def shapes_from(config: dict[str, Any], where: str) -> Shapes:
    """The shapes in a config, nested (``text_config``, ``vision_config``) or a text config by itself.

    :class:`ConfigError` starts with ``where`` and names, dotted, every field that is missing or not a positive
    integer.
    """
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: expected an object, got {type(config).__name__}")
    problems: list[str] = []
    prefix = "text_config." if "text_config" in config else ""
    text = _section(config, "text_config", problems) if prefix else config
    if reason := _of_another_family(config, text):
        raise ConfigError(f"{where}: {reason}")
    n_full, n_linear, regular = _layers(text, prefix, problems)
    numbers = _integers(text, prefix, _TEXT_FIELDS, problems)
    linear = _integers(text, prefix, _LINEAR_FIELDS, problems) if n_linear else dict.fromkeys(_LINEAR_FIELDS, 0)
    tied = _flag(
        config, "", "tie_word_embeddings", _flag(text, prefix, "tie_word_embeddings", None, problems), problems
    )
    if tied is None:
        problems.append(f"missing {prefix}tie_word_embeddings")
    bias = _flag(text, prefix, "attention_bias", False, problems)
    mtp_layers = _mtp_layers(text, prefix, problems)
    _check_heads(numbers | linear, prefix, problems)
    if n_full + n_linear > MOST_LAYERS:
        problems.append(f"{prefix}num_hidden_layers is {n_full + n_linear:,}, more than {MOST_LAYERS:,}")
    vision = _vision(config, problems)
    if vision is not None and numbers["hidden"] and vision.out_hidden not in (0, numbers["hidden"]):
        problems.append(
            f"vision_config.out_hidden_size is {vision.out_hidden}, but {prefix}hidden_size {numbers['hidden']}"
        )
    rotated = _rotated_share(text, prefix, problems)
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}")
    return Shapes(
        n_full=n_full,
        n_linear=n_linear,
        regular=regular,
        rotary_dim=int(numbers["head_dim"] * rotated),
        attention_bias=bool(bias),
        tied_embeddings=bool(tied),
        mtp_layers=mtp_layers,
        vision=vision,
        **numbers,
        **linear,
    )


def _of_another_family(config: dict[str, Any], text: dict[str, Any]) -> str:
    """Why a config is none that the counts here are true of; "" if nothing in it says so."""
    kinds = [c.get("model_type") for c in (config, text)]
    if other := [kind for kind in kinds if kind is not None and kind not in MODEL_TYPES]:
        return f"model_type {other[0]!r} is not of the Qwen3.5 dense family ({', '.join(MODEL_TYPES)})"
    if text.get("num_experts"):
        return "num_experts: a mixture of experts is not of the Qwen3.5 dense family"
    if text.get("attn_output_gate") is False:
        return "attn_output_gate is false: the family's attention has an output gate"
    if any(section.get("quantization_config") is not None for section in (config, text)):
        return "quantization_config: quantised weights are not known here, only those of one dtype"
    return ""


def _section(config: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    section = config[name]
    if isinstance(section, dict):
        return section
    problems.append(f"{name} must be an object, got {section!r}")
    return {}


def _integers(section: dict[str, Any], prefix: str, fields: dict[str, str], problems: list[str]) -> dict[str, int]:
    """Field name -> value, 0 where it is missing or wrong, which is then said in ``problems``."""
    if missing := [f"{prefix}{key}" for key in fields.values() if key not in section]:
        problems.append(f"missing {', '.join(missing)}")
    wrong = [key for key in fields.values() if key in section and not _positive(section[key])]
    problems.extend(
        f"{prefix}{key} must be a positive integer of at most {MOST:,}, got {_short(section[key])}" for key in wrong
    )
    return {name: 0 if key in wrong else section.get(key, 0) for name, key in fields.items()}


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def _check_heads(sizes: dict[str, int], prefix: str, problems: list[str]) -> None:
    """Groups of heads share keys and values, so one count is a multiple of the other."""
    for name in ("head_dim", "linear_key_dim", "linear_value_dim", "conv_width"):
        if sizes[name] > MOST_HEAD_DIM:
            key = (_TEXT_FIELDS | _LINEAR_FIELDS)[name]
            problems.append(f"{prefix}{key} is {sizes[name]:,}, more than {MOST_HEAD_DIM:,}")
    for many, few in (("query_heads", "kv_heads"), ("linear_value_heads", "linear_key_heads")):
        if sizes[many] and sizes[few] and sizes[many] % sizes[few]:
            names = _TEXT_FIELDS | _LINEAR_FIELDS
            problems.append(
                f"{prefix}{names[many]} is {sizes[many]}, not a multiple of {prefix}{names[few]}, {sizes[few]}"
            )


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a number of more than 60 digits"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _flag(section: dict[str, Any], prefix: str, key: str, default: bool | None, problems: list[str]) -> bool | None:
    value = section.get(key, default)
    if value is None or isinstance(value, bool):
        return value
    problems.append(f"{prefix}{key} must be true or false, got {value!r}")
    return default


def _layers(text: dict[str, Any], prefix: str, problems: list[str]) -> tuple[int, int, bool]:
    """Number of full-attention and of linear layers, and whether their order is regular.

    ``full_attention_interval`` serves where no list is given.
    """
    layers = _integers(text, prefix, {"layers": "num_hidden_layers"}, problems)["layers"]
    kinds = text.get("layer_types")
    if kinds is None:
        if "full_attention_interval" not in text:
            problems.append(f"missing {prefix}layer_types (or {prefix}full_attention_interval)")
            return 0, 0, False
        # Qwen3_5TextConfig.__post_init__: layer i is full attention where (i + 1) is a multiple of the interval.
        interval = _integers(text, prefix, {"interval": "full_attention_interval"}, problems)["interval"]
        n_full = layers // interval if interval else layers
        return n_full, layers - n_full, bool(interval) and layers % interval == 0
    if not isinstance(kinds, list) or any(kind not in (LINEAR, FULL) for kind in kinds):
        problems.append(f"{prefix}layer_types must be a list of {LINEAR!r} and {FULL!r}")
        return 0, 0, False
    if layers and len(kinds) != layers:
        problems.append(f"{prefix}layer_types has {len(kinds)} entries, but {prefix}num_hidden_layers is {layers}")
    n_full = kinds.count(FULL)
    interval = len(kinds) // n_full if n_full else 0
    regular = bool(interval) and all((kind == FULL) == ((i + 1) % interval == 0) for i, kind in enumerate(kinds))
    return n_full, kinds.count(LINEAR), regular


def _mtp_layers(text: dict[str, Any], prefix: str, problems: list[str]) -> int:
    key = "mtp_num_hidden_layers"
    return _integers(text, prefix, {"layers": key}, problems)["layers"] if text.get(key) else 0


def _rotated_share(text: dict[str, Any], prefix: str, problems: list[str]) -> float:
    """Share of each head that is rotated (``Qwen3_5TextRotaryEmbedding``); the family's default is a quarter."""
    rope = text.get("rope_parameters")
    share = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    share = text.get("partial_rotary_factor", 0.25) if share is None else share
    if isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1:
        return share
    problems.append(f"{prefix}partial_rotary_factor must be above 0 and at most 1, got {share!r}")
    return 0.0


def _vision(config: dict[str, Any], problems: list[str]) -> VisionShapes | None:
    if config.get("vision_config") is None:
        return None
    section = _section(config, "vision_config", problems)
    return VisionShapes(**_integers(section, "vision_config.", _VISION_FIELDS, problems))
