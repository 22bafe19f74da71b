"""A campaign on an emulated card: the path of a real card's, from the first worker to the verdict."""

import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from tests.conftest import BIG, CONFIGS, NANO, ROOT
from tests.emulated import environment
from vram_ledger.harness.child import Nurseries
from vram_ledger.harness.emulation.profile import emulation_of, profile_of
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.grid import read_grid
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Failure, Measured, Measurement, OutOfMemory, ResultsFile
from vram_ledger.harness.results import open_results
from vram_ledger.harness.runner import Campaign, Plan, Summary

GRID = "repeats = 2\n[[points]]\ncontexts_tokens = [256, 1000, 131072]\nbatches = [1, 64]\n"
CARD = "rtx-3060-12gb"
SOON_S = 5.0


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``vram-ledger`` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "vram_ledger", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def measure(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A campaign whose results go to a folder."""
    return command("measure", "--results", str(folder), *arguments)


@pytest.fixture(scope="module")
def full_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a campaign of which some points do not fit."""
    folder = tmp_path_factory.mktemp("full")
    grid = folder / "g.toml"
    grid.write_text(GRID, encoding="utf-8")
    ran = measure(folder, "--emulate", CARD, "--model", NANO, "--grid", str(grid))
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    return folder


def results(folder: Path) -> ResultsFile:
    """The one results file below a folder."""
    (path,) = folder.rglob("*.jsonl")
    return read(path)


def test_file_and_environment_say_that_the_card_is_emulated(full_card: Path) -> None:
    found = results(full_card)
    assert f"emulated-{CARD}" == found.path.parts[-3]
    assert found.path.name.startswith(f"{NANO}.emulated.")
    environment = found.environment
    assert ("emulated", CARD, False) == (environment.device, environment.card, environment.compiled)
    assert 12 == len(environment.emulation or "")


def test_out_of_memory_is_a_result_with_the_bytes_that_were_held(full_card: Path) -> None:
    failed = [m.outcome for m in results(full_card).measurements if isinstance(m.outcome, OutOfMemory)]
    assert failed
    for outcome in failed:
        assert outcome.asked_bytes is not None
        assert outcome.free_bytes is not None
        assert outcome.requested_bytes is not None
        assert outcome.asked_bytes > outcome.free_bytes
        total = results(full_card).environment.gpu_total_bytes or 0
        # What was held and what was asked for did not go together; the rest is rounding and unused parts of segments.
        assert 0.5 * total < outcome.requested_bytes + outcome.asked_bytes


def test_repeats_in_fresh_processes_are_identical_in_every_counter(full_card: Path) -> None:
    found = results(full_card).measurements
    again = {m.workload: m.outcome for m in found if m.repeat == 1}
    first = {m.workload: m.outcome for m in found if m.repeat == 0 and m.workload in again}
    assert 2 == len(again)
    for workload, outcome in again.items():
        assert isinstance(outcome, Measured)
        before = first[workload]
        assert isinstance(before, Measured)
        assert (before.cold, before.warm, before.held_bytes) == (outcome.cold, outcome.warm, outcome.held_bytes)


def test_nothing_is_measured_twice_and_torch_is_not_needed_to_see_it(full_card: Path) -> None:
    before = results(full_card).path.read_bytes()
    began = monotonic()
    ran = measure(full_card, "--emulate", CARD, "--model", NANO, "--grid", str(full_card / "g.toml"))
    assert monotonic() - began < SOON_S
    assert (0, True) == (ran.returncode, "(0 now)" in ran.stdout)
    assert before == results(full_card).path.read_bytes()


def test_judge_digests_the_file_of_a_full_card(full_card: Path) -> None:
    ran = command("judge", str(results(full_card).path))
    assert (0, True) == (ran.returncode, "out of memory:" in ran.stdout), ran.stdout


def test_model_that_does_not_fit_ends_in_a_table_and_a_verdict(tmp_path: Path) -> None:
    ran = measure(tmp_path, "--emulate", "rtx-4090", "--model", BIG)
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    assert "The model does not fit this card: it was out of memory while it was being built. 69 not run." in ran.stdout
    (only,) = [m.outcome for m in results(tmp_path).measurements]
    assert isinstance(only, OutOfMemory)
    assert "build" == only.during
    assert (only.requested_bytes or 0) > 20 * 2**30
    judged = command("judge", str(results(tmp_path).path))
    assert (0, True) == (judged.returncode, "does not fit" in judged.stdout), judged.stdout


def troubled(folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> tuple[Summary, list[Measurement]]:
    """A campaign whose long prompts are in trouble."""
    monkeypatch.setenv("TROUBLE", trouble)
    (folder / "g.toml").write_text(
        'repeats = 0\ndeadline_s = 20\n[[points]]\nphases = ["prefill"]\n'
        "contexts_tokens = [64, 300, 1000]\nbatches = [1, 2]\n",
        encoding="utf-8",
    )
    card = labelled(read_gpus(CONFIGS / "gpus.toml"), "a100-80gb")[0]
    plan = Plan(
        grid=read_grid(folder / "g.toml", NANO),
        config_file=CONFIGS / "models" / f"{NANO}.json",
        device="emulated",
        answer_as=card,
        weights=None,
        budget_s=0,
        emulation=emulation_of((profile_of(card),)),
    )
    nurseries = Nurseries("tests.workers.troubled", plan.variables)
    try:
        with open_results(folder / "r.jsonl", environment()) as writer:
            summary = Campaign(plan, writer, lambda left, name: None, nurseries.start).run()
    finally:
        nurseries.close()
    return summary, list(read(folder / "r.jsonl").measurements)


@pytest.mark.parametrize(
    ("trouble", "reason", "said"),
    [
        ("hang", "hang", "no answer within 20 s"),
        ("unknown", "crash", "called cuGreenCtxCreate of libcuda.so.1, which the emulated card does not know"),
    ],
)
def test_trouble_on_the_card_is_recorded_and_the_campaign_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, reason: str, said: str
) -> None:
    summary, measurements = troubled(tmp_path, monkeypatch, trouble)
    outcomes = {(m.workload.context_tokens, m.workload.batch): m.outcome for m in measurements}
    assert {(1000, 1), (1000, 2)} == {key for key, outcome in outcomes.items() if isinstance(outcome, Failure)}
    failed = outcomes[(1000, 1)]
    assert isinstance(failed, Failure)
    assert (reason, True) == (failed.reason, said in failed.message)
    assert (4, 2) == (summary.settled, len(summary.failed))
