"""An installation: one package and one command, on the data that comes with it, from any folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BIG, NANO, ROOT

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SOURCES = ("vram_ledger", "analysis", "harness", "configs", "results", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``pip install .`` installed to; what it depends on is already there."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Runs the installed command in a folder of its own."""

    def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(site), **variables}
        line = [sys.executable, str(site / "bin" / "vram-ledger"), *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return command


def test_one_package_is_installed(site: Path) -> None:
    found = {p.name for p in site.iterdir() if p.suffix != ".dist-info"}
    assert {"vram_ledger", "bin"} == found


def test_version_is_printed(run: Run) -> None:
    done = run("--version")
    assert (0, "vram-ledger 0.1.0\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--gpu", "h200"),
        ("capacity", "--gpu", "h100"),
        ("validate", "fitmygpu"),
        ("scoreboard",),
        ("held-out",),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_questions_are_answered_from_shipped_data(arguments: tuple[str, ...], run: Run) -> None:
    done = run(*arguments)
    assert (0, "") == (done.returncode, done.stderr)


def test_report_is_written_to_the_user_s_own_folder(run: Run, tmp_path: Path, site: Path) -> None:
    before = sorted(p for p in site.rglob("*") if "__pycache__" not in p.parts)
    assert 0 == run("report").returncode
    assert (tmp_path / "runs" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert before == sorted(p for p in site.rglob("*") if "__pycache__" not in p.parts)


def test_campaign_is_run_and_goes_to_the_user_s_own_folder(run: Run, tmp_path: Path) -> None:
    grid = tmp_path / "g.toml"
    grid.write_text("repeats = 1\n[[points]]\ncontexts_tokens = [64, 1000]\nbatches = [1, 4]\n", encoding="utf-8")
    done = run("measure", "--fake", "h200", "--model", NANO, "--grid", str(grid))
    assert "workloads on file" in done.stdout, done.stderr
    (file,) = (tmp_path / "runs").rglob("*.jsonl")
    assert ("fake-h200", "g") == file.parts[-3:-1]


HIDDEN = (
    "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'torch' else find(n, *a)"
)


def test_measuring_without_what_it_needs_says_what_to_install(run: Run, tmp_path: Path, site: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN, encoding="utf-8")
    done = run("measure", PYTHONPATH=os.pathsep.join((str(tmp_path), str(site))))
    assert 3 == done.returncode
    assert "pip install 'vram-ledger[measure]'" in done.stderr


def test_prediction_as_json_is_that_of_the_checkout(run: Run) -> None:
    ours = [sys.executable, "-m", "vram_ledger", "predict", "--model", BIG, "--gpu", "h200", "--json"]
    expected = subprocess.run(ours, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(expected) == json.loads(run("predict", "--model", BIG, "--gpu", "h200", "--json").stdout)
