"""What is shipped for a calculator's repository works."""

import shutil

import pytest

from tests.conftest import ROOT
from tests.refereed import campaign, run
from vram_ledger.analysis.estimators import fitmygpu
from vram_ledger.analysis.refereeing.referee import score_all, scored


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on this machine")
def test_the_node_example_answers_as_fitmygpu_does() -> None:
    theirs = score_all(f"node {ROOT}/examples/calculator.mjs", [campaign()]).scored[0]
    assert scored("fitmygpu", fitmygpu.estimate, campaign()).errors == theirs.errors


def test_the_python_example_answers_as_fitmygpu_does() -> None:
    theirs = score_all(f"{ROOT}/examples/calculator.py:estimate", [campaign()]).scored[0]
    assert scored("fitmygpu", fitmygpu.estimate, campaign()).errors == theirs.errors


def test_the_workflow_example_runs_the_command_that_there_is() -> None:
    text = (ROOT / "examples" / "validate-calculator.yml").read_text(encoding="utf-8")
    options = [word for word in text.split() if word.startswith("--")]
    assert ["--base", "--markdown"] == [option for option in options if option in run("--help").stdout]
