"""PyTorch's own allocator on an emulated card, step by step beside our rules for it."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT
from vram_ledger.analysis.allocation.rules import COUNTERS, AllocationFailure, CachingAllocator, Usage
from vram_ledger.analysis.allocation.settings import allocator, rules_set

ROOMY, HUGE = (10**15, 2**28), (10**15, 9 * 10**9)  # left after the first request, and the most bytes of the others
FULL = (400 * 10**6, 300 * 10**6)


def ran(settings: str, seed: int, steps: int, left: int, most: int) -> dict[str, Any]:
    """What ``tests/programs/allocations.py`` tells of an emulated card."""
    program = [sys.executable, "-m", "tests.programs.allocations", *map(str, (seed, steps, left, most))]
    done = subprocess.run(
        [sys.executable, "-m", "vram_ledger", "emulate", "--card", "l4", "--", "env", settings, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def written(size: int) -> str:
    """Bytes as the allocator's errors write them (``format_size``)."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size > unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"


def carry_out(ours: CachingAllocator, kind: str, value: int) -> AllocationFailure | None:
    """One of the program's steps."""
    if kind == "alloc":
        return ours.run([0], [value])
    if kind == "free":
        return ours.run([~value], [])
    ours.empty_cache() if kind == "empty_cache" else ours.reset_peak()
    return None


def figures(usage: Usage) -> list[int]:
    return [getattr(usage, counter) for counter in COUNTERS]


@pytest.mark.parametrize("settings", ["PYTORCH_ALLOC_CONF=", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"])
@pytest.mark.parametrize(
    ("left", "most", "failures"),
    [
        pytest.param(*ROOMY, (0, 0), id="room for everything"),
        pytest.param(*FULL, (20, 200), id="a full card"),
        pytest.param(*HUGE, (5, 100), id="requests that no segment has room for"),
    ],
)
def test_rules_give_the_card_s_bytes_after_every_step(
    settings: str, left: int, most: int, failures: tuple[int, int]
) -> None:
    told = ran(settings, 6, 2000, left, most)
    ours = allocator(rules_set(settings), told["capacity_bytes"], told["total_bytes"])
    failed = 0
    for number, (kind, value, counters, error) in enumerate(told["seen"]):
        failure = carry_out(ours, kind, value)
        assert (number, counters) == (number, [*figures(ours.held), *figures(ours.peak), ours.retries])
        assert (error is None) == (failure is None)
        if failure is not None:
            failed += 1
            assert f"Tried to allocate {written(failure.asked_bytes)}. " in error
            assert f" of which {written(failure.free_bytes)} is free" in error
    assert failures[0] <= failed <= failures[1]
