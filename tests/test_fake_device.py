"""The fake device tells, to the byte, what the published facts and real tensors tell."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import BIG, NANO, ROOT, Ask
from vram_ledger.analysis.derivation.derive import without
from vram_ledger.harness.devices.inside import INSIDE
from vram_ledger.harness.events import EventLog, live_bytes, signed_sizes
from vram_ledger.harness.records import Measured

TRANSFORMERS = importlib.metadata.version("transformers")
STATE_BYTES, KV_BYTES_PER_TOKEN, LOGITS_BYTES = 154_927_104, 65_536, 248_320 * 2
# Bytes per prompt token of a 27B prefill that no chunk padding touches, and the published slope of the peak.
# 5.24.0 has the program of 5.23.0, for which the slope was published.
PER_TOKEN = {"5.17.0": 242_976, "5.23.0": 209_952, "5.24.0": 209_952}
PUBLISHED_SLOPE = {"5.17.0": 267_568, "5.23.0": 234_548, "5.24.0": 234_548}
CHUNK_STATE_BYTES = 1_572_864  # 48 heads · 128 · 128 · 2 B, kept for every 64 tokens

known_version = pytest.mark.skipif(
    TRANSFORMERS not in PER_TOKEN, reason=f"no published figures for transformers {TRANSFORMERS}"
)
POINTS = [(1, 128), (1, 1000), (2, 4096), (3, 33_333), (8, 131_072), (1, 262_144), (32, 512)]


def test_default_class_of_the_27b_holds_its_vision_tower(ask: Ask) -> None:
    assert 54_713_457_120 == ask(model=BIG).measure("decode", 1, 512).weights_bytes


def test_text_only_class_of_the_27b_does_not(ask: Ask) -> None:
    text_only = ask(model=BIG, model_class="Qwen3_5ForCausalLM")
    assert 53_791_996_928 == text_only.measure("decode", 1, 512).weights_bytes


@pytest.mark.parametrize(("batch", "context"), POINTS)
def test_prefill_of_the_27b_holds_state_cache_inputs_and_outputs_to_the_byte(
    ask: Ask, batch: int, context: int
) -> None:
    m = ask(model=BIG).measure("prefill", batch, context)
    inputs_and_outputs = 8 * batch * context + LOGITS_BYTES * batch
    assert batch * (STATE_BYTES + KV_BYTES_PER_TOKEN * context) + inputs_and_outputs == m.held_bytes - m.baseline_bytes
    assert m.held.total_bytes == m.held_bytes - m.baseline_bytes


@pytest.mark.parametrize(("batch", "context"), POINTS)
def test_decode_of_the_27b_holds_one_more_token(ask: Ask, batch: int, context: int) -> None:
    m = ask(model=BIG).measure("decode", batch, context)
    expected = batch * (STATE_BYTES + KV_BYTES_PER_TOKEN * (context + 1) + 8 + LOGITS_BYTES)
    assert expected == m.held_bytes - m.baseline_bytes


@known_version
@pytest.mark.parametrize("model_class", ["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"])
@pytest.mark.parametrize(("batch", "context"), POINTS)
def test_prefill_peak_of_the_27b_is_the_known_form(ask: Ask, model_class: str, batch: int, context: int) -> None:
    m = ask(model=BIG, model_class=model_class).measure("prefill", batch, context)
    form = batch * (STATE_BYTES + PER_TOKEN[TRANSFORMERS] * context + CHUNK_STATE_BYTES * -(-context // 64))
    assert form + 8 * context == m.warm.requested_bytes - m.baseline_bytes - m.held.inputs_bytes


@known_version
def test_published_prefill_slope_of_the_27b_is_reproduced(ask: Ask) -> None:
    worker = ask(model=BIG, model_class="Qwen3_5ForCausalLM")
    points = [(b, c) for b in (1, 4) for c in (1024, 8192, 65_536)]
    peaks = [worker.measure("prefill", b, c).warm.requested_bytes for b, c in points]
    slope = np.linalg.lstsq(np.array([(1, b, b * c) for b, c in points]), np.array(peaks))[0][2]
    assert PUBLISHED_SLOPE[TRANSFORMERS] == pytest.approx(slope, rel=1e-4)


def test_peak_names_its_op_line_and_largest_tensors(ask: Ask) -> None:
    site = ask(model=BIG).measure("prefill", 1, 4096).site
    assert ("linear_attn", "empty_like") == (site.stage, site.op)
    assert (site.source or "").startswith("fla/ops/common/chunk_o.py:")
    assert (64 * CHUNK_STATE_BYTES, (1, 64, 48, 128, 128)) == (site.largest[0].bytes, site.largest[0].shape)


def test_second_replay_in_a_process_is_the_first(ask: Ask) -> None:
    worker = ask(model=NANO)
    assert signed_sizes(worker.log("prefill", 2, 300)) == signed_sizes(worker.log("prefill", 2, 300))


def from_start(log: EventLog) -> tuple[int, tuple[int, ...]]:
    """What is alive when the forward pass begins, and the sizes of its events."""
    start, end = log.marks["start"], log.marks["end"]
    return live_bytes(log)[start - 1], signed_sizes(log)[start:end]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize(("batch", "context"), [(1, 64), (2, 1000)])
def test_decode_from_a_written_cache_is_the_decode_after_a_prefill(
    ask: Ask, cache: str, batch: int, context: int
) -> None:
    worker = ask(model=BIG)
    written = worker.log("decode", batch, context, filled=True, cache=cache)
    prefilled = worker.log("decode", batch, context, filled=False, cache=cache)
    assert from_start(prefilled) == from_start(written)


@pytest.mark.parametrize(("phase", "batch", "context"), [("prefill", 2, 130), ("prefill", 1, 64), ("decode", 2, 130)])
def test_real_cpu_tensors_give_the_same_event_log(ask: Ask, phase: str, batch: int, context: int) -> None:
    build = {"model": NANO, "kernels": "torch", "attention": "eager"}
    real = ask(device="cpu", **build).log(phase, batch, context)
    fake = ask(device="fake", **build).log(phase, batch, context)
    assert signed_sizes(real) == signed_sizes(without(fake, (f"{INSIDE}convolution",)))


def test_fake_tensor_mode_gives_the_same_event_log() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.fake_tensor_mode"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (0, "same\n") == (done.returncode, done.stdout), done.stderr[-2000:]


@pytest.mark.parametrize("gpu", ["a100-80gb", "b200"])
def test_peak_of_a_single_shot_does_not_depend_on_the_card_that_is_answered_for(ask: Ask, gpu: str) -> None:
    h200, other = (ask(model=BIG, gpu=g).measure("prefill", 2, 1000) for g in ("h200", gpu))
    assert h200.warm == other.warm


def test_card_s_questions_are_answered_from_its_section() -> None:
    program = (
        "import torch\n"
        "from pathlib import Path\n"
        "from vram_ledger.harness.devices.fake import answer_as\n"
        "from vram_ledger.harness.gpus import labelled, read_gpus\n"
        "answer_as(labelled(read_gpus(Path('configs/gpus.toml')), 'h100')[0])\n"
        "p = torch.cuda.get_device_properties(0)\n"
        "print(p.total_memory, p.multi_processor_count, p.L2_cache_size, p.max_threads_per_multi_processor)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "84942979072 132 52428800 2048\n" == done.stdout, done.stderr[-2000:]


def test_fla_kernels_are_seen_to_run(ask: Ask) -> None:
    worker = ask(model=NANO)
    prefill, decode = (worker.measure(phase, 1, 200).kernels for phase in ("prefill", "decode"))
    assert "fla.ops.gated_delta_rule.chunk.chunk_gated_delta_rule_fwd" == prefill.delta_rule
    assert "fla.ops.gated_delta_rule.fused_recurrent.fused_recurrent_gated_delta_rule_fwd" == decode.delta_rule
    assert "aten::_scaled_dot_product_cudnn_attention" == prefill.attention


def test_reference_path_is_seen_to_run(ask: Ask) -> None:
    kernels = ask(model=NANO, kernels="torch", attention="eager").measure("prefill", 1, 130).kernels
    assert (kernels.delta_rule or "").startswith("torch reference: ")
    assert (kernels.convolution or "").startswith("torch reference: ")
    assert (kernels.attention or "").endswith(".eager_attention_forward")


def test_fla_that_fails_on_import_shows_as_the_reference_path(ask: Ask) -> None:
    worker = ask(model=NANO, module="tests.workers.broken_fla")
    assert "import fails" in worker.child.ask({"do": "describe"}, 60)["fla"]
    assert (worker.measure("prefill", 1, 130).kernels.delta_rule or "").startswith("torch reference: ")


def test_masked_attention_of_a_chunked_prefill_takes_the_memory_efficient_kernel(ask: Ask) -> None:
    m = ask(model=NANO, gpu="a100-80gb").measure("prefill", 1, 300, prefill_chunk_tokens=128)
    assert "aten::_scaled_dot_product_efficient_attention" == m.kernels.attention


def test_full_logits_are_held_and_reach_the_peak(ask: Ask) -> None:
    m: Measured = ask(model=BIG).measure("prefill", 2, 4096, logits="all")
    assert 2 * 4096 * LOGITS_BYTES == m.held.logits_bytes
    assert "lm_head" == m.site.stage


def test_static_cache_has_the_dynamic_one_s_bytes_and_a_counter_a_layer(ask: Ask) -> None:
    worker = ask(model=BIG)
    dynamic, static = (worker.measure("prefill", 2, 1000, cache=c).held.kv_cache_bytes for c in ("dynamic", "static"))
    assert 16 * 8 == static - dynamic


def test_model_is_built_in_the_dtype_that_is_asked_for_whatever_its_config_says(ask: Ask) -> None:
    log = ask(model=NANO, dtype="float16").log("decode", 1, 100)
    dtypes = {a.dtype for a in log.allocations if a.op == "resident" and a.bytes > 1000}
    assert {"float16"} == dtypes
    assert "bfloat16" not in {a.dtype for a in log.allocations}
