"""The command refuses what it can't do with a clear line and the documented exit code, and touches no file."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import CONFIGS, NANO
from tests.invoked import invoke
from vram_ledger.harness.events import EventLog, live_bytes
from vram_ledger.harness.records import decode

NANO_CONFIG = CONFIGS / "models" / f"{NANO}.json"


def answer(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and last line of ``measure`` with these arguments."""
    result = invoke("measure", "--results", str(folder / "results"), *arguments)
    return result.exit_code, result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "a1000"], "no GPU is labelled 'a1000'; near: "),
        (["--gpu", "../../etc"], "no GPU is labelled '../../etc'"),
        (["--fake", "h2000"], "near: h200"),
        (["--fake", "a100"], "FAKE=a100 can be a100-40gb or a100-80gb; say which"),
        (["--gpu", "h200", "--fake", "h200"], "give one of them"),
        (["--model", "qwen3.5-28b"], "no model is called 'qwen3.5-28b'; near: qwen3.5-2"),
        (
            ["--grid", "smok"],
            "no grid is called 'smok'; near: smoke; configs/grids has axes, default, media, smoke",
        ),
        (["--grid", "missing/grid.toml"], "grid file missing/grid.toml does not exist"),
        (["--budget", "-1"], "BUDGET must be seconds"),
        (["--budget", "ten"], "BUDGET must be seconds, 0 or more, got 'ten'"),
        (["--weights", "/nonexistent"], "is not a directory"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, arguments: Sequence[str], said: str) -> None:
    code, last = answer(tmp_path, *arguments)
    assert 2 == code
    assert last.startswith("exit 2: bad input: ")
    assert said in last
    assert not (tmp_path / "results").exists()


def test_bad_grid_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("repeats = 2\nkernels = [fla]\n", encoding="utf-8")
    code, last = answer(tmp_path, "--grid", str(tmp_path / "g.toml"))
    assert (2, True) == (code, "g.toml: Invalid value (at line 2" in last)


def test_bad_model_file_is_refused_with_its_fields(tmp_path: Path) -> None:
    config = json.loads(NANO_CONFIG.read_text(encoding="utf-8"))
    del config["text_config"]["head_dim"]
    (tmp_path / "m.json").write_text(json.dumps(config), encoding="utf-8")
    code, last = answer(tmp_path, "--model", str(tmp_path / "m.json"))
    assert (2, True) == (code, "missing fields: text_config.head_dim" in last)


def test_gpu_asked_for_without_a_card_is_refused(tmp_path: Path, no_card: None) -> None:
    code, last = answer(tmp_path, "--gpu", "h200", "--model", NANO)
    assert 3 == code
    assert "asks for a card, and the driver shows none; without GPU `make measure` emulates one" in last
    assert not (tmp_path / "results").exists()


def test_weights_without_a_card_are_refused(tmp_path: Path, no_card: None) -> None:
    shutil.copy(NANO_CONFIG, tmp_path / "config.json")
    (tmp_path / "model.safetensors").write_bytes(b"")
    code, last = answer(tmp_path, "--fake", "h200", "--weights", str(tmp_path), "--model", NANO)
    assert (3, True) == (code, "WEIGHTS are read on a card only" in last)


def test_campaign_on_the_fake_device_says_so_from_the_first_line_on(tmp_path: Path) -> None:
    grid = tmp_path / "g.toml"
    grid.write_text("repeats = 1\n[[points]]\ncontexts_tokens = [64, 1000]\nbatches = [1, 4]\n", encoding="utf-8")
    arguments = ["--fake", "a100-40gb", "--model", NANO, "--grid", str(grid), "--results", str(tmp_path)]
    result = invoke("measure", *arguments)
    assert 1 == result.exit_code, result.output
    assert "exit 1: unidentifiable — transient (prefill, self_attn, mean: 3 points for" in result.output
    assert result.output.startswith("FAKE DEVICE: no CUDA device is used.")
    assert result.output.count("REPLAYED") == 2
    (path,) = tmp_path.rglob("*.jsonl")
    assert ("fake-a100-40gb", "g") == path.parts[-3:-1]
    assert path.name.startswith(f"{NANO}.fake.")


def test_event_log_of_a_workload_is_written_as_json(tmp_path: Path) -> None:
    out = tmp_path / "log.json"
    arguments = ["--phase", "prefill", "--context", "100", "--model", NANO, "--out", str(out)]
    assert 0 == invoke("log", *arguments).exit_code
    log: EventLog = decode(EventLog, json.loads(out.read_text(encoding="utf-8")))
    assert max(live_bytes(log)) > 7_813_824
