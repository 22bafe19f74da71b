"""The caching allocator's rules, on lists of events whose answers are worked out by hand."""

import dataclasses
import random
from itertools import pairwise
from typing import Any

import pytest

from analysis.allocator import (
    Agreement,
    AllocationFailure,
    AllocatorError,
    CachingAllocator,
    Divergence,
    Event,
    Simulation,
    Usage,
    block_bytes,
    compare,
    log_events,
    probe,
    read_history,
    require_default_rules,
    segment_bytes,
    simulate,
    simulate_events,
)
from harness.events import Allocation, EventLog
from harness.records import AllocatorProbe
from tests.synthetic import ENVIRONMENT

MIB = 2**20
EMPTY: Event = ("empty_cache", 0, 0)
SEEDS = range(20)


def alloc(key: int, size: int) -> Event:
    return "alloc", key, size


def free(key: int) -> Event:
    return "free", key, 0


def usage(requested: int, allocated: int, reserved: int) -> Usage:
    return Usage(requested_bytes=requested, allocated_bytes=allocated, reserved_bytes=reserved)


def after(*events: Event) -> CachingAllocator:
    allocator = CachingAllocator()
    for position, event in enumerate(events):
        assert allocator.apply(position, event) is None
    return allocator


def fitted(events: list[Event], **options: Any) -> Simulation:
    result = simulate_events(events, **options)
    assert isinstance(result, Simulation)
    return result


def refused(events: list[Event], **options: Any) -> AllocationFailure:
    result = simulate_events(events, **options)
    assert isinstance(result, AllocationFailure)
    return result


def storage(born: int, died: int | None, size: int) -> Allocation:
    return Allocation(born=born, died=died, bytes=size, shape=(size,), dtype="uint8", op="empty", module="", source="")


def log_of(*storages: Allocation) -> EventLog:
    events = len(storages) + sum(s.died is not None for s in storages)
    return EventLog(allocations=storages, events=events, marks={})


@pytest.mark.parametrize(
    ("asked", "allocated", "reserved"),
    [
        pytest.param(1, 512, 2 * MIB, id="the least block"),
        pytest.param(511, 512, 2 * MIB, id="rounded up"),
        pytest.param(512, 512, 2 * MIB, id="a multiple of 512"),
        pytest.param(513, 1024, 2 * MIB, id="the next multiple"),
        pytest.param(MIB, MIB, 2 * MIB, id="the largest of the small pool"),
        pytest.param(MIB + 1, MIB + 512, 20 * MIB, id="the least of the large pool"),
        pytest.param(10 * MIB - 512, 10 * MIB - 512, 20 * MIB, id="the last in 20 MiB"),
        pytest.param(10 * MIB - 511, 10 * MIB, 10 * MIB, id="rounded up to its own segment"),
        pytest.param(10 * MIB, 10 * MIB, 10 * MIB, id="the first in its own segment"),
        pytest.param(11 * MIB - 512, 11 * MIB - 512, 12 * MIB, id="a rest of 1 MiB + 512 B is split off"),
        pytest.param(11 * MIB, 12 * MIB, 12 * MIB, id="a rest of 1 MiB is not"),
        pytest.param(12 * MIB - 1, 12 * MIB, 12 * MIB, id="no rest"),
    ],
)
def test_one_request_takes_a_block_and_a_segment(asked: int, allocated: int, reserved: int) -> None:
    assert AllocatorProbe(asked_bytes=asked, allocated_bytes=allocated, reserved_bytes=reserved) == probe(asked)


def test_a_request_of_nothing_takes_no_block() -> None:
    assert usage(0, 0, 0) == fitted([alloc(1, 0), free(1)]).peak


def test_small_blocks_fill_a_segment_to_its_last_512_bytes() -> None:
    full = [alloc(1, MIB), alloc(2, MIB - 512), alloc(3, 1)]
    assert usage(2 * MIB - 511, 2 * MIB, 2 * MIB) == fitted(full).held


def test_a_full_small_segment_is_followed_by_another() -> None:
    assert 4 * MIB == fitted([alloc(1, MIB), alloc(2, MIB), alloc(3, 1)]).held.reserved_bytes


def test_large_blocks_share_a_20_mib_segment() -> None:
    assert usage(18 * MIB, 18 * MIB, 20 * MIB) == fitted([alloc(1, 9 * MIB), alloc(2, 9 * MIB)]).held


def test_a_block_of_10_mib_shares_no_new_segment() -> None:
    assert 20 * MIB == fitted([alloc(1, 10 * MIB), alloc(2, 10 * MIB)]).held.reserved_bytes


def test_an_unsplit_rest_counts_until_its_block_is_freed() -> None:
    events = [alloc(1, 11 * MIB), free(1)]
    result = fitted(events)
    assert (usage(11 * MIB, 12 * MIB, 12 * MIB), usage(0, 0, 12 * MIB)) == (result.peak, result.held)


def test_a_cached_block_is_handed_out_whole_if_1_mib_would_remain() -> None:
    events = [alloc(1, 2 * MIB), free(1), alloc(2, 19 * MIB)]
    assert usage(19 * MIB, 20 * MIB, 20 * MIB) == fitted(events).held


def test_a_cached_block_is_split_if_more_than_1_mib_would_remain() -> None:
    events = [alloc(1, 2 * MIB), free(1), alloc(2, 19 * MIB - 512)]
    assert usage(19 * MIB - 512, 19 * MIB - 512, 20 * MIB) == fitted(events).held


def test_a_large_cached_block_is_split_whatever_its_size() -> None:
    events = [alloc(1, 500 * MIB), free(1), alloc(2, 2 * MIB), alloc(3, 498 * MIB)]
    assert usage(500 * MIB, 500 * MIB, 500 * MIB) == fitted(events).held


def test_a_freed_block_is_used_again() -> None:
    events = [alloc(1, 64 * MIB), free(1), alloc(2, 64 * MIB), free(2), alloc(3, 64 * MIB)]
    assert usage(64 * MIB, 64 * MIB, 64 * MIB) == fitted(events).peak


def test_a_freed_block_that_is_too_small_is_not_used() -> None:
    assert 126 * MIB == fitted([alloc(1, 62 * MIB), free(1), alloc(2, 64 * MIB)]).held.reserved_bytes


def test_the_smallest_block_that_fits_is_taken() -> None:
    allocator = after(alloc(1, 30 * MIB), alloc(2, 16 * MIB), alloc(3, 24 * MIB), free(1), free(2), free(3))
    allocator.apply(6, alloc(4, 20 * MIB))
    assert (30 + 16) * MIB == allocator.address(4)


def test_of_equal_blocks_the_lowest_is_taken() -> None:
    allocator = after(alloc(1, 16 * MIB), alloc(2, 16 * MIB), alloc(3, 16 * MIB), free(3), free(2))
    allocator.apply(5, alloc(4, 15 * MIB))
    assert 16 * MIB == allocator.address(4)


def test_the_rest_of_a_split_is_the_next_best_fit() -> None:
    allocator = after(alloc(1, 16 * MIB), alloc(2, 12 * MIB), free(1), free(2), alloc(3, 13 * MIB), alloc(4, 3 * MIB))
    assert {3: (0, 13 * MIB), 4: (13 * MIB, 3 * MIB)} == allocator.live_blocks()


def test_a_freed_block_merges_with_the_one_before() -> None:
    allocator = after(alloc(1, 4 * MIB), alloc(2, 4 * MIB), alloc(3, 4 * MIB), free(1), free(2), alloc(4, 8 * MIB))
    assert (0, 8 * MIB) == allocator.live_blocks()[4]


def test_a_freed_block_merges_with_the_one_after() -> None:
    allocator = after(alloc(1, 4 * MIB), alloc(2, 4 * MIB), alloc(3, 4 * MIB), free(2), free(1), alloc(4, 8 * MIB))
    assert (0, 8 * MIB) == allocator.live_blocks()[4]


def test_a_block_freed_between_two_free_ones_makes_one_of_three() -> None:
    events = [alloc(1, 4 * MIB), alloc(2, 4 * MIB), alloc(3, 4 * MIB), free(1), free(3), free(2), alloc(4, 20 * MIB)]
    assert usage(20 * MIB, 20 * MIB, 20 * MIB) == fitted(events).held


def test_free_blocks_of_two_segments_do_not_merge() -> None:
    events = [alloc(1, 10 * MIB), alloc(2, 10 * MIB), free(1), free(2), alloc(3, 20 * MIB)]
    assert 40 * MIB == fitted(events).held.reserved_bytes


def test_a_small_request_takes_nothing_from_the_large_pool() -> None:
    assert 22 * MIB == fitted([alloc(1, 2 * MIB), free(1), alloc(2, 512)]).held.reserved_bytes


def test_a_large_request_takes_nothing_from_the_small_pool() -> None:
    assert 22 * MIB == fitted([alloc(1, 512), free(1), alloc(2, 2 * MIB)]).held.reserved_bytes


def test_empty_cache_gives_back_what_is_free() -> None:
    events = [alloc(1, 512), alloc(2, 2 * MIB), alloc(3, 32 * MIB), free(1), free(2), free(3), EMPTY]
    assert usage(0, 0, 0) == fitted(events).held


def test_empty_cache_keeps_a_segment_with_one_live_block() -> None:
    events = [alloc(1, 9 * MIB), alloc(2, 2 * MIB), alloc(3, 32 * MIB), free(1), free(3), EMPTY]
    assert usage(2 * MIB, 2 * MIB, 20 * MIB) == fitted(events).held


def test_what_empty_cache_gave_back_is_asked_for_again() -> None:
    events = [alloc(1, 32 * MIB), free(1), EMPTY, alloc(2, 16 * MIB)]
    result = fitted(events)
    assert (32 * MIB, 16 * MIB) == (result.peak.reserved_bytes, result.held.reserved_bytes)


def test_the_three_peaks_need_not_be_simultaneous() -> None:
    events = [alloc(1, 11 * MIB), free(1), EMPTY, alloc(2, 23 * MIB // 2)]
    assert usage(23 * MIB // 2, 12 * MIB, 12 * MIB) == fitted(events).peak


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


def test_a_capacity_that_suffices_changes_nothing() -> None:
    events = [alloc(1, 12 * MIB), alloc(2, 18 * MIB)]
    assert fitted(events) == fitted(events, capacity_bytes=30 * MIB)


def test_cached_segments_are_given_back_before_a_request_fails() -> None:
    events = [alloc(1, 12 * MIB), free(1), alloc(2, 24 * MIB)]
    assert usage(24 * MIB, 24 * MIB, 24 * MIB) == fitted(events, capacity_bytes=30 * MIB).peak


def test_without_a_capacity_cached_segments_stay() -> None:
    assert 36 * MIB == fitted([alloc(1, 12 * MIB), free(1), alloc(2, 24 * MIB)]).peak.reserved_bytes


def test_a_request_beyond_the_capacity_fails_with_its_segment_and_what_was_free() -> None:
    events = [alloc(1, 12 * MIB), alloc(2, 12 * MIB), free(1), alloc(3, 23 * MIB), alloc(4, 1)]
    expected = AllocationFailure(
        event=3,
        requested_bytes=23 * MIB,
        asked_bytes=24 * MIB,
        free_bytes=18 * MIB,
        held=usage(12 * MIB, 12 * MIB, 12 * MIB),
    )
    assert expected == refused(events, capacity_bytes=30 * MIB)


def test_a_segment_in_use_is_not_given_back_however_little_is_used() -> None:
    failure = refused([alloc(1, 2 * MIB), alloc(2, 24 * MIB)], capacity_bytes=40 * MIB)
    assert (1, 20 * MIB) == (failure.event, failure.free_bytes)


def test_a_failure_before_the_start_is_told_too() -> None:
    assert 0 == refused([alloc(1, 12 * MIB), free(1)], start=2, capacity_bytes=10 * MIB).event


def test_a_tiny_request_needs_room_for_a_whole_segment() -> None:
    assert 2 * MIB == refused([alloc(1, 1)], capacity_bytes=MIB).asked_bytes


@pytest.mark.parametrize(
    ("events", "message"),
    [
        pytest.param([free(1)], "event 0: id 1 is not live", id="freed, never made"),
        pytest.param([alloc(1, 8), free(1), free(1)], "event 2: id 1 is not live", id="freed twice"),
        pytest.param([alloc(1, 8), alloc(1, 8)], "event 1: id 1 is live already", id="made twice"),
        pytest.param([alloc(1, -8)], "event 0: id 1 asks for -8 B", id="less than nothing"),
        pytest.param([("resize", 1, 8)], "event 0: unknown kind 'resize'", id="unknown"),
    ],
)
def test_a_sequence_that_makes_no_sense_is_refused(events: list[Any], message: str) -> None:
    with pytest.raises(AllocatorError, match=message):
        simulate_events(events)


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


def random_events(seed: int, count: int = 400) -> list[Event]:
    """Requests from 1 B to 64 MiB, spread evenly over the powers of two, frees in any order, a few releases."""
    choose = random.Random(seed)
    live: list[int] = []
    events: list[Event] = []
    for number in range(count):
        if choose.random() < 0.02:
            events.append(EMPTY)
        elif live and choose.random() < 0.48:
            events.append(free(live.pop(choose.randrange(len(live)))))
        else:
            events.append(alloc(number, int(2 ** choose.uniform(0, 26))))
            live.append(number)
    return events


def freeing_the_rest(events: list[Event]) -> list[Event]:
    freed = {key for kind, key, _ in events if kind == "free"}
    return [free(key) for kind, key, _ in events if kind == "alloc" and key not in freed]


@pytest.mark.parametrize("seed", SEEDS)
def test_reserved_is_never_below_allocated_nor_that_below_requested(seed: int) -> None:
    allocator = CachingAllocator()
    for position, event in enumerate(random_events(seed)):
        allocator.apply(position, event)
        held = allocator.held
        assert held.reserved_bytes >= held.allocated_bytes >= held.requested_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_live_blocks_never_overlap(seed: int) -> None:
    allocator = CachingAllocator()
    for position, event in enumerate(random_events(seed)):
        allocator.apply(position, event)
        blocks = sorted(allocator.live_blocks().values())
        assert all(one + size <= other for (one, size), (other, _) in pairwise(blocks))


@pytest.mark.parametrize("seed", SEEDS)
def test_freeing_everything_leaves_nothing_allocated_and_nothing_split(seed: int) -> None:
    events = random_events(seed)
    events += [*freeing_the_rest(events), EMPTY]
    assert usage(0, 0, 0) == fitted(events).held


@pytest.mark.parametrize("seed", SEEDS)
def test_a_capacity_of_the_reserved_peak_suffices(seed: int) -> None:
    events = random_events(seed)
    result = fitted(events)
    assert result == fitted(events, capacity_bytes=result.peak.reserved_bytes)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_capacity_below_the_allocated_peak_never_suffices(seed: int) -> None:
    events = random_events(seed)
    capacity = fitted(events).peak.allocated_bytes - 1
    failure = refused(events, capacity_bytes=capacity)
    assert capacity == failure.free_bytes + failure.held.reserved_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ids_do_not_matter(seed: int) -> None:
    events = random_events(seed)
    renamed: list[Event] = [(kind, 7919 * key + 13, size) for kind, key, size in events]
    assert fitted(events) == fitted(renamed)


@pytest.mark.parametrize("seed", SEEDS)
def test_segments_given_back_had_been_taken(seed: int) -> None:
    allocator = after(*random_events(seed))
    taken = {(s.address, s.bytes) for s in allocator.segments if s.action == "segment_alloc"}
    returned = [(s.address, s.bytes) for s in allocator.segments if s.action == "segment_free"]
    assert (len(returned), True) == (len(set(returned)), taken >= set(returned))


def piece_for(segments: list[list[list[int]]], size: int, small: bool) -> tuple[list[list[int]], int] | None:
    """The smallest free piece that fits, the lowest of equals, found by looking at every one of them."""
    fits = [
        (piece[1], piece[0], segment, index)
        for segment in segments
        for index, piece in enumerate(segment)
        if piece[2] < 0 and piece[1] >= size and (sum(p[1] for p in segment) == 2 * MIB) == small
    ]
    return min(fits, key=lambda fit: fit[:2])[2:] if fits else None


def plainly_simulated(events: list[Event]) -> list[tuple[int, int]]:
    """Allocated and reserved after each event, by the same rules written down as plainly as possible.

    A segment is a list of pieces [address, size, id or -1] and is cut and joined in place.
    """
    segments: list[list[list[int]]] = []
    top, seen = 0, []
    for kind, key, asked in events:
        if kind == "alloc":
            size = block_bytes(asked)
            small = size <= MIB
            if (found := piece_for(segments, size, small)) is None:
                segments.append([[top, segment_bytes(size), -1]])
                top += segment_bytes(size)
                found = segments[-1], 0
            segment, index = found
            address, whole, _ = segment[index]
            kept = size if whole - size > (0 if small else MIB) else whole
            rest = [[address + kept, whole - kept, -1]] if kept < whole else []
            segment[index : index + 1] = [[address, kept, key], *rest]
        elif kind == "free":
            for segment in segments:
                segment[:] = joined([[a, s, -1 if k == key else k] for a, s, k in segment])
        else:
            segments = [segment for segment in segments if [piece[2] for piece in segment] != [-1]]
        pieces = [piece for segment in segments for piece in segment]
        seen.append((sum(s for _, s, k in pieces if k >= 0), sum(s for _, s, _ in pieces)))
    return seen


def joined(pieces: list[list[int]]) -> list[list[int]]:
    """The pieces with neighbouring free ones made one."""
    result: list[list[int]] = []
    for address, size, key in pieces:
        if result and key < 0 and result[-1][2] < 0:
            result[-1][1] += size
        else:
            result.append([address, size, key])
    return result


@pytest.mark.parametrize("seed", SEEDS)
def test_the_counters_are_those_of_the_rules_written_plainly(seed: int) -> None:
    events = random_events(seed)
    allocator = CachingAllocator()
    seen = []
    for position, event in enumerate(events):
        allocator.apply(position, event)
        seen.append((allocator.held.allocated_bytes, allocator.held.reserved_bytes))
    assert plainly_simulated(events) == seen
