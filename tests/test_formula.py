"""The exact terms, the transient and its regimes."""

import dataclasses

import pytest

from tests.synthetic import CONFIGURATION, SHAPES, measured, workload
from vram_ledger.analysis.formula.config import ConfigError
from vram_ledger.analysis.formula.terms import (
    TERMS,
    Regime,
    conv_bytes_per_sequence,
    kv_bytes_per_token,
    phase_regime,
    predict,
    recurrent_bytes_per_sequence,
    regime_of,
    transient_bytes,
    transient_columns,
)
from vram_ledger.harness.records import PeakSite, Phase


def test_the_27b_cache_takes_65536_bytes_a_token() -> None:
    assert 65_536 == kv_bytes_per_token(SHAPES)


def test_the_27b_recurrent_state_takes_144_mib_a_sequence() -> None:
    assert 150_994_944 == recurrent_bytes_per_sequence(SHAPES)


def test_the_27b_convolution_state_takes_4_columns_a_channel() -> None:
    assert 3_932_160 == conv_bytes_per_sequence(SHAPES)


def test_a_prefill_holds_its_tokens_and_the_last_logits() -> None:
    assert {
        "weights": 53_791_996_928,
        "kv_cache": 65_536 * 3 * 1000,
        "recurrent_state": 150_994_944 * 3,
        "conv_state": 3_932_160 * 3,
        "logits": 248_320 * 2 * 3,
        "inputs": 8 * 3 * 1000,
    } == predict(SHAPES, workload("prefill", 3, 1000))


def test_a_decode_step_holds_one_more_token_and_one_input() -> None:
    terms = predict(SHAPES, workload("decode", 3, 1000))
    assert (65_536 * 3 * 1001, 8 * 3) == (terms["kv_cache"], terms["inputs"])


def test_all_logits_of_a_prefill_take_every_position() -> None:
    every = dataclasses.replace(CONFIGURATION, logits="all")
    assert 248_320 * 2 * 3 * 1000 == predict(SHAPES, workload("prefill", 3, 1000, every))["logits"]


def test_all_logits_of_a_decode_step_are_those_of_one_position() -> None:
    every = dataclasses.replace(CONFIGURATION, logits="all")
    assert 248_320 * 2 * 3 == predict(SHAPES, workload("decode", 3, 1000, every))["logits"]


def test_a_static_cache_has_a_counter_a_layer_more_than_a_dynamic_one() -> None:
    static = dataclasses.replace(CONFIGURATION, cache="static")
    dynamic, fixed = predict(SHAPES, workload("decode", 2, 512)), predict(SHAPES, workload("decode", 2, 512, static))
    assert {**dynamic, "kv_cache": dynamic["kv_cache"] + 16 * 8} == fixed


def test_the_whole_window_of_a_static_cache_is_there_before_the_step() -> None:
    static = dataclasses.replace(CONFIGURATION, cache="static")
    w, fixed = workload("decode", 2, 512), workload("decode", 2, 512, static)
    record = measured(w, predict(SHAPES, w))
    assert 65_536 * 2 == transient_bytes(w, record) - transient_bytes(fixed, record)


def test_a_model_without_linear_layers_has_no_state() -> None:
    plain = dataclasses.replace(SHAPES, n_full=64, n_linear=0, linear_value_heads=0, conv_width=0)
    terms = predict(plain, workload("prefill", 2, 512))
    assert (0, 0) == (terms["recurrent_state"], terms["conv_state"])


def test_in_float32_everything_but_state_and_inputs_doubles() -> None:
    single = dataclasses.replace(CONFIGURATION, dtype="float32")
    half, full = predict(SHAPES, workload("prefill", 2, 512)), predict(SHAPES, workload("prefill", 2, 512, single))
    assert {"weights": 2, "kv_cache": 2, "recurrent_state": 1, "conv_state": 2, "logits": 2, "inputs": 1} == {
        name: full[name] // half[name] for name in half
    }


def test_an_unknown_dtype_is_refused() -> None:
    odd = dataclasses.replace(CONFIGURATION, dtype="fp3")
    with pytest.raises(ConfigError, match="dtype 'fp3' is not one of bfloat16, float16, float32"):
        predict(SHAPES, workload("prefill", 1, 64, odd))


@pytest.mark.parametrize("term", TERMS, ids=lambda t: t.name)
def test_each_term_is_its_coefficient_times_its_count(term) -> None:  # type: ignore[no-untyped-def]
    w = workload("decode", 3, 1000)
    assert term.bytes(SHAPES, w) == term.coefficient(SHAPES, w) * term.count(w)


def test_the_transient_is_the_peak_less_what_is_held() -> None:
    w = workload("prefill", 2, 1000)
    # The derived form of the peak (tests/synthetic.py), less 154,927,104·B and 65,536·B·L, which are state and cache.
    expected = (242_976 - 65_536) * 2 * 1000 + 1_572_864 * 2 * 16 + 8 * 1000
    assert expected == transient_bytes(w, measured(w, predict(SHAPES, w)))


def test_the_transient_of_a_decode_step_starts_before_the_new_token() -> None:
    w = workload("decode", 8, 4097)
    expected = (155_499_520 - 154_927_104) * 8 + (67_592 - 65_536) * 8 * 4097
    assert expected == transient_bytes(w, measured(w, predict(SHAPES, w)))


def test_in_the_head_the_logits_are_not_part_of_the_transient() -> None:
    w = workload("prefill", 2, 1000)
    site = PeakSite(stage="lm_head", op="mm", module=None, source=None, largest=())
    elsewhere = measured(w, predict(SHAPES, w))
    in_head = dataclasses.replace(elsewhere, site=site)
    assert 248_320 * 2 * 2 == transient_bytes(w, elsewhere) - transient_bytes(w, in_head)


def test_a_drifted_state_is_not_counted_again_as_a_transient() -> None:
    w = workload("prefill", 2, 1000)
    terms = predict(SHAPES, w)
    halved = {**terms, "recurrent_state": terms["recurrent_state"] // 2}
    assert transient_bytes(w, measured(w, terms)) == transient_bytes(w, measured(w, halved))


def regime(phase: Phase, stage: str) -> Regime:
    return dataclasses.replace(phase_regime(phase), stage=stage)


@pytest.mark.parametrize(
    ("phase", "stage", "padded"),
    [
        ("prefill", "linear_attn", True),
        ("prefill", "self_attn", False),
        ("prefill", "lm_head", False),
        ("decode", "linear_attn", False),
    ],
)
def test_padding_is_a_column_of_the_delta_rule_in_a_prefill_only(phase: Phase, stage: str, padded: bool) -> None:
    assert padded == ("per_padding_token" in transient_columns(CONFIGURATION, regime(phase, stage)))


@pytest.mark.parametrize(("phase", "paired"), [("prefill", True), ("decode", False)])
def test_eager_attention_has_a_column_of_token_pairs_in_a_prefill(phase: Phase, paired: bool) -> None:
    eager = dataclasses.replace(CONFIGURATION, attention="eager")
    assert paired == ("per_pair" in transient_columns(eager, regime(phase, "self_attn")))


def test_a_regime_is_named_by_what_ran_at_the_peak() -> None:
    w = workload("prefill", 2, 1000)
    assert "prefill, linear_attn, empty_like" == regime_of(w, measured(w, predict(SHAPES, w))).label


@pytest.mark.parametrize(("batch", "batches"), [(1, "1"), (2, "2+"), (8, "2+")])
def test_a_decode_of_one_sequence_is_a_regime_of_its_own(batch: int, batches: str) -> None:
    w = workload("decode", batch, 1000)
    assert batches == regime_of(w, measured(w, predict(SHAPES, w))).batches


def test_a_site_without_an_op_is_a_regime_too() -> None:
    w = workload("prefill", 2, 1000)
    site = PeakSite(stage="mlp", op=None, module=None, source=None, largest=())
    assert "prefill, mlp" == regime_of(w, measured(w, predict(SHAPES, w), site=site)).label
