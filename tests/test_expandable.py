"""The allocator's rules with expandable segments: answers worked out by hand, and what holds of random events."""

from itertools import pairwise

import pytest

from tests.allocated import EMPTY, MIB, Event, alloc, feed, free, random_events, usage
from vram_ledger.analysis.allocation.expandable import ExpandableAllocator
from vram_ledger.analysis.allocation.rules import AllocationFailure, AllocatorError, Block, Segment, SegmentEvent

SEEDS = range(20)


def after(*events: Event, capacity_mib: int | None = None, total_mib: int | None = None) -> ExpandableAllocator:
    """An allocator on a card of so many MiB that has seen these events."""
    allocator = ExpandableAllocator(
        capacity_bytes=None if capacity_mib is None else capacity_mib * MIB,
        total_bytes=None if total_mib is None else total_mib * MIB,
    )
    feed(allocator, events)
    return allocator


def mib(places: dict[int, tuple[int, int]]) -> dict[int, tuple[float, float]]:
    """Blocks with address and size in MiB."""
    return {number: (at / MIB, size / MIB) for number, (at, size) in places.items()}


def test_requests_lie_one_behind_the_other_in_whole_granules() -> None:
    allocator = after(alloc(1, 16 * MIB), alloc(2, 38 * MIB))
    assert ({0: (0, 16), 1: (16, 38)}, 60 * MIB) == (mib(allocator.live_blocks()), allocator.held.reserved_bytes)


def test_small_requests_lie_one_behind_the_other_across_granules() -> None:
    allocator = after(alloc(1, MIB), alloc(2, MIB - 512), alloc(3, MIB))
    assert usage(3 * MIB - 512, 3 * MIB - 512, 4 * MIB) == allocator.held
    assert (2 * MIB - 512, MIB) == allocator.live_blocks()[2]


def test_a_large_block_keeps_no_rest() -> None:
    assert usage(19 * MIB, 19 * MIB, 20 * MIB) == after(alloc(1, 19 * MIB)).held


def test_memory_is_mapped_behind_the_last_free_block() -> None:
    allocator = after(alloc(1, 30 * MIB), free(1), alloc(2, 50 * MIB))
    assert usage(50 * MIB, 50 * MIB, 60 * MIB) == allocator.held


def test_a_free_block_counts_with_the_unmapped_space_behind_it() -> None:
    allocator = after(alloc(1, 8 * MIB), alloc(2, 27 * MIB), free(1), alloc(3, 4 * MIB))
    assert {1: (8, 27), 2: (0, 4)} == mib(allocator.live_blocks())


def test_of_two_blocks_that_reach_as_far_the_smaller_is_taken() -> None:
    sizes = (5, 35, 20, 35, 25)  # at 5 MiB, 15 will be free before a hole of 20; at 60 MiB, 35 are free
    events = [*(alloc(key, size * MIB) for key, size in enumerate(sizes)), free(1), EMPTY, free(3)]
    assert (5, 10) == mib(after(*events, alloc(5, 10 * MIB)).live_blocks())[5]


def test_empty_cache_unmaps_whole_granules_alone() -> None:
    allocator = after(alloc(1, 30 * MIB), alloc(2, 5 * MIB), free(1), EMPTY)
    assert (20 * MIB, {20 * MIB: 10 * MIB, 35 * MIB: 5 * MIB}) == (
        allocator.held.reserved_bytes,
        allocator.free_blocks(),
    )


def test_a_segment_without_memory_is_given_up() -> None:
    allocator = after(alloc(1, 30 * MIB), free(1), EMPTY, total_mib=80)
    allocator.run([0], [2 * MIB])
    assert [
        SegmentEvent(step=0, action="segment_map", address=0, bytes=40 * MIB),
        SegmentEvent(step=2, action="segment_unmap", address=0, bytes=40 * MIB),
        SegmentEvent(step=2, action="segment_map", address=100 * MIB, bytes=20 * MIB),
    ] == allocator.segments


HOLE = (alloc(1, 5 * MIB), alloc(2, 55 * MIB), alloc(3, 20 * MIB), free(2), EMPTY)  # 20 to 60 MiB, 5 to 20 are free


def test_the_space_in_front_of_a_hole_is_taken_with_it() -> None:
    allocator = after(*HOLE, alloc(4, 50 * MIB))
    assert (80 * MIB, (5, 50)) == (allocator.held.reserved_bytes, mib(allocator.live_blocks())[3])


def test_a_run_that_is_too_short_is_passed_over() -> None:
    allocator = after(*HOLE, alloc(4, 56 * MIB))
    assert (100 * MIB, (80, 56)) == (allocator.held.reserved_bytes, mib(allocator.live_blocks())[3])


TWO_HOLES = (  # 20 to 40 and 60 to 80 MiB, between them free
    *(alloc(1, 20 * MIB), alloc(2, 20 * MIB), alloc(3, 2 * MIB), alloc(4, 38 * MIB), alloc(5, 20 * MIB)),
    *(free(2), free(4), EMPTY, free(3)),
)


def test_a_run_of_several_holes_is_made_whole() -> None:
    allocator = after(*TWO_HOLES, alloc(6, 60 * MIB))
    assert (100 * MIB, (20, 60)) == (allocator.held.reserved_bytes, mib(allocator.live_blocks())[5])


def test_what_a_refused_request_had_mapped_is_in_the_peak_and_given_back() -> None:
    allocator = after(*TWO_HOLES, capacity_mib=120)
    allocator.capacity_bytes = 85 * MIB
    allocator.reset_peak()
    expected = AllocationFailure(
        step=8,
        requested_bytes=60 * MIB,
        asked_bytes=60 * MIB,
        free_bytes=45 * MIB,
        held=usage(40 * MIB, 40 * MIB, 40 * MIB),
    )
    assert (expected, 1) == (allocator.run([0], [60 * MIB]), allocator.retries)
    assert 80 * MIB == allocator.peak.reserved_bytes


def test_a_request_that_the_driver_refuses_gets_the_free_granules() -> None:
    allocator = after(alloc(1, 40 * MIB), alloc(2, 20 * MIB), free(1), alloc(3, 60 * MIB), capacity_mib=80)
    assert (usage(80 * MIB, 80 * MIB, 80 * MIB), 1) == (allocator.held, allocator.retries)


def test_the_error_names_the_segment_of_the_default_rules() -> None:
    failure = after(capacity_mib=30).run([0], [23 * MIB - 1])
    assert failure is not None
    assert (24 * MIB, 30 * MIB) == (failure.asked_bytes, failure.free_bytes)


def test_a_request_that_fits_in_no_run_gets_another_segment() -> None:
    events = (alloc(1, 50 * MIB), alloc(2, 10 * MIB), free(1), alloc(3, 60 * MIB))
    allocator = after(*events, capacity_mib=80, total_mib=80)
    assert (usage(70 * MIB, 70 * MIB, 80 * MIB), 1) == (allocator.held, allocator.retries)
    assert {1: (50, 10), 2: (100, 60)} == mib(allocator.live_blocks())


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_holes_of_two_segments_are_no_run(order: tuple[int, int]) -> None:
    events = [*(alloc(key, size * MIB) for key, size in enumerate((80, 20, 20, 20)))]  # the third begins another
    for key in order:
        events += [free(key), EMPTY]
    assert (140, 40) == mib(after(*events, alloc(4, 40 * MIB), total_mib=80).live_blocks())[4]


def test_memory_without_end_has_room_for_any_request() -> None:
    allocator = ExpandableAllocator(total_bytes=80 * MIB)
    assert None is allocator.run([0], [1000 * MIB])
    assert 1000 * MIB == allocator.held.reserved_bytes


def stretches(allocator: ExpandableAllocator, asked: dict[int, int]) -> list[Segment]:
    """The mapped stretches of an allocator, as a snapshot tells them. asked: bytes by request."""
    pieces = {at: Block(bytes=size, requested_bytes=None) for at, size in allocator.free_blocks().items()}
    for number, (at, size) in allocator.live_blocks().items():
        pieces[at] = Block(bytes=size, requested_bytes=asked[number])
    found: list[tuple[int, list[Block]]] = []
    for at in sorted(pieces):
        if not found or found[-1][0] + sum(block.bytes for block in found[-1][1]) != at:
            found.append((at, []))
        found[-1][1].append(pieces[at])
    return [Segment(address=at, small=at < TOTAL, blocks=tuple(blocks)) for at, blocks in found]


TOTAL = 4096 * MIB


@pytest.mark.parametrize("seed", SEEDS)
def test_a_state_taken_up_from_its_stretches_goes_on_the_same(seed: int) -> None:
    events = random_events(seed)
    first = ExpandableAllocator(total_bytes=TOTAL)
    numbers: dict[int, int] = {}
    feed(first, [alloc(-1, 1), alloc(-2, 2 * MIB), *events, EMPTY], numbers)
    asked = {numbers[key]: size for kind, key, size in [alloc(-1, 1), alloc(-2, 2 * MIB), *events] if key in numbers}
    again = ExpandableAllocator.holding(stretches(first, asked), total_bytes=TOTAL)
    assert (first.held, first.free_blocks()) == (again.held, again.free_blocks())
    before, twin = (first.held, first.free_blocks(), first.live_blocks()), first.copy()
    for allocator in (again, twin):
        feed(allocator, random_events(seed + 1000))
        allocator.empty_cache()
    assert (twin.held, twin.free_blocks(), twin.segments) == (again.held, again.free_blocks(), again.segments)
    assert before == (first.held, first.free_blocks(), first.live_blocks())


def test_live_blocks_of_a_state_are_requests_in_the_order_given() -> None:
    upper, lower = (
        Segment(address=at, small=False, blocks=(Block(bytes=20 * MIB, requested_bytes=at + 1),))
        for at in (40 * MIB, 0)
    )
    allocator = ExpandableAllocator.holding([upper, lower])
    assert {0: (40, 20), 1: (0, 20)} == mib(allocator.live_blocks())
    assert None is allocator.run([~0, 0], [30 * MIB])
    assert (20, 30) == mib(allocator.live_blocks())[2]


@pytest.mark.parametrize(
    "segment",
    [
        Segment(address=0, small=False, blocks=(Block(bytes=2 * MIB, requested_bytes=None),)),
        Segment(address=30 * MIB, small=False, blocks=(Block(bytes=20 * MIB, requested_bytes=1),)),
    ],
)
def test_stretches_that_are_no_granules_are_refused(segment: Segment) -> None:
    whole = Segment(address=0, small=False, blocks=(Block(bytes=20 * MIB, requested_bytes=1),))
    with pytest.raises(AllocatorError, match="not whole pieces of 20971520 B"):
        ExpandableAllocator.holding([whole, segment] if segment.address else [segment])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_reserved_is_live_or_free_and_no_two_blocks_overlap(seed: int) -> None:
    allocator, numbers = ExpandableAllocator(total_bytes=64 * MIB), dict[int, int]()
    for event in random_events(seed):
        feed(allocator, [event], numbers)
        blocks = sorted([*allocator.live_blocks().values(), *allocator.free_blocks().items()])
        assert all(one + size <= other for (one, size), (other, _) in pairwise(blocks))
        assert sum(size for _, size in blocks) == allocator.held.reserved_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_freeing_everything_leaves_nothing(seed: int) -> None:
    allocator, numbers = ExpandableAllocator(), dict[int, int]()
    feed(allocator, random_events(seed), numbers)
    feed(allocator, [*(free(key) for key in list(numbers)), EMPTY], numbers)
    assert (usage(0, 0, 0), {}, {}) == (allocator.held, allocator.free_blocks(), allocator.live_blocks())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_capacity_of_the_reserved_peak_suffices(seed: int) -> None:
    free_card = after(*random_events(seed))
    peak = free_card.peak.reserved_bytes
    full = ExpandableAllocator(capacity_bytes=peak)
    assert None is feed(full, random_events(seed))
    assert (free_card.peak, 0) == (full.peak, full.retries)
