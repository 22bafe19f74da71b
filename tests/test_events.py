"""The event log's arithmetic, on logs made by hand."""

import pytest

from vram_ledger.harness.events import (
    Allocation,
    EventLog,
    alive,
    largest,
    live_bytes,
    peak_event,
    signed_sizes,
    stage_of,
)


def allocation(born: int, died: int | None, size: int) -> Allocation:
    """One storage of ``size`` bytes."""
    return Allocation(born=born, died=died, bytes=size, shape=(size,), dtype="uint8", op="o", module="m", source="s:1")


# 100 (weights) lives on; 30 dies as 50 is alive; 20 is born after.
LOG = EventLog(
    allocations=(allocation(0, None, 100), allocation(1, 3, 30), allocation(2, None, 50), allocation(4, None, 20)),
    events=5,
    marks={"start": 1, "end": 5},
)


def test_log_is_a_sequence_of_signed_sizes() -> None:
    assert (100, 30, 50, -30, 20) == signed_sizes(LOG)


def test_live_bytes_are_their_running_sum() -> None:
    assert (100, 130, 180, 150, 170) == live_bytes(LOG)


def test_peak_is_the_first_highest_point_of_the_window() -> None:
    assert (2, 180) == peak_event(LOG, 1, 5)


def test_peak_counts_what_was_alive_at_the_start() -> None:
    assert (2, 180) == peak_event(LOG, 3, 4)


def test_peak_of_an_empty_log_is_nothing() -> None:
    assert (-1, 0) == peak_event(EventLog(allocations=(), events=0, marks={}), 0, 0)


def test_alive_are_those_born_and_not_yet_dead() -> None:
    assert [100, 50] == [a.bytes for a in alive(LOG, 3)]


def test_largest_come_first() -> None:
    assert [100, 50] == [t.bytes for t in largest(LOG.allocations, 2)]


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        ("model.language_model.layers.62.linear_attn", "linear_attn"),
        ("model.layers.3.self_attn.q_norm", "self_attn"),
        ("model.layers.3", "layer"),
        ("lm_head", "lm_head"),
        ("model.language_model.norm", "norm"),
        ("", "model"),
    ],
)
def test_stage_is_the_part_of_the_model(module: str, stage: str) -> None:
    assert stage == stage_of(module)
