"""The caching allocator's rules, on lists of events whose answers are worked out by hand."""

import pytest

from tests.allocated import EMPTY, MIB, after, alloc, feed, fitted, free, refused, usage
from vram_ledger.analysis.allocation.rules import (
    AllocationFailure,
    AllocatorError,
    Block,
    CachingAllocator,
    Segment,
    SegmentEvent,
)
from vram_ledger.analysis.allocation.settings import probe
from vram_ledger.harness.records import AllocatorProbe


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
    allocator.run([0], [20 * MIB])
    assert {3: ((30 + 16) * MIB, 20 * MIB)} == allocator.live_blocks()


def test_of_equal_blocks_the_lowest_is_taken() -> None:
    allocator = after(alloc(1, 16 * MIB), alloc(2, 16 * MIB), alloc(3, 16 * MIB), free(3), free(2))
    allocator.run([0], [15 * MIB])
    assert (16 * MIB, 16 * MIB) == allocator.live_blocks()[3]


def test_the_rest_of_a_split_is_the_next_best_fit() -> None:
    allocator = after(alloc(1, 16 * MIB), alloc(2, 12 * MIB), free(1), free(2), alloc(3, 13 * MIB), alloc(4, 3 * MIB))
    assert {2: (0, 13 * MIB), 3: (13 * MIB, 3 * MIB)} == allocator.live_blocks()


def test_a_freed_block_merges_with_the_one_before() -> None:
    allocator = after(alloc(1, 4 * MIB), alloc(2, 4 * MIB), alloc(3, 4 * MIB), free(1), free(2), alloc(4, 8 * MIB))
    assert (0, 8 * MIB) == allocator.live_blocks()[3]


def test_a_freed_block_merges_with_the_one_after() -> None:
    allocator = after(alloc(1, 4 * MIB), alloc(2, 4 * MIB), alloc(3, 4 * MIB), free(2), free(1), alloc(4, 8 * MIB))
    assert (0, 8 * MIB) == allocator.live_blocks()[3]


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


def test_a_capacity_that_suffices_changes_nothing() -> None:
    events = [alloc(1, 12 * MIB), alloc(2, 18 * MIB)]
    assert fitted(events) == fitted(events, capacity_bytes=30 * MIB)


def test_cached_segments_are_given_back_before_a_request_fails() -> None:
    events = [alloc(1, 12 * MIB), free(1), alloc(2, 24 * MIB)]
    assert usage(24 * MIB, 24 * MIB, 24 * MIB) == fitted(events, capacity_bytes=30 * MIB).peak


def test_without_a_capacity_cached_segments_stay() -> None:
    assert 36 * MIB == fitted([alloc(1, 12 * MIB), free(1), alloc(2, 24 * MIB)]).peak.reserved_bytes


OUT_OF_MEMORY = (alloc(1, 12 * MIB), alloc(2, 12 * MIB), free(1), alloc(3, 23 * MIB), alloc(4, 1))


def test_a_request_beyond_the_capacity_fails_with_its_segment_and_what_was_free() -> None:
    allocator = CachingAllocator(capacity_bytes=30 * MIB)
    expected = AllocationFailure(
        step=3,
        requested_bytes=23 * MIB,
        asked_bytes=24 * MIB,
        free_bytes=18 * MIB,
        held=usage(12 * MIB, 12 * MIB, 12 * MIB),
    )
    assert expected == allocator.run([0, 0, ~0, 1, 2], [12 * MIB, 23 * MIB, 1])
    assert expected == refused(OUT_OF_MEMORY, capacity_bytes=30 * MIB)


def test_a_program_goes_on_after_a_request_that_failed_and_holds_nothing() -> None:
    allocator = CachingAllocator(capacity_bytes=30 * MIB)
    feed(allocator, OUT_OF_MEMORY)
    assert (4, 3) == (allocator.steps, allocator.requests)
    assert None is allocator.run([0, ~2, ~1], [12 * MIB])
    assert {3: (0, 12 * MIB)} == {key: (0, size) for key, (_, size) in allocator.live_blocks().items()}


@pytest.mark.parametrize(("capacity_bytes", "retries"), [(36 * MIB, 0), (30 * MIB, 1), (20 * MIB, 1)])
def test_asking_the_driver_again_counts_as_a_retry_whatever_it_says(capacity_bytes: int, retries: int) -> None:
    allocator = CachingAllocator(capacity_bytes=capacity_bytes)
    feed(allocator, [alloc(1, 12 * MIB), free(1), alloc(2, 24 * MIB)])
    assert retries == allocator.retries


def test_a_segment_in_use_is_not_given_back_however_little_is_used() -> None:
    failure = refused([alloc(1, 2 * MIB), alloc(2, 24 * MIB)], capacity_bytes=40 * MIB)
    assert (1, 20 * MIB) == (failure.step, failure.free_bytes)


def test_a_tiny_request_needs_room_for_a_whole_segment() -> None:
    assert 2 * MIB == refused([alloc(1, 1)], capacity_bytes=MIB).asked_bytes


def test_segments_are_told_with_the_steps_done_before() -> None:
    allocator = CachingAllocator()
    allocator.run([0, ~0], [12 * MIB])
    allocator.empty_cache()
    allocator.run([0], [1])
    assert [
        SegmentEvent(step=0, action="segment_alloc", address=0, bytes=12 * MIB),
        SegmentEvent(step=2, action="segment_free", address=0, bytes=12 * MIB),
        SegmentEvent(step=2, action="segment_alloc", address=12 * MIB, bytes=2 * MIB),
    ] == allocator.segments


HELD = (
    Segment(
        address=0,
        small=False,
        blocks=(Block(bytes=4 * MIB, requested_bytes=3), Block(bytes=16 * MIB, requested_bytes=None)),
    ),
    Segment(
        address=20 * MIB,
        small=True,
        blocks=(Block(bytes=MIB, requested_bytes=None), Block(bytes=MIB, requested_bytes=7)),
    ),
)


def test_a_state_is_taken_up_as_it_was_left() -> None:
    allocator = CachingAllocator.holding(HELD)
    assert (usage(10, 5 * MIB, 22 * MIB),) * 2 == (allocator.held, allocator.peak)
    assert ({4 * MIB: 16 * MIB, 20 * MIB: MIB}, []) == (allocator.free_blocks(), allocator.segments)
    assert {0: (0, 4 * MIB), 1: (21 * MIB, MIB)} == allocator.live_blocks()
    assert None is allocator.run([~0, ~1, 0, 1], [20 * MIB, 2 * MIB - 1])
    assert {2: (0, 20 * MIB), 3: (22 * MIB, 2 * MIB)} == allocator.live_blocks()


def test_a_copy_goes_its_own_way_and_keeps_what_is_alive() -> None:
    allocator = CachingAllocator.holding(HELD)
    twin = allocator.copy(capacity_bytes=22 * MIB)
    before = (allocator.held, allocator.free_blocks(), allocator.live_blocks())
    failure = twin.run([0, 1, 2], [16 * MIB, MIB, 1])
    assert failure is not None
    assert (2, 0, usage(10 + 17 * MIB, 22 * MIB, 22 * MIB)) == (failure.step, failure.free_bytes, failure.held)
    assert before == (allocator.held, allocator.free_blocks(), allocator.live_blocks())
    assert (0, 0, []) == (allocator.requests - 2, allocator.retries, allocator.segments)
    assert None is allocator.copy().run([0], [100 * MIB])


@pytest.mark.parametrize(
    ("steps", "sizes", "message"),
    [
        pytest.param([~0], [], "step 0 is -1: there is no such request", id="freed, never made"),
        pytest.param([0, ~0, ~0], [8], "step 2 frees request 0, which was freed before", id="freed twice"),
        pytest.param([0, ~0, ~0], [0], "step 2 frees request 0, which was freed before", id="nothing, freed twice"),
        pytest.param([0, 1], [8], "step 1 is 1: there is no such size", id="without a size"),
        pytest.param([0], [-8], "step 0 asks for -8 B", id="less than nothing"),
    ],
)
def test_a_program_that_makes_no_sense_is_refused(steps: list[int], sizes: list[int], message: str) -> None:
    with pytest.raises(AllocatorError, match=message):
        CachingAllocator().run(steps, sizes)
