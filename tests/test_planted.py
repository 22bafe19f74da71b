"""Planted drift is measured on the fake device and found under its own name; an unchanged run flags nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, NANO
from tests.test_records import ENVIRONMENT
from vram_ledger.analysis.evidence.verdict import Verdict, exit_code
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.judging.drift import judge
from vram_ledger.harness.child import Child
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.grid import read_grid
from vram_ledger.harness.lines import read
from vram_ledger.harness.results import open_results
from vram_ledger.harness.runner import Campaign, Plan

SHIPPED = CONFIGS / "models" / f"{NANO}.json"
GRID = "repeats = 0\n{axes}[[points]]\ncontexts_tokens = [128, 1024]\nbatches = [1, 4]\n"
Change = Callable[[dict[str, Any]], None]
REPLAYED = dataclasses.replace(
    ENVIRONMENT, device="fake", gpu_label="fake-h200", gpu_uuid=None, gpu_total_bytes=None, driver=None
)


def nothing(config: dict[str, Any]) -> None:
    """The shipped model."""


def conv_width_3(config: dict[str, Any]) -> None:
    """A convolution one tap narrower."""
    config["text_config"]["linear_conv_kernel_dim"] = 3


def two_kv_heads(config: dict[str, Any]) -> None:
    """2 KV heads instead of 4."""
    config["text_config"]["num_key_value_heads"] = 2


def seventeen_full_layers(config: dict[str, Any]) -> None:
    """One more full-attention layer, in place of a linear one."""
    config["text_config"]["layer_types"][0] = "full_attention"


def campaign(
    folder: Path, change: Change, axes: str = "", module: str = "vram_ledger.harness.worker"
) -> tuple[Verdict, ...]:
    """The verdicts of a measured change, judged against the shipped config."""
    config = json.loads(SHIPPED.read_text(encoding="utf-8"))
    change(config)
    (folder / f"{NANO}.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "g.toml").write_text(GRID.format(axes=axes), encoding="utf-8")
    plan = Plan(
        grid=read_grid(folder / "g.toml", NANO),
        config_file=folder / f"{NANO}.json",
        device="fake",
        answer_as=labelled(read_gpus(CONFIGS / "gpus.toml"), "h200")[0],
        weights=None,
        budget_s=0,
    )
    with open_results(folder / "r.jsonl", REPLAYED) as writer:
        summary = Campaign(plan, writer, lambda left, name: None, lambda order: Child.alone(order, module)).run()
    assert not summary.failed
    return judge(read(folder / "r.jsonl"), read_shapes(SHIPPED))


def drifted(verdicts: tuple[Verdict, ...]) -> dict[str, str]:
    """The drifted exact terms and the cause that is given for each."""
    return {v.term: v.cause for v in verdicts if v.decision == "DRIFT" and not v.term.startswith("held")}


def test_unchanged_run_flags_nothing(tmp_path: Path) -> None:
    verdicts = campaign(tmp_path, nothing)
    assert ([], 0) == ([v for v in verdicts if not v.passes], exit_code(verdicts))


@pytest.mark.parametrize(
    ("change", "axes", "module", "terms", "named"),
    [
        (nothing, "", "tests.workers.bf16_state", {"recurrent_state"}, "bf16"),
        (conv_width_3, "", "vram_ledger.harness.worker", {"weights", "conv_state"}, "3"),
        (two_kv_heads, "", "vram_ledger.harness.worker", {"weights", "kv_cache"}, "2 KV heads instead of 4"),
        (
            seventeen_full_layers,
            "",
            "vram_ledger.harness.worker",
            {"weights", "kv_cache", "recurrent_state", "conv_state"},
            "17 full-attention layers instead of 16",
        ),
    ],
    ids=["state in bf16", "conv width 3", "2 KV heads", "17 full layers"],
)
def test_planted_change_is_found_in_its_terms(
    tmp_path: Path, change: Change, axes: str, module: str, terms: set[str], named: str
) -> None:
    verdicts = campaign(tmp_path, change, axes, module)
    found = drifted(verdicts)
    assert terms == set(found)
    assert all(named in cause for cause in found.values()), found
    assert 1 == exit_code(verdicts)


def as_default(folder: Path) -> tuple[Verdict, ...]:
    """The verdicts of the file with its configurations called by the default's name."""
    text = (folder / "r.jsonl").read_text(encoding="utf-8")
    text = text.replace("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration").replace(
        '"logits":"all"', '"logits":"last"'
    )
    (folder / "r.jsonl").write_text(text, encoding="utf-8")
    return judge(read(folder / "r.jsonl"), read_shapes(SHIPPED))


@pytest.mark.parametrize(
    ("axes", "term", "named"),
    [
        ('model_class = ["Qwen3_5ForCausalLM"]\n', "weights", "vision"),
        ('logits = ["all"]\n', "logits", "logits"),
    ],
    ids=["vision tower missing", "full logits kept"],
)
def test_planted_axis_is_found_in_its_term(tmp_path: Path, axes: str, term: str, named: str) -> None:
    campaign(tmp_path, nothing, axes)
    found = drifted(as_default(tmp_path))
    assert {term} == set(found)
    assert named in found[term]
