"""An event log becomes steps for the allocator."""

import dataclasses

import pytest

from vram_ledger.analysis.allocation.rules import AllocatorError
from vram_ledger.analysis.allocation.simulation import log_steps
from vram_ledger.harness.events import Allocation, EventLog


def storage(born: int, died: int | None, size: int) -> Allocation:
    return Allocation(born=born, died=died, bytes=size, shape=(size,), dtype="uint8", op="empty", module="", source="")


def log_of(*storages: Allocation) -> EventLog:
    events = len(storages) + sum(s.died is not None for s in storages)
    return EventLog(allocations=storages, events=events, marks={})


def test_a_log_becomes_its_births_and_deaths_in_order() -> None:
    log = log_of(storage(1, None, 2048), storage(0, 3, 512), storage(2, 4, 8))
    assert ((0, 1, 2, ~0, ~2), (512, 2048, 8)) == log_steps(log)


def test_a_log_with_a_hole_is_refused() -> None:
    log = dataclasses.replace(log_of(storage(0, None, 8), storage(1, None, 8)), events=3)
    with pytest.raises(AllocatorError, match="the log has 3 events"):
        log_steps(log)
