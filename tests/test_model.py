"""Parameters and bytes that follow from a config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from vram_ledger.analysis.formula.config import ConfigError, read_shapes, shapes_from
from vram_ledger.analysis.formula.shapes import (
    Shapes,
    checkpoint_bytes,
    mtp_parameters,
    text_parameters,
    vision_parameters,
    weights_bytes,
)

MODELS = Path(__file__).parents[1] / "configs" / "models"

# Of the published checkpoints: text, MTP and vision parameters, checkpoint bytes.
PUBLISHED = {
    "27b": (26_895_998_464, 424_699_392, 460_730_096, 55_562_872_800),
    "9b": (8_953_803_264, 243_290_624, 456_010_480, 19_306_216_416),
    "4b": (4_205_751_296, 120_599_552, 333_514_240, 9_319_737_856),
    "2b": (1_881_825_088, 60_828_160, 331_416_576, 4_548_144_832),
    "0.8b": (752_393_024, 20_452_864, 100_592_896, 1_746_882_752),
}


def config(**text_changes: Any) -> dict[str, Any]:
    """The 27B config with fields of its text part changed, or removed where the change is ``None``."""
    data: dict[str, Any] = json.loads((MODELS / "qwen3.5-27b.json").read_text())
    data["text_config"].update(text_changes)
    data["text_config"] = {k: v for k, v in data["text_config"].items() if v is not None or k not in text_changes}
    return data


def shapes(size: str) -> Shapes:
    return read_shapes(MODELS / f"qwen3.5-{size}.json")


def message(data: Any) -> str:
    with pytest.raises(ConfigError) as error:
        shapes_from(data, "model.json")
    return str(error.value)


@pytest.mark.parametrize("size", PUBLISHED)
def test_text_parameters_are_the_published_ones(size: str) -> None:
    assert PUBLISHED[size][0] == text_parameters(shapes(size))


@pytest.mark.parametrize("size", PUBLISHED)
def test_mtp_parameters_are_the_published_ones(size: str) -> None:
    assert PUBLISHED[size][1] == mtp_parameters(shapes(size))


@pytest.mark.parametrize("size", PUBLISHED)
def test_vision_parameters_are_the_published_ones(size: str) -> None:
    assert PUBLISHED[size][2] == vision_parameters(shapes(size))


@pytest.mark.parametrize("size", PUBLISHED)
def test_checkpoint_bytes_are_those_of_the_published_checkpoint(size: str) -> None:
    assert PUBLISHED[size][3] == checkpoint_bytes(shapes(size))


def test_the_vision_tower_is_resident_for_conditional_generation_and_mtp_is_not() -> None:
    assert 54_713_457_120 == weights_bytes(shapes("27b"), "Qwen3_5ForConditionalGeneration")


def test_a_causal_lm_has_the_text_weights_only() -> None:
    assert 53_791_996_928 == weights_bytes(shapes("27b"), "Qwen3_5ForCausalLM")


def test_the_27b_has_16_full_and_48_linear_layers() -> None:
    assert (16, 48) == (shapes("27b").n_full, shapes("27b").n_linear)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.json")), ids=lambda p: p.stem)
def test_every_config_in_the_folder_has_weights(path: Path) -> None:
    assert weights_bytes(read_shapes(path), "Qwen3_5ForCausalLM") > 0


def test_layers_follow_from_the_interval_where_no_list_is_given() -> None:
    assert shapes("27b") == shapes_from(config(layer_types=None), "model.json")


def test_a_text_config_by_itself_is_read_without_vision() -> None:
    text = config()["text_config"]
    assert 53_791_996_928 == weights_bytes(shapes_from(text, "text.json"), "Qwen3_5ForConditionalGeneration")


def test_a_config_without_linear_layers_needs_no_linear_fields() -> None:
    linear = [key for key in config()["text_config"] if key.startswith("linear_")]
    found = shapes_from(config(layer_types=["full_attention"] * 64, **dict.fromkeys(linear)), "model.json")
    assert (64, 0, 0) == (found.n_full, found.n_linear, found.conv_channels)


def test_missing_fields_are_named_in_one_message() -> None:
    assert "model.json: missing text_config.hidden_size, text_config.head_dim" == message(
        config(head_dim=None, hidden_size=None)
    )


def test_missing_fields_of_a_bare_text_config_have_no_prefix() -> None:
    text = config(head_dim=None)["text_config"]
    assert "model.json: missing head_dim" == message(text)


def test_an_empty_config_names_everything_that_is_missing() -> None:
    assert (
        "model.json: missing num_hidden_layers; missing layer_types (or full_attention_interval); "
        "missing vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim; "
        "missing tie_word_embeddings"
    ) == message({})


@pytest.mark.parametrize("value", [0, -1, 1.5, "256", True, None])
def test_a_size_that_is_not_a_positive_integer_is_refused(value: Any) -> None:
    data = config()
    data["text_config"]["head_dim"] = value
    assert (
        f"model.json: text_config.head_dim must be a positive integer of at most 10,000,000, got {value!r}"
        == message(data)
    )


def test_an_unknown_kind_of_layer_is_refused() -> None:
    assert "model.json: text_config.layer_types must be a list of 'linear_attention' and 'full_attention'" == message(
        config(layer_types=["sliding_attention"] * 64)
    )


def test_a_list_of_layers_of_the_wrong_length_is_refused() -> None:
    assert "model.json: text_config.layer_types has 3 entries, but text_config.num_hidden_layers is 64" == message(
        config(layer_types=["full_attention"] * 3)
    )


def test_a_section_that_is_not_an_object_is_refused() -> None:
    assert message({**config(), "vision_config": 3}).startswith("model.json: vision_config must be an object, got 3")


def test_a_config_that_is_not_an_object_is_refused() -> None:
    assert "model.json: expected an object, got list" == message([])


def test_malformed_json_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{\n "text_config": {,\n}')
    with pytest.raises(ConfigError, match=r"broken\.json:2: not JSON"):
        read_shapes(path)


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"weights\.json: not a text file"):
        read_shapes(path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not of the Qwen3.5 dense family"),
        ({"num_experts": 512}, "num_experts: a mixture of experts"),
        ({"attn_output_gate": False}, "attn_output_gate is false"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config: quantised weights"),
    ],
)
def test_another_family_is_refused_rather_than_counted_wrong(changed: dict[str, Any], reason: str) -> None:
    assert message(config(**changed)).startswith(f"model.json: {reason}")


def test_layers_in_the_familys_order_are_regular_and_others_are_not() -> None:
    block = ["full_attention", *["linear_attention"] * 3]
    assert shapes_from(config(), "model.json").regular
    assert not shapes_from(config(layer_types=block * 16), "model.json").regular
