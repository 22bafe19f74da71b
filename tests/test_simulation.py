"""What a log allocates and reserves from one event to another, and which machines it is predicted for."""

import dataclasses

import pytest

from tests.allocated import MIB, alloc, fitted, free, refused, usage
from tests.synthetic import ENVIRONMENT
from vram_ledger.analysis.allocation.rules import AllocatorError
from vram_ledger.analysis.allocation.simulation import (
    Simulation,
    log_events,
    probe,
    require_default_rules,
    simulate,
    simulate_events,
)
from vram_ledger.harness.events import Allocation, EventLog
from vram_ledger.harness.records import AllocatorProbe


def storage(born: int, died: int | None, size: int) -> Allocation:
    return Allocation(born=born, died=died, bytes=size, shape=(size,), dtype="uint8", op="empty", module="", source="")


def log_of(*storages: Allocation) -> EventLog:
    events = len(storages) + sum(s.died is not None for s in storages)
    return EventLog(allocations=storages, events=events, marks={})


def test_a_peak_before_the_start_does_not_count() -> None:
    events = [alloc(1, 100 * MIB), free(1), alloc(2, 2 * MIB), free(2)]
    assert usage(2 * MIB, 2 * MIB, 100 * MIB) == fitted(events, start=2).peak


def test_what_is_live_at_the_start_counts() -> None:
    events = [alloc(1, 100 * MIB), free(1), alloc(2, 2 * MIB)]
    assert usage(100 * MIB, 100 * MIB, 100 * MIB) == fitted(events, start=1).peak


def test_a_start_after_the_last_event_has_the_peak_of_what_is_held() -> None:
    result = fitted([alloc(1, 100 * MIB), free(1)], start=2)
    assert (usage(0, 0, 100 * MIB), result.peak) == (result.peak, result.held)


def test_a_cache_emptied_at_the_start_is_no_part_of_the_peak() -> None:
    events = [alloc(1, 100 * MIB), free(1), alloc(2, 2 * MIB)]
    assert usage(2 * MIB, 2 * MIB, 20 * MIB) == fitted(events, start=2, empty_cache_before=[2]).peak


def test_a_failure_before_the_start_is_told_too() -> None:
    assert 0 == refused([alloc(1, 12 * MIB), free(1)], start=2, capacity_bytes=10 * MIB).event


def test_a_start_outside_the_events_is_refused() -> None:
    with pytest.raises(AllocatorError, match="start 2 is not one of the 1 events"):
        simulate_events([alloc(1, 8)], start=2)


def test_a_log_becomes_its_births_and_deaths_in_order() -> None:
    log = log_of(storage(0, 3, 512), storage(1, None, 2 * MIB), storage(2, 4, 8))
    assert (alloc(0, 512), alloc(1, 2 * MIB), alloc(2, 8), free(0), free(2)) == log_events(log)


def test_a_log_is_simulated_from_its_start_to_before_its_end() -> None:
    log = log_of(storage(0, None, 11 * MIB), storage(1, 2, 64 * MIB), storage(3, 4, 32 * MIB), storage(5, 6, 99 * MIB))
    result = simulate(log, 3, 5)
    expected = Simulation(
        peak=usage(43 * MIB, 44 * MIB, 76 * MIB),
        held=usage(11 * MIB, 12 * MIB, 76 * MIB),
    )
    assert expected == result


def test_a_log_with_a_hole_is_refused() -> None:
    log = dataclasses.replace(log_of(storage(0, None, 8), storage(1, None, 8)), events=3)
    with pytest.raises(AllocatorError, match="the log has 3 events"):
        log_events(log)


def test_events_outside_the_log_are_refused() -> None:
    with pytest.raises(AllocatorError, match="events 0 to 2 are not among the log's 1"):
        simulate(log_of(storage(0, None, 8)), 0, 2)


def test_a_machine_with_default_rules_passes() -> None:
    probes = tuple(
        AllocatorProbe(asked_bytes=asked, allocated_bytes=allocated, reserved_bytes=reserved)
        for asked, allocated, reserved in [
            (511, 512, 2 * MIB),
            (MIB, MIB, 2 * MIB),
            (MIB + 1, MIB + 512, 20 * MIB),
            (10 * MIB, 10 * MIB, 10 * MIB),
            (11 * MIB, 12 * MIB, 12 * MIB),
        ]
    )
    neutral = "PYTORCH_ALLOC_CONF=expandable_segments:False,pinned_use_background_threads:True"
    require_default_rules(dataclasses.replace(ENVIRONMENT, allocator=probes, allocator_settings=neutral))
    assert probes == tuple(probe(p.asked_bytes) for p in probes)


@pytest.mark.parametrize(
    "settings",
    [
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "PYTORCH_ALLOC_CONF=pinned_use_background_threads:True,max_split_size_mb:128",
        "PYTORCH_ALLOC_CONF=expandable_segments:False PYTORCH_CUDA_ALLOC_CONF=roundup_power2_divisions:[256:1,>:2]",
        "PYTORCH_ALLOC_CONF=backend:cudaMallocAsync",
        "PYTORCH_NO_CUDA_MEMORY_CACHING=",
    ],
)
def test_a_setting_that_changes_the_rules_is_refused(settings: str) -> None:
    with pytest.raises(AllocatorError, match="is not modelled"):
        require_default_rules(dataclasses.replace(ENVIRONMENT, allocator_settings=settings))


def test_a_machine_that_probed_otherwise_is_refused() -> None:
    expandable = AllocatorProbe(asked_bytes=11 * MIB, allocated_bytes=11 * MIB, reserved_bytes=20 * MIB)
    with pytest.raises(AllocatorError, match="does not follow the default rules"):
        require_default_rules(dataclasses.replace(ENVIRONMENT, allocator=(expandable,)))
