"""Recorded memory histories, made by hand and by the real allocator, against the caching allocator's rules."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.allocated import EMPTY, MIB, alloc, free, usage
from tests.conftest import NANO, ROOT
from vram_ledger.analysis.allocation.history import Agreement, Divergence, compare, read_history
from vram_ledger.analysis.allocation.rules import AllocatorError


def entry(action: str, address: int, size: int, **more: int) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0, **more}


BASE = 0x7F00_0000_0000
RECORDED = [
    entry("segment_alloc", BASE + 64 * MIB, 20 * MIB),
    entry("alloc", BASE + 64 * MIB, 3 * MIB),
    entry("alloc", BASE + 67 * MIB, 5 * MIB - 100),
    entry("segment_alloc", BASE, 14 * MIB),
    entry("alloc", BASE, 13 * MIB),
    entry("free_requested", BASE + 64 * MIB, 3 * MIB),
    entry("free_completed", BASE + 64 * MIB, 3 * MIB),
    entry("free_requested", BASE + 67 * MIB, 5 * MIB - 100),
    entry("free_completed", BASE + 67 * MIB, 5 * MIB - 100),
    entry("snapshot", 0, 0),
    entry("segment_free", BASE + 64 * MIB, 20 * MIB),
    entry("segment_alloc", BASE + 128 * MIB, 2 * MIB),
    entry("alloc", BASE + 128 * MIB, 700),
]


def test_a_recording_becomes_events() -> None:
    expected = (
        alloc(0, 3 * MIB),
        alloc(1, 5 * MIB - 100),
        alloc(2, 13 * MIB),
        free(0),
        free(1),
        EMPTY,
        alloc(6, 700),
    )
    assert expected == read_history(RECORDED).events


def test_a_recording_that_follows_the_rules_agrees_in_segments_and_addresses() -> None:
    expected = Agreement(
        events=7,
        segments=4,
        peak=usage(21 * MIB - 100, 22 * MIB, 34 * MIB),
    )
    assert expected == compare(read_history(RECORDED))


def test_a_recording_with_another_segment_size_diverges_there() -> None:
    other = [entry("segment_alloc", BASE, 32 * MIB), entry("alloc", BASE, 3 * MIB)]
    divergence = compare(read_history(other))
    assert isinstance(divergence, Divergence)
    assert (0, [32 * MIB], [20 * MIB]) == (
        divergence.event,
        [segment.bytes for segment in divergence.recorded],
        [segment.bytes for segment in divergence.predicted],
    )


def test_a_recording_with_a_block_elsewhere_diverges_there() -> None:
    moved = [RECORDED[0], RECORDED[1], entry("alloc", BASE + 70 * MIB, 4 * MIB)]
    divergence = compare(read_history(moved))
    assert isinstance(divergence, Divergence)
    assert (1, BASE + 70 * MIB, BASE + 67 * MIB) == (
        divergence.event,
        divergence.recorded_address,
        divergence.predicted_address,
    )


def test_a_recording_that_keeps_what_would_be_given_back_diverges_there() -> None:
    two = [
        entry("segment_alloc", BASE, 10 * MIB),
        entry("alloc", BASE, 10 * MIB),
        entry("segment_alloc", BASE + 10 * MIB, 10 * MIB),
        entry("alloc", BASE + 10 * MIB, 10 * MIB),
        entry("free_completed", BASE, 10 * MIB),
        entry("free_completed", BASE + 10 * MIB, 10 * MIB),
        entry("segment_free", BASE, 10 * MIB),
    ]
    divergence = compare(read_history(two))
    assert isinstance(divergence, Divergence)
    assert (4, 1, 2) == (divergence.event, len(divergence.recorded), len(divergence.predicted))


def test_equal_free_blocks_are_told_apart_by_the_recorded_addresses() -> None:
    high, low = BASE + 10 * MIB, BASE
    recorded = [
        entry("segment_alloc", high, 10 * MIB),
        entry("alloc", high, 10 * MIB),
        entry("segment_alloc", low, 10 * MIB),
        entry("alloc", low, 10 * MIB),
        entry("free_completed", high, 10 * MIB),
        entry("free_completed", low, 10 * MIB),
        entry("alloc", low, 10 * MIB),
    ]
    assert isinstance(compare(read_history(recorded)), Agreement)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        pytest.param([entry("segment_map", BASE, 2 * MIB)], "entry 0: action 'segment_map' is not modelled", id="map"),
        pytest.param([entry("alloc", BASE, 8)], "entry 0: block .* is in no recorded segment", id="begins late"),
        pytest.param([entry("free_completed", BASE, 8)], "entry 0: block .* is not live", id="frees the unknown"),
        pytest.param([entry("segment_free", BASE, 8)], "entry 0: segment .* is not there", id="returns the unknown"),
        pytest.param(
            [RECORDED[0], entry("alloc", BASE + 84 * MIB, 8)], "entry 1: block .* is in no recorded", id="beyond"
        ),
        pytest.param([RECORDED[0], RECORDED[1], RECORDED[1]], "entry 2: block .* is live already", id="twice"),
        pytest.param([{"action": "alloc", "addr": "0x7f", "size": 8}], "entry 0: addr is '0x7f'", id="not a number"),
        pytest.param([RECORDED[0], entry("alloc", BASE, 8, stream=7)], "the recording has 2 streams", id="streams"),
    ],
)
def test_a_recording_that_can_not_be_followed_is_refused(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(AllocatorError, match=message):
        read_history(entries)


@pytest.mark.parametrize("gpu", ["a100-80gb", "h100"])
def test_rules_give_every_address_of_the_real_allocator(tmp_path: Path, gpu: str) -> None:
    file = tmp_path / "history.json"
    command = ["history", "--emulate", gpu, "--model", NANO, "--phase", "prefill", "--context", "1000", "--batch", "2"]
    subprocess.run([sys.executable, "-m", "vram_ledger", *command, "--out", str(file)], cwd=ROOT, check=True)
    (trace,) = json.loads(file.read_text(encoding="utf-8"))["device_traces"]
    agreement = compare(read_history(trace))
    assert isinstance(agreement, Agreement), agreement
    assert agreement.events > 5000
    assert any(frame["filename"].endswith("modeling_qwen3_5.py") for entry in trace for frame in entry["frames"])
