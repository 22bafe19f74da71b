"""Killing the parent or a worker at any moment loses at most the workload in flight."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT
from vram_ledger.harness.lines import read

GRID = "repeats = 1\n[[points]]\ncontexts_tokens = [64, 512]\nbatches = [1, 2, 4]\n"
WORKLOADS = 12
PATIENCE_S = 240

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the worker")


DEVICES = (("--fake", "h200"), ("--emulate", "a100-80gb"))


def start(folder: Path, device: tuple[str, str]) -> "subprocess.Popen[str]":
    """A campaign on the fake device or on an emulated card."""
    grid = folder / "g.toml"
    grid.write_text(GRID, encoding="utf-8")
    command = [sys.executable, "-m", "vram_ledger", "measure", *device, "--model", NANO]
    return subprocess.Popen(
        [*command, "--grid", str(grid), "--results", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(folder: Path) -> int:
    """Finished lines on file."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


def wait_for_lines(campaign: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Waits until the file has so many."""
    end = time.monotonic() + PATIENCE_S
    while lines(folder) < count:
        assert campaign.poll() is None, campaign.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Process numbers of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def worker_of(campaign: "subprocess.Popen[str]") -> int:
    """The worker of a campaign: the one child of its one nursery."""
    (nursery,) = children(campaign.pid)
    (worker,) = children(nursery)
    return worker


def gone(pid: int) -> bool:
    """Whether a process ended (or is only waiting to be buried)."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("device", DEVICES, ids=["fake", "emulated"])
def test_killed_campaign_is_completed_by_the_next_run(tmp_path: Path, device: tuple[str, str]) -> None:
    first = start(tmp_path, device)
    wait_for_lines(first, tmp_path, 5)
    worker = worker_of(first)
    first.kill()
    first.communicate()
    on_file = lines(tmp_path)
    end = time.monotonic() + 20
    while not gone(worker):
        assert time.monotonic() < end, "the worker outlived its parent"
        time.sleep(0.05)

    second = start(tmp_path, device)
    wait_for_lines(second, tmp_path, on_file + 3)
    worker = worker_of(second)
    os.kill(worker, signal.SIGKILL)
    output = second.communicate(timeout=PATIENCE_S)[0]

    assert 0 == second.returncode, output
    (path,) = tmp_path.rglob("*.jsonl")
    measured = [m.workload for m in read(path).measurements if m.repeat == 0]
    assert (WORKLOADS, WORKLOADS) == (len(measured), len(set(measured)))


@pytest.mark.parametrize("device", DEVICES, ids=["fake", "emulated"])
def test_interrupted_campaign_says_that_it_can_go_on(tmp_path: Path, device: tuple[str, str]) -> None:
    campaign = start(tmp_path, device)
    wait_for_lines(campaign, tmp_path, 3)
    worker = worker_of(campaign)
    campaign.send_signal(signal.SIGINT)
    *_, goes_on, last = campaign.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert (130, "exit 130: interrupted") == (campaign.returncode, last)
    assert "Every finished workload is on file; the same command goes on from there." == goes_on
    assert gone(worker)
