"""The one command: how it ends, what it prints for programs, and that no locale and no mistake gets a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT
from tests.invoked import invoke
from vram_ledger.cli import COMMANDS

RESULTS = ROOT / "results"
REPLAYED = RESULTS / "fake-h200"
MINI = next((REPLAYED / "default").glob("qwen3.5-64l-mini.fake.*.jsonl"))
FORMULA = "qwen3.5-27b text prefill 5.24.0 emulated-a100-80gb"
PROBED = next((RESULTS / "boundary" / "emulated-a100-80gb" / "default").glob("qwen3.5-27b.*.jsonl"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own to run commands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("judge", MINI),
        ("predict",),
        ("capacity", "--gpu", "h200"),
        ("validate", "exact-terms", "--file", MINI),
        ("scoreboard", "--file", MINI),
        ("held-out", "--file", PROBED),
        ("history", ROOT / "examples" / "emulated-training.json.gz"),
        ("derived", FORMULA),
        ("explain", "qwen3.5-27b text prefill 5.17.0", FORMULA),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_json_is_all_that_is_on_standard_output(arguments: tuple[object, ...], here: Path) -> None:
    done = invoke(*arguments, "--json")
    assert 0 == done.exit_code, done.stderr
    assert json.loads(done.stdout)


def test_campaign_is_told_as_json_and_all_else_goes_to_standard_error(here: Path) -> None:
    (here / "g.toml").write_text(
        "repeats = 1\n[[points]]\ncontexts_tokens = [64, 1000]\nbatches = [1, 4]\n", encoding="utf-8"
    )
    done = invoke("measure", "--fake", "h200", "--model", NANO, "--grid", "./g.toml", "--json")
    (own,) = json.loads(done.stdout)
    assert (done.exit_code, NANO) == (own["exit_code"], own["verdicts"][0]["configuration"]["model"])
    assert done.stderr.startswith("FAKE DEVICE: ")


def test_claims_are_told_as_json(here: Path) -> None:
    shutil.copytree(REPLAYED, here / "fake-h200", ignore=shutil.ignore_patterns("derived"))
    done = invoke("claims", "fake-h200", "--json")
    assert {"claim", "found", "verdict"} == set(json.loads(done.stdout)["fake-h200"][0])


def test_every_command_has_help_and_help_lists_every_command() -> None:
    text = invoke("--help").stdout
    for panel, commands in COMMANDS.items():
        assert panel in text
        for name in commands:
            assert name in text
            assert "Usage: vram-ledger" in invoke(name, "--help").stdout


def test_nothing_at_all_is_a_question_for_help() -> None:
    assert (0, True) == ((done := invoke()).exit_code, "Usage: vram-ledger" in done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predct",), "No such command 'predct'. Did you mean 'predict'?"),
        (("predict", "--gpuu", "h200"), "No such option: --gpuu"),
        (("judge", "--calibrations", "x"), "--calibrations"),
        (("log", "--phase", "prefill"), "Missing option '--context'"),
        (("log", "--phase", "prefill", "--context", "0"), "context is a number of tokens"),
        (("log", "--phase", "prefil", "--context", "8"), "phase 'prefil' is neither prefill nor decode"),
        (("log", "--phase", "decode", "--context", "8", "--batch", "-1"), "batch is a whole number"),
        (("record", "--phase", "decode", "--context", "x"), "context is a number of tokens"),
        (("history", "nowhere.pickle"), "nowhere.pickle: no such file; FILE is a memory snapshot"),
        (("emulate", "--card", "h2000", "--", "true"), "near: h200"),
        (("validate",), "Missing argument 'estimator'"),
        (("calibrate",), "there is nothing in runs/ yet; RESULTS=results are the published ones"),
        (("calibrate", "nowhere"), "nowhere: no such results file"),
        (("judge", "nowhere/*.jsonl"), "nowhere/*.jsonl: no such results file"),
        (("claims", "nowhere"), "no default/qwen3.5-27b.calibration.json there"),
        (("report", "--results", "nowhere"), "no campaigns: no results file under nowhere/*/default"),
        (("scoreboard", "--results", "nowhere"), "no campaigns"),
        (("held-out", "--results", "nowhere"), "nowhere has no files of make boundary; name one (FILE=)"),
        (("held-out", "--file", MINI), "no probes in it, so it is no finished file of make boundary"),
        (("measure", "--grid", "defualt"), "near: default"),
        (("measure", "--model", "qwen3.5-27"), "near: qwen3.5-27b"),
        (("measure", "--budget", "soon"), "BUDGET must be seconds"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_mistake_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], said: str, here: Path) -> None:
    done = invoke(*arguments)
    assert (2, "") == (done.exit_code, done.stdout)
    assert done.stderr.startswith("exit 2: bad input: ")
    assert said in done.stderr
    assert not list(here.iterdir())


def test_nothing_that_is_published_is_written_without_being_named(here: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}
    assert 0 == invoke("scoreboard", "--file", MINI).exit_code
    assert 0 == invoke("held-out", "--file", PROBED).exit_code
    assert 0 == invoke("report", MINI).exit_code
    assert {"scoreboard.md", "scoreboard.csv", "held-out.md", "report.html", "figures"} == {
        path.name for path in (here / "runs").iterdir()
    }
    assert before == {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}


def test_budget_that_ends_a_campaign_is_neither_success_nor_drift(here: Path) -> None:
    done = invoke("measure", "--fake", "h200", "--model", NANO, "--grid", "smoke", "--budget", "0.001")
    assert (5, True) == (done.exit_code, "incomplete: stopped by BUDGET, " in done.stderr), done.output


@pytest.mark.parametrize(
    "settings", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "POSIX"}, {"LANG": "", "LC_ALL": ""}]
)
@pytest.mark.parametrize("arguments", [("predict", "--gpu", "h200"), ("judge", str(MINI)), ("derived", FORMULA)])
def test_any_locale_will_do(settings: dict[str, str], arguments: tuple[str, ...]) -> None:
    environment = {**os.environ, **settings, "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "vram_ledger", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (0, b"") == (done.returncode, done.stderr)
    assert "·" in done.stdout.decode()
