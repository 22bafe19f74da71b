"""The commands about derived programs: what they print, and their exit codes."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.invoked import Result, invoke
from tests.test_derived import FOLDER, stored
from vram_ledger.analysis.derivation.derived import Derived, derived_key
from vram_ledger.analysis.derivation.derived_files import DerivedError, derived_path, named_formula, write_derived

PREFILL, DECODE = stored("text", "prefill", "5.24.0").derived, stored("text", "decode", "5.24.0").derived
GROWN = "transformers/models/qwen3_5/modeling_qwen3_5.py:616"  # the decay: 192 bytes a token, alive at the peak


def run(*arguments: object) -> Result:
    return invoke(*arguments)


def older() -> Derived:
    """The prefill as it might have been in an older version: at one line 33,024 bytes a token more."""
    environment = dataclasses.replace(PREFILL.environment, transformers="5.17.0")
    grown = {n for n, origin in enumerate(PREFILL.origins) if origin.source == GROWN and origin.op == "mul"}
    regimes = tuple(
        dataclasses.replace(
            regime,
            requests=tuple(
                tuple(value + 33_024 * (at == 1 + regime.columns.index(("B", "L"))) for at, value in enumerate(request))
                if request[0] in grown and regime.call == "whole" and ("B", "L") in regime.columns
                else request
                for request in regime.requests
            ),
        )
        for regime in PREFILL.regimes
    )
    key = derived_key(environment, PREFILL.configuration, PREFILL.phase, PREFILL.kernels)
    return dataclasses.replace(PREFILL, environment=environment, regimes=regimes, key=key)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older program's file."""
    path = derived_path(tmp_path_factory.mktemp("older"), older())
    write_derived(older(), path)
    return path


def test_explain_names_the_lines_that_made_the_prefill_smaller(before: Path) -> None:
    done = run("explain", before, FOLDER / PREFILL.name)
    assert (0, "exit 0: compared") == (done.exit_code, done.stdout.splitlines()[-1])
    assert done.stdout.startswith("prefill of qwen3.5-27b: transformers 5.17.0 → 5.24.0\n")
    assert "   change: − 33,024·B·L\n           delta-rule scratch: − 33,024·B·L\n" in done.stdout
    assert f"went: 1 × mul (B, L, 48) float32, 33,216·B·L   {GROWN} (delta-rule scratch)" in done.stdout
    assert f"came: 1 × mul (B, L, 48) float32, 192·B·L   {GROWN} (delta-rule scratch)" in done.stdout


def test_change_is_told_as_json(before: Path) -> None:
    lines = json.loads(run("explain", before, FOLDER / PREFILL.name, "--json").stdout)
    assert "   change: − 33,024·B·L" in lines


def test_explain_of_one_program_and_itself_finds_nothing() -> None:
    done = run("explain", FOLDER / PREFILL.name, FOLDER / PREFILL.name)
    assert (0, True) == (done.exit_code, "the same software" in done.stdout)
    assert not {"went:", "came:"} & set(done.stdout.split())


def test_explain_of_two_phases_is_refused(before: Path) -> None:
    result = run("explain", before, FOLDER / DECODE.name)
    assert (2, True) == (result.exit_code, "is a prefill of qwen3.5-27b" in result.stderr)


def test_ledger_prints_the_formula_and_every_group_of_the_peak() -> None:
    text = run("derived", FOLDER / PREFILL.name, "--batch", 2, "--context", 4097).stdout
    assert "| **sum = peak** | | | **53,791,997,184 + 154,927,104·B + 8·L + 209,960·B·L" in text
    assert "**56,026,768,728** |\nexit 0: 56,026,768,728 B at the peak\n" in text


def test_ledger_outside_the_domain_is_refused() -> None:
    result = run("derived", FOLDER / PREFILL.name, "--batch", 4096)
    assert (2, True) == (result.exit_code, "B=4,096, L=4,096 is outside its domain" in result.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--variant", "what"], 2, "bad input: variant 'what' starts with 'what', not with text or default"),
        (["--variant", "text-what"], 2, "bad input: variant 'text-what': 'what' is none of "),
        (["--variant", "text-chunk2048"], 1, "refused: a prefill is derived with its calls in chunks of any size"),
        (["--model", "qwen3.5-28b"], 2, "bad input: no model is named 'qwen3.5-28b'; near: "),
        (["--model", "missing/config.json"], 2, "bad input: missing/config.json: No such file or directory"),
        (["--emulate", "h2000"], 2, "bad input: no GPU is labelled 'h2000'; near: h200, "),
        (["--emulate", "a100"], 2, "bad input: EMULATE=a100 can be a100-40gb or a100-80gb; say which"),
        (["--fake", "h200"], 2, "bad input: No such option: --fake"),
    ],
)
def test_derive_of_bad_input_is_refused_in_one_line(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    result = run("derive", "--variant", "text-logits", *arguments, "--results", tmp_path / "results")
    assert (code, 1) == (result.exit_code, result.stderr.count("\n"))
    assert result.stderr.startswith(f"exit {code}: {said}")
    assert not (tmp_path / "results").exists()


def test_derive_of_a_config_that_is_not_json_is_refused_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "broken.json"
    config.write_text('{"text_config":\n', encoding="utf-8")
    result = run("derive", "--model", config, "--variant", "text-logits", "--results", tmp_path / "results")
    said = f"exit 2: bad input: {config}:2: not JSON (Expecting value at column 1)\n"
    assert (2, said) == (result.exit_code, result.stderr)


@pytest.mark.parametrize("command", ["derived", "explain"])
def test_without_a_formula_those_that_there_are_are_listed_above_the_last_line(command: str) -> None:
    done = run(command)
    *listed, last = done.stderr.splitlines()
    assert 2 == done.exit_code
    assert last.startswith(f"exit 2: bad input: {'FROM' if command == 'explain' else 'FILE'}: is missing")
    assert any(
        line.startswith("qwen3.5-27b text prefill 5.24.0 (transformers; torch 2.14.1+cu130, fla 0.6.0) emulated-h100 ")
        for line in listed
    )


@pytest.mark.parametrize(
    "text",
    [
        "qwen3.5-27b text prefill emulated-a100-80gb",
        "Qwen/Qwen3.5-27B prefill text 5.24.0 2.14.1 emulated-a100-80gb",
        PREFILL.key,
        PREFILL.key[:6],
        PREFILL.name,
        PREFILL.name.removesuffix(".json"),
    ],
)
def test_formula_is_known_by_its_words_a_short_key_or_its_file_s_name(text: str) -> None:
    assert PREFILL == named_formula(text, "FILE")


def test_command_takes_the_words_and_numbers_as_people_write_them() -> None:
    by_path = run("derived", FOLDER / PREFILL.name, "--batch", 2, "--context", 4097).stdout
    by_words = run("derived", PREFILL.key, "--batch", "2", "--context", "4,097").stdout
    assert by_path == by_words != ""


def test_newest_of_several_versions_is_taken(tmp_path: Path) -> None:
    for derived in (PREFILL, older()):
        write_derived(derived, derived_path(tmp_path, derived))
    words = "qwen3.5-27b text prefill"
    assert "5.24.0" == named_formula(words, "FILE", tmp_path).environment.transformers
    assert "5.17.0" == named_formula(f"{words} 5.17.0", "FILE", tmp_path).environment.transformers


def test_words_of_two_cards_are_refused_until_one_is_named(tmp_path: Path) -> None:
    other = dataclasses.replace(PREFILL.environment, gpu_label="emulated-h100")
    for derived in (PREFILL, dataclasses.replace(PREFILL, environment=other)):
        write_derived(derived, derived_path(tmp_path, derived))
    with pytest.raises(DerivedError, match="is several formulas"):
        named_formula("qwen3.5-27b text prefill", "FILE", tmp_path)
    assert other == named_formula("qwen3.5-27b text prefill emulated-h100", "FILE", tmp_path).environment


@pytest.mark.parametrize("text", ["qwen3.5-27b text", "qwen3.5-28b", "prefill", "/nowhere/x.json", "../../etc"])
def test_words_of_several_formulas_or_of_none_are_refused_with_a_list(text: str) -> None:
    done = run("derived", text)
    assert (2, True) == (done.exit_code, len(done.stderr.splitlines()) > 1)
    assert done.stderr.splitlines()[-1].startswith(f"exit 2: bad input: FILE: {text!r} is ")
