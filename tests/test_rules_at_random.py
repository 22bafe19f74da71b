"""What holds of the caching allocator whatever is asked of it, on random events."""

from itertools import pairwise

import pytest

from tests.allocated import EMPTY, MIB, Event, after, feed, fitted, free, random_events, refused, usage
from vram_ledger.analysis.allocation.rules import CachingAllocator, block_bytes, segment_bytes

SEEDS = range(20)


def freeing_the_rest(events: list[Event]) -> list[Event]:
    freed = {key for kind, key, _ in events if kind == "free"}
    return [free(key) for kind, key, _ in events if kind == "alloc" and key not in freed]


@pytest.mark.parametrize("seed", SEEDS)
def test_reserved_is_never_below_allocated_nor_that_below_requested(seed: int) -> None:
    allocator, numbers = CachingAllocator(), dict[int, int]()
    for event in random_events(seed):
        feed(allocator, [event], numbers)
        held = allocator.held
        assert held.reserved_bytes >= held.allocated_bytes >= held.requested_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_live_blocks_never_overlap(seed: int) -> None:
    allocator, numbers = CachingAllocator(), dict[int, int]()
    for event in random_events(seed):
        feed(allocator, [event], numbers)
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
def test_a_program_in_one_go_and_one_that_goes_on_from_copies_need_the_same(seed: int) -> None:
    events = [event for event in random_events(seed) if event[0] == "alloc"]
    sizes = [size for _, _, size in events]
    whole = CachingAllocator()
    whole.run(range(len(sizes)), sizes)
    part = CachingAllocator()
    for size in sizes:
        part.run([0], [size])
        part = part.copy()
    assert (whole.held, whole.peak, whole.free_blocks()) == (part.held, part.peak, part.free_blocks())


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
    allocator, numbers = CachingAllocator(), dict[int, int]()
    seen = []
    for event in events:
        feed(allocator, [event], numbers)
        seen.append((allocator.held.allocated_bytes, allocator.held.reserved_bytes))
    assert plainly_simulated(events) == seen
