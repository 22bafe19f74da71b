"""A campaign goes on after everything that can happen to a workload, with workers that only pretend to measure."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, NANO
from tests.test_records import ENVIRONMENT, MEASURED
from vram_ledger.harness.child import WorkerFailed
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.grid import Grid, read_grid
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Failure, Measured, OutOfMemory, Workload, decode, encode
from vram_ledger.harness.results import open_results
from vram_ledger.harness.runner import Campaign, Plan, Summary, spread

GRID = "repeats = 0\n[[points]]\nphases = ['prefill']\ncontexts_tokens = [64, 128, 4096]\nbatches = [1, 8]\n"
FULL = OutOfMemory(during="warm", asked_bytes=9, free_bytes=1, requested_bytes=5)
Behaviour = Callable[[Workload, int], Measured]


class Pretender:
    """Stands for a worker process; ``started`` lists the workers, ``asked`` what each measured."""

    started: list["Pretender"]

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.asked: list[Workload] = []

    def ask(self, command: dict[str, Any], deadline_s: float) -> Any:
        """Builds at once; measures as told."""
        if command["do"] == "build":
            return None
        workload = decode(Workload, command["workload"])
        self.asked.append(workload)
        return encode(self._behave(workload, len(Pretender.started)))

    def close(self) -> None:
        """Nothing to end."""


def fine(workload: Workload, worker: int) -> Measured:
    """Always the same measurement."""
    return MEASURED


def grid_of(tmp_path: Path, text: str) -> Grid:
    """A grid file read."""
    path = tmp_path / "g.toml"
    path.write_text(text, encoding="utf-8")
    return read_grid(path, NANO)


def run(tmp_path: Path, behave: Behaviour, text: str = GRID, budget_s: float = 0) -> Summary:
    """One run of a campaign with pretended workers, its lines in ``tmp_path/r.jsonl``."""
    Pretender.started = []

    def start(order: Any) -> Any:
        Pretender.started.append(Pretender(behave))
        return Pretender.started[-1]

    plan = Plan(
        grid=grid_of(tmp_path, text),
        config_file=CONFIGS / "models" / f"{NANO}.json",
        device="fake",
        answer_as=labelled(read_gpus(CONFIGS / "gpus.toml"), "h200")[0],
        weights=None,
        budget_s=budget_s,
    )
    with open_results(tmp_path / "r.jsonl", ENVIRONMENT) as writer:
        return Campaign(plan, writer, lambda left, name: None, start).run()


def outcomes(tmp_path: Path) -> list[str]:
    """The types of the outcomes on file, in order."""
    return [type(m.outcome).__name__ for m in read(tmp_path / "r.jsonl").measurements]


def test_one_worker_measures_everything(tmp_path: Path) -> None:
    summary = run(tmp_path, fine)
    assert (6, 6, 1) == (summary.measured_now, summary.settled, len(Pretender.started))


def test_second_run_measures_nothing_more(tmp_path: Path) -> None:
    run(tmp_path, fine)
    assert (0, 6) == ((again := run(tmp_path, fine)).measured_now, again.settled)


def test_fresh_process_follows_an_out_of_memory_error_and_larger_ones_are_not_tried(tmp_path: Path) -> None:
    def behave(workload: Workload, worker: int) -> Measured:
        if workload.batch * workload.context_tokens >= 1024:
            raise WorkerFailed(FULL)
        return MEASURED

    summary = run(tmp_path, behave)
    # 8 × 128 is known not to fit once 8 × 64 … 8 × 128 was tried; 1 × 4096 is larger in one way only.
    assert ["Measured", "Measured", "Measured", "OutOfMemory", "OutOfMemory"] == outcomes(tmp_path)
    assert (1, 2, ()) == (summary.beyond_memory, len(Pretender.started), summary.failed)


def test_crash_is_tried_again_in_a_fresh_process(tmp_path: Path) -> None:
    def behave(workload: Workload, worker: int) -> Measured:
        if worker == 1 and workload.context_tokens == 128:
            raise WorkerFailed(Failure(reason="crash", message="killed by signal 9"))
        return MEASURED

    summary = run(tmp_path, behave)
    assert (["Measured"] * 6, 2, ()) == (outcomes(tmp_path), len(Pretender.started), summary.failed)


@pytest.mark.parametrize("reason", ["crash", "hang", "error"])
def test_failure_is_put_on_file_and_the_rest_is_measured(tmp_path: Path, reason: Any) -> None:
    def behave(workload: Workload, worker: int) -> Measured:
        if (workload.context_tokens, workload.batch) == (128, 1):
            raise WorkerFailed(Failure(reason=reason, message="m"))
        return MEASURED

    summary = run(tmp_path, behave)
    assert 5 == summary.settled
    assert ("Failure", 1) == (outcomes(tmp_path)[1], len(summary.failed))


def test_failed_workload_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    def broken(workload: Workload, worker: int) -> Measured:
        raise WorkerFailed(Failure(reason="error", message="m"))

    run(tmp_path, broken)
    assert 6 == run(tmp_path, fine).measured_now


def test_budget_stops_before_the_next_workload(tmp_path: Path) -> None:
    summary = run(tmp_path, fine, budget_s=1e-9)
    assert (True, 0) == (summary.stopped_by_budget, summary.measured_now)


def test_repeats_run_in_fresh_processes(tmp_path: Path) -> None:
    summary = run(tmp_path, fine, GRID.replace("repeats = 0", "repeats = 2"))
    assert ((), 3) == (summary.unequal, len(Pretender.started))
    assert [1, 1] == [m.repeat for m in read(tmp_path / "r.jsonl").measurements if m.repeat]


def test_repeat_that_differs_by_a_byte_is_named(tmp_path: Path) -> None:
    def behave(workload: Workload, worker: int) -> Measured:
        return MEASURED if worker == 1 else dataclasses.replace(MEASURED, held_bytes=MEASURED.held_bytes + 1)

    summary = run(tmp_path, behave, GRID.replace("repeats = 0", "repeats = 1"))
    assert ("prefill of 4,096 tokens × 8: held 4 then 5 bytes",) == summary.unequal


def test_campaign_of_several_builds_gives_each_its_worker(tmp_path: Path) -> None:
    summary = run(tmp_path, fine, "kernels = ['fla', 'torch']\n" + GRID)
    assert (12, 2) == (summary.settled, len(Pretender.started))


def test_spread_takes_both_ends(tmp_path: Path) -> None:
    workloads = list(grid_of(tmp_path, GRID).workloads)
    assert [workloads[0], workloads[2], workloads[5]] == spread(workloads, 3)
