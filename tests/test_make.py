"""make's variables: every one that is given is used as it was written, or refused; none is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vram_ledger.cli import COMMANDS, HIDDEN
from vram_ledger.errors import InputError
from vram_ledger.from_make import arguments_of

NOT_BY_MAKE = {"emulate", "log", "record", "logs"}  # they take a program, or write JSON to standard output
EVERY = {name for commands in COMMANDS.values() for name in commands}


def make(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def given(command: str, **variables: str) -> list[str]:
    """The command line of ``make command NAME=value …``."""
    return arguments_of(command, list(variables), variables)


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_make_alone_lists_every_command_with_variables_that_it_takes(arguments: tuple[str, ...]) -> None:
    listed = dict(re.findall(r"^  ([a-z-]+) {2,}(.+(?:\n {10,}.+)*)", make(*arguments).stdout, re.MULTILINE))
    assert EVERY - NOT_BY_MAKE | {"test"} == set(listed)
    for command, text in listed.items():
        if command != "test":
            given(command, **dict.fromkeys(re.findall(r"\b([A-Z]+)=", text), "1"))


def test_every_listed_command_is_a_target_and_no_other_is() -> None:
    (targets,) = re.findall(
        r"^COMMANDS := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert (EVERY | {"drift"}) - NOT_BY_MAKE == set(targets.replace("\\", " ").split())
    assert "drift" in HIDDEN


@pytest.mark.parametrize(
    ("command", "name", "near"),
    [
        ("predict", "CTX", "CONTEXT"),
        ("predict", "MODLE", "MODEL"),
        ("predict", "context", "CONTEXT"),
        ("predict", "gpu", "GPU"),
        ("predict", "Gpu", "GPU"),
        ("predict", "GPUS", "GPU"),
        ("predict", "BATCHES", "BATCH"),
        ("capacity", "MEM", "MEMORY"),
        ("measure", "EMULATED", "EMULATE"),
        ("measure", "COMPILED", "COMPILE"),
        ("validate", "ESTIMATER", "ESTIMATOR"),
        ("validate", "TOLERANCES", "TOLERANCE"),
        ("report", "RESULT", "RESULTS"),
        ("calibrate", "FILES", "FILE"),
        ("derive", "VARIANTS", "VARIANT"),
        ("explain", "FRM", "FROM"),
    ],
)
def test_misspelt_variable_is_refused_with_the_nearest(command: str, name: str, near: str) -> None:
    with pytest.raises(InputError, match=rf"make {command} takes no variable {name}; near: .*\b{near}\b"):
        given(command, **{name: "1"})


@pytest.mark.parametrize(("command", "name"), [("predict", "GRID"), ("judge", "GPU"), ("report", "BUDGET")])
def test_variable_of_another_command_is_refused(command: str, name: str) -> None:
    with pytest.raises(InputError, match=f"make {command} takes no variable {name}"):
        given(command, **{name: "1"})


@pytest.mark.parametrize("arguments", [("test", "FOO=1"), ("lint", "PYTHN=python3"), ("help", "gpu=h200"), ("FOO=1",)])
def test_variable_of_no_command_is_refused_by_make(arguments: tuple[str, ...]) -> None:
    done = make(*arguments)
    assert (2, True) == (done.returncode, "unknown variable: " in done.stderr)


@pytest.mark.parametrize(
    ("command", "variables", "line"),
    [
        ("predict", {"GPU": "a b", "CONTEXT": "-1"}, ["predict", "--gpu=a b", "--context=-1"]),
        ("predict", {"MODEL": 'it\'s "here".json'}, ["predict", '--model=it\'s "here".json']),
        ("measure", {"COMPILE": "1", "EMULATE": "h100"}, ["measure", "--emulate=h100", "--compile"]),
        ("measure", {"COMPILE": "0"}, ["measure"]),
        ("derive", {"VARIANT": "text default-static"}, ["derive", "--variant=text", "--variant=default-static"]),
        ("derive", {"VARIANT": "*"}, ["derive", "--variant=*"]),
        ("explain", {"TO": "b", "FROM": "a"}, ["explain", "--", "a", "b"]),
        ("judge", {"FILE": "runs/*/default/*.jsonl"}, ["judge", "--", "runs/*/default/*.jsonl"]),
        ("judge", {"FILE": "'a b.jsonl' c.jsonl"}, ["judge", "--", "a b.jsonl", "c.jsonl"]),
        ("validate", {"ESTIMATOR": "my calc.py:right"}, ["validate", "--", "my calc.py:right"]),
        ("validate", {"ESTIMATOR": "-x"}, ["validate", "--", "-x"]),
    ],
)
def test_values_become_options_as_they_were_written(command: str, variables: dict[str, str], line: list[str]) -> None:
    assert line == given(command, **variables)


@pytest.mark.parametrize(
    "name", ["a b.jsonl", "it's.jsonl", 'q"q.jsonl', "новый.jsonl", "a\nb.jsonl", "a$b.jsonl", "*.jsonl"]
)
def test_path_that_is_there_is_one_value_however_it_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert ["judge", "--", str(tmp_path / name)] == given("judge", FILE=str(tmp_path / name))


@pytest.mark.parametrize("value", ["maybe", "2", "on"])
def test_flag_that_is_neither_1_nor_0_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="COMPILE is 1 or 0"):
        given("measure", COMPILE=value)


@pytest.mark.parametrize(
    "value", ["$(shell touch {})", "$(nope)", "`touch {}`", "; touch {}", "$$(touch {})", '"; touch {}; "']
)
def test_no_value_is_run_as_code(value: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = value.replace("{}", str(made))
    for done in (make("predict", f"GPU={code}"), make("predict", GPU=code), make("test", f"FOO={code}")):
        assert 2 == done.returncode
    assert f"no GPU is labelled {code!r}" in make("predict", f"GPU={code}").stderr
    assert not made.exists()


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_nothing_judged_is_no_success(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = make("drift", f"RESULTS={tmp_path / folder}")
    assert 2 == done.returncode
    assert "exit 2: bad input: " in done.stderr


def test_folder_with_a_space_is_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "jl dir"
    (folder / "x").mkdir(parents=True)
    stored = next((ROOT / "results" / "fake-h200" / "default").glob("qwen3.5-64l-mini.fake.*.jsonl"))
    (folder / "x" / "a b.jsonl").write_bytes(stored.read_bytes())
    assert "exit 0: in agreement" in make("drift", f"RESULTS={folder}").stdout
