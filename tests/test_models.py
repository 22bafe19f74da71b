"""Model configs are checked before anything is built from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, NANO
from vram_ledger.errors import InputError
from vram_ledger.harness.models import checkpoint_of, model_file

MODELS = CONFIGS / "models"
NANO_CONFIG = MODELS / f"{NANO}.json"


def changed(path: Path, **text_fields: Any) -> Path:
    """The smallest model's config with other text fields; ``None`` takes a field away."""
    config = json.loads(NANO_CONFIG.read_text(encoding="utf-8"))
    for name, value in text_fields.items():
        config["text_config"][name] = value
        if value is None:
            del config["text_config"][name]
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.json")), ids=lambda p: p.stem)
def test_shipped_config_is_complete(path: Path) -> None:
    assert path == model_file(MODELS, path.stem)


@pytest.mark.parametrize("name", ["qwen3.5-27b", "qwen3.5-64l-mini", "qwen3.5-64l-nano"])
def test_scaled_down_models_keep_the_layout(name: str) -> None:
    layers = json.loads((MODELS / f"{name}.json").read_text(encoding="utf-8"))["text_config"]["layer_types"]
    assert ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(64)] == layers


def test_config_without_linear_layers_needs_no_linear_fields(tmp_path: Path) -> None:
    path = changed(tmp_path / "dense.json", layer_types=["full_attention"] * 64, linear_conv_kernel_dim=None)
    assert path == model_file(MODELS, str(path))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"head_dim": None, "vocab_size": None}, "missing fields: text_config.head_dim, text_config.vocab_size"),
        ({"linear_conv_kernel_dim": None}, "missing fields: text_config.linear_conv_kernel_dim"),
        ({"hidden_size": 0}, "text_config.hidden_size must be a whole number above 0, got 0"),
        ({"hidden_size": "64"}, "text_config.hidden_size must be a whole number"),
        ({"num_hidden_layers": 63}, "layer_types has 64 layers, num_hidden_layers says 63"),
        ({"layer_types": ["mamba"] * 64}, "layer_types must be a list of full_attention and linear_attention"),
    ],
)
def test_bad_config_names_the_field(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    path = changed(tmp_path / "m.json", **fields)
    with pytest.raises(InputError, match=said) as caught:
        model_file(MODELS, str(path))
    assert str(path) in str(caught.value)


def test_malformed_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{\n "text_config": {,}\n}', encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        model_file(MODELS, str(path))


def test_unknown_model_lists_near_misses() -> None:
    with pytest.raises(InputError, match=r"no model is called 'qwen3\.5-27x'; near: .*qwen3\.5-27b"):
        model_file(MODELS, "qwen3.5-27x")


def test_checkpoint_of_another_model_is_refused_naming_the_field(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((MODELS / "qwen3.5-4b.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError, match=r"is not qwen3\.5-64l-nano: text_config\.hidden_size is 2560"):
        checkpoint_of(tmp_path, NANO_CONFIG)


def test_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(NANO_CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError, match=r"holds no \*\.safetensors"):
        checkpoint_of(tmp_path, NANO_CONFIG)


def test_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        checkpoint_of(tmp_path / "nowhere", NANO_CONFIG)
