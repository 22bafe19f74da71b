"""The commands about derived formulas: what they print, and their exit codes."""

import json
from pathlib import Path

import pytest

from tests.invoked import Result, invoke
from tests.test_derived import FOLDER, stored


def run(*arguments: object) -> Result:
    return invoke(*arguments)


def file(phase: str, transformers: str) -> Path:
    return FOLDER / stored("text", phase, transformers).name


def test_explain_names_the_lines_that_made_the_prefill_smaller() -> None:
    text = run("explain", file("prefill", "5.17.0"), file("prefill", "5.23.0")).stdout
    assert "change: − 33,024·B·L" in text
    assert "transformers/models/qwen3_5/modeling_qwen3_5.py:621 (delta-rule scratch)" in text


def test_explain_of_two_phases_is_refused() -> None:
    result = run("explain", file("prefill", "5.17.0"), file("decode", "5.17.0"))
    assert (2, True) == (result.exit_code, "is a prefill of qwen3.5-27b" in result.stderr)


def test_ledger_prints_the_formula_and_every_group_of_the_peak() -> None:
    text = run("derived", file("prefill", "5.23.0"), "--batch", 2, "--context", 4097).stdout
    peak = stored("text", "prefill", "5.23.0").peak_bytes(2, 4097)
    assert "| **sum = peak** | | | **53,791,997,184 + 154,927,104·B + 8·L + 209,960·B·L" in text
    assert f"**{peak:,}** |" in text


def test_ledger_outside_the_domain_is_refused() -> None:
    result = run("derived", file("prefill", "5.23.0"), "--batch", 4096)
    assert (2, True) == (result.exit_code, "is outside its domain" in result.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "what"], "variant 'what' starts with 'what', not with text or default"),
        (["--variant", "text-what"], "variant 'text-what': 'what' is none of "),
        (["--model", "qwen3.5-28b"], "no model is called 'qwen3.5-28b'; near: "),
        (["--model", "missing/config.json"], "model file missing/config.json does not exist"),
        (["--fake", "h2000"], "no GPU is labelled 'h2000'; near: h200, "),
        (["--fake", "a100"], "FAKE=a100 can be a100-40gb or a100-80gb; say which"),
    ],
)
def test_derive_of_bad_input_is_refused_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run("derive", "--variant", "text-logits", *arguments, "--results", tmp_path / "results")
    assert (2, 1) == (result.exit_code, result.stderr.count("\n"))
    assert result.stderr.startswith(f"exit 2: bad input: {said}")
    assert not (tmp_path / "results").exists()


def test_derive_of_a_config_that_is_not_json_is_refused_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "broken.json"
    config.write_text('{"text_config":\n', encoding="utf-8")
    result = run("derive", "--model", config, "--variant", "text-logits", "--results", tmp_path / "results")
    assert (2, f"exit 2: bad input: {config}: line 2: Expecting value\n") == (result.exit_code, result.stderr)


def test_derive_of_the_torch_reference_is_refused_as_replay_only(tmp_path: Path) -> None:
    result = run("derive", "--model", "qwen3.5-64l-nano", "--variant", "text-reference", "--results", tmp_path)
    assert (1, True) == (result.exit_code, "replay only" in result.stderr)


@pytest.mark.parametrize("command", ["derived", "explain", "verify"])
def test_without_a_formula_those_that_there_are_are_listed_above_the_last_line(command: str) -> None:
    done = run(command)
    *listed, last = done.stderr.splitlines()
    assert 2 == done.exit_code
    assert last.startswith(f"exit 2: bad input: {'FROM' if command == 'explain' else 'FILE'}: is missing")
    assert any(line.startswith("qwen3.5-27b text prefill 5.23.0 (transformers; torch ") for line in listed)


def test_formula_is_known_by_its_words() -> None:
    by_path = run("derived", file("prefill", "5.23.0"), "--batch", 2, "--context", 4097).stdout
    by_words = run("derived", "qwen3.5-27b text prefill 5.23.0", "--batch", "2", "--context", "4,097").stdout
    assert by_path == by_words


def test_newest_of_several_versions_is_taken() -> None:
    found = json.loads(run("derived", "qwen3.5-27b text prefill", "--json").stdout)
    assert "5.24.0" == found["formula"]["environment"]["transformers"]


@pytest.mark.parametrize("text", ["qwen3.5-27b text", "qwen3.5-28b", "prefill", "/nowhere/x.json", "../../etc"])
def test_words_of_several_formulas_or_of_none_are_refused_with_a_list(text: str) -> None:
    done = run("derived", text)
    assert (2, True) == (done.exit_code, len(done.stderr.splitlines()) > 1)
    assert done.stderr.splitlines()[-1].startswith(f"exit 2: bad input: FILE: {text!r} is ")


def test_change_is_told_as_json() -> None:
    lines = json.loads(run("explain", file("prefill", "5.17.0"), file("prefill", "5.23.0"), "--json").stdout)
    assert any("change: − 33,024·B·L" in line for line in lines)


@pytest.mark.parametrize(
    "option", ["--shapes=0", "--shapes=-1", "--seed=-1", "--most-context=0", "--most-batch=0", "--least-context=300000"]
)
def test_verify_of_shapes_that_are_none_is_refused(option: str) -> None:
    done = run("verify", "qwen3.5-27b text prefill 5.23.0", option)
    assert (2, 1) == (done.exit_code, done.stderr.count("\n"))


@pytest.mark.parametrize(
    "text",
    ["a156d8", "Qwen/Qwen3.5-27B prefill text 5.23.0", "qwen3.5-27b.text.prefill.9ef067287372", "9ef067287372"],
)
def test_formula_is_known_by_a_short_key_or_its_file_s_name(text: str) -> None:
    assert 0 == run("derived", text).exit_code
