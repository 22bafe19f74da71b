"""The model configs that a campaign can build, checked before any process is started for them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError
from vram_ledger.harness.grid import named_file

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "layer_types",
)
LINEAR_FIELDS = (
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
)
LAYER_TYPES = ("full_attention", "linear_attention")


def model_file(folder: Path, name: str) -> Path:
    """The config of a model's name or of a path, complete enough to be built; :class:`InputError` says what is not."""
    path = named_file(folder, name, ".json", "model")
    if not NAME.fullmatch(path.stem):
        raise InputError(f"{path}: a model's name is letters, digits, '.', '_' and '-', got {path.stem!r}")
    check_config(read_json(path), str(path))
    return path


def read_json(path: Path) -> Any:
    """The file's value; :class:`InputError` names the file, and the line of a mistake."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested deeper than any config is") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def check_config(config: Any, where: str) -> None:
    """:class:`InputError` naming every field that is missing or that can't be."""
    text = config.get("text_config") if isinstance(config, dict) else None
    if not isinstance(text, dict):
        raise InputError(f"{where}: field text_config is missing; this is no Qwen3.5 config")
    layers = text.get("layer_types")
    wanted = TEXT_FIELDS + (LINEAR_FIELDS if not isinstance(layers, list) or "linear_attention" in layers else ())
    if missing := [name for name in wanted if name not in text]:
        raise InputError(f"{where}: missing fields: {', '.join(f'text_config.{name}' for name in missing)}")
    for name in wanted:
        value = text[name]
        if name != "layer_types" and (type(value) is not int or value < 1):
            raise InputError(f"{where}: text_config.{name} must be a whole number above 0, got {value!r}")
    _check_layers(layers, text["num_hidden_layers"], where)


def _check_layers(layers: Any, count: int, where: str) -> None:
    if not isinstance(layers, list) or any(layer not in LAYER_TYPES for layer in layers):
        raise InputError(f"{where}: text_config.layer_types must be a list of {' and '.join(LAYER_TYPES)}")
    if len(layers) != count:
        raise InputError(f"{where}: text_config.layer_types has {len(layers)} layers, num_hidden_layers says {count}")


def checkpoint_of(directory: Path, config_file: Path) -> str:
    """What identifies the weights of a checkpoint directory: "checkpoint " and the hash of its file list.

    :class:`InputError` if it is no checkpoint, or one of another model than ``config_file``.
    """
    if not directory.is_dir():
        raise InputError(f"WEIGHTS={directory} is not a directory")
    theirs, ours = read_json(directory / "config.json"), read_json(config_file)
    check_config(theirs, str(directory / "config.json"))
    for name in TEXT_FIELDS + LINEAR_FIELDS:
        have, want = theirs["text_config"].get(name), ours["text_config"].get(name)
        if have != want:
            raise InputError(
                f"{directory} is not {config_file.stem}: text_config.{name} is {have!r} there, {want!r} wanted"
            )
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise InputError(f"{directory} holds no *.safetensors files; other weight formats are not read")
    listing = "".join(f"{f.name} {f.stat().st_size}\n" for f in files)
    return "checkpoint " + hashlib.sha256(listing.encode()).hexdigest()[:12]


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
