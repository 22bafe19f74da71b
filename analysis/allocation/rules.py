"""From requested to allocated and reserved: the rules of PyTorch's CUDA caching allocator, over a list of events.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp``, read at pytorch commit 001074d25084; the functions named
below are its own. Of torch 2.13.0 only the headers were at hand: ``c10/core/AllocatorConfig.h`` (git cf30153c4c13) has
the same constants and defaults. The probes of a machine say whether they hold there.

- a request is rounded up to a multiple of 512 B (``round_size``); one of 0 B takes no block;
- blocks of at most 1 MiB live in the small pool, all others in the large pool (``get_pool``);
- the smallest free block of the pool that fits is taken, of equals the one at the lowest address (``get_free_block``);
- if there is none, the driver is asked for a segment: 2 MiB for the small pool, 20 MiB for a block of less than
  10 MiB, and for a block of 10 MiB or more its size rounded up to 2 MiB (``get_allocation_size``);
- a block is split if at least 512 B (small pool) or more than 1 MiB (large pool) would remain; a rest that is not
  split off is handed out with the block and counts as allocated (``should_split``);
- a freed block merges with the free blocks before and after it in its segment (``try_merge_blocks``);
- ``empty_cache`` gives back every segment that is one free block (``release_blocks``); so does an allocation that the
  driver refuses, before it asks a second time (``malloc``).

Expandable segments have rules of their own, see :mod:`analysis.allocation.expandable`. Not modelled, and refused by
:func:`analysis.allocation.settings.rules_of` where a setting or a probe shows it: a maximal split size, power-of-two
rounding, garbage collection, another segment size, no caching. Not modelled and not visible: more than one stream,
private pools of CUDA graphs, and the addresses that the driver chooses. Segments are put one above the other here,
which only decides between free blocks of the same size in different segments.

A program is a list of steps. A step of 0 or more is a request, of the size with that number; -n - 1 frees the n-th
request of all, counted from 0. A request that failed counts and holds nothing, so a program that caught the error can
go on.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, Self

from vram_ledger.errors import InputError

MIB = 2**20
MIN_BLOCK_BYTES = 512  # kMinBlockSize
SMALL_BYTES = MIB  # kSmallSize: the largest block of the small pool, and the largest rest that a large one keeps
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT_BYTES = 20 * MIB  # kLargeBuffer; the default of large_segment_size
OWN_SEGMENT_BYTES = 10 * MIB  # kMinLargeAlloc: from here on a block gets a segment of its size
SEGMENT_STEP_BYTES = 2 * MIB  # kRoundLarge

ADDRESS_BITS = 48  # of a free block's number: its size above, its address below
ADDRESSES = (1 << ADDRESS_BITS) - 1
SegmentAction = Literal["segment_alloc", "segment_free", "segment_map", "segment_unmap"]
COUNTERS = ("requested_bytes", "allocated_bytes", "reserved_bytes")


class AllocatorError(InputError):
    """A sequence, a recording or a machine that these rules can't follow; the message says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The allocator's three counters. A peak has each one's own high-water mark; they need not be simultaneous."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationFailure:
    """A sequence that ran out of memory: a result, not a fault.

    step: which of the steps it was. requested_bytes: what it asked for. asked_bytes: the number in torch's message,
    "Tried to allocate", which is the segment that its block would get. free_bytes: what the driver had left after all
    cached segments were given back. held: the counters at that moment.
    """

    step: int
    requested_bytes: int
    asked_bytes: int
    free_bytes: int
    held: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEvent:
    """Memory taken from the driver or given back, and the number of steps that were done before.

    "segment_map" and "segment_unmap" are a part of an expandable segment.
    """

    step: int
    action: SegmentAction
    address: int
    bytes: int


def block_bytes(requested_bytes: int) -> int:
    """Size of the block that a request needs (``round_size``)."""
    return max(1, -(-requested_bytes // MIN_BLOCK_BYTES)) * MIN_BLOCK_BYTES


def segment_bytes(block: int) -> int:
    """Size of the segment that is asked of the driver for a block (``get_allocation_size``)."""
    if block <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if block < OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-block // SEGMENT_STEP_BYTES) * SEGMENT_STEP_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A piece of a segment. requested_bytes: what the program asked for, ``None`` of a free piece."""

    bytes: int
    requested_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Memory taken from the driver, and the pieces that it is cut into, in order and without gaps."""

    address: int
    small: bool
    blocks: tuple[Block, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(block.bytes for block in self.blocks)


class CachingAllocator:
    """The allocator's state. ``capacity_bytes``: all that the driver can give, ``None`` for without end.

    ``place`` gives the address for the next segment of so many bytes; by default they are put one above the other.
    ``segments``: what was asked of the driver and given back, in order. ``retries``: how often the driver was asked
    again after the cache was given back, with success or without (``num_alloc_retries``).
    """

    plain = True  # whether the smallest block that fits is always the one to take
    largest_rest_bytes = SMALL_BYTES  # what a large block keeps rather than be split

    def __init__(
        self, *, capacity_bytes: int | None = None, place: Callable[[int], int | None] = lambda size: None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.place = place
        self.segments: list[SegmentEvent] = []
        self.retries = 0
        self.steps = 0
        self._small: list[int] = []  # free blocks, as numbers that sort by size, then address
        self._large: list[int] = []
        self._end_of: dict[int, int] = {}  # free blocks again, by their start
        self._start_of: dict[int, int] = {}  # and by their end
        self._bounds: dict[int, int] = {}  # segments: bytes by address
        self._top = 0
        # Address, bytes, requested bytes and pool; () of a request that holds nothing, None of one that was freed.
        self._requests: list[tuple[int, int, int, list[int]] | tuple[()] | None] = []
        self._now = [0, 0, 0]
        self._peak = [0, 0, 0]

    @classmethod
    def holding(cls, segments: Iterable[Segment], capacity_bytes: int | None = None) -> Self:
        """An allocator in a given state. Live blocks are requests, numbered as they come."""
        allocator = cls(capacity_bytes=capacity_bytes)
        allocator._hold(segments)
        return allocator

    def _hold(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            self._put(segment)
        self.reset_peak()

    def _put(self, segment: Segment) -> None:
        at, pool = segment.address, self._small if segment.small else self._large
        self._bounds[at] = segment.bytes
        for block in segment.blocks:
            if block.requested_bytes is None:
                self._add_free(pool, at, at + block.bytes)
            else:
                self._requests.append((at, block.bytes, block.requested_bytes, pool))
                self._now[0] += block.requested_bytes
                self._now[1] += block.bytes
            at += block.bytes
        self._now[2] += segment.bytes
        self._top = max(self._top, at)

    def copy(self, capacity_bytes: int | None = None) -> Self:
        """One in the same state for another program, whose requests count from 0; what is alive now stays for good."""
        twin = copy(self)
        twin.capacity_bytes = capacity_bytes
        twin.segments, twin.retries, twin.steps, twin._requests = [], 0, 0, []
        twin._small, twin._large = self._small.copy(), self._large.copy()
        twin._end_of, twin._start_of, twin._bounds = self._end_of.copy(), self._start_of.copy(), self._bounds.copy()
        twin._now, twin._peak = self._now.copy(), self._peak.copy()
        return twin

    @property
    def held(self) -> Usage:
        """The counters now."""
        return Usage(**dict(zip(COUNTERS, self._now, strict=True)))

    @property
    def peak(self) -> Usage:
        """Each counter's high-water mark since the last reset."""
        return Usage(**dict(zip(COUNTERS, self._peak, strict=True)))

    @property
    def requests(self) -> int:
        """How many requests there have been, those of 0 B included: the number of the next."""
        return len(self._requests)

    def live_blocks(self) -> dict[int, tuple[int, int]]:
        """Address and size of the block of every request that is alive; those of 0 B have none."""
        return {number: (request[0], request[1]) for number, request in enumerate(self._requests) if request}

    def block_of(self, number: int) -> tuple[int, int] | None:
        """Address and size of the block of one request; ``None`` if it holds nothing."""
        request = self._requests[number]
        return (request[0], request[1]) if request else None

    def free_blocks(self) -> dict[int, int]:
        """Size by address of every free block."""
        return {at: end - at for at, end in self._end_of.items()}

    def free_in_pools(self) -> list[tuple[int, int, int, bool]]:
        """Of every free block: its address, size, pool (0 small, 1 large), and whether it is all its segment."""
        return [
            (
                block & ADDRESSES,
                block >> ADDRESS_BITS,
                kind,
                self._bounds.get(block & ADDRESSES) == block >> ADDRESS_BITS,
            )
            for kind, pool in enumerate((self._small, self._large))
            for block in pool
        ]

    @property
    def top(self) -> int:
        """Where the next segment lies, if nobody says."""
        return self._top

    def reset_peak(self) -> None:
        """Sets every peak to its current value (``reset_peak_memory_stats``)."""
        self._peak = self._now.copy()

    def run(self, steps: Sequence[int], sizes: Sequence[int]) -> AllocationFailure | None:
        """Carries out steps, up to the first that finds no memory; :class:`AllocatorError` if one makes no sense."""
        small, large, requests = self._small, self._large, self._requests
        end_of, start_of, bounds = self._end_of, self._start_of, self._bounds
        requested, allocated, _ = self._now
        most_requested, most_allocated, _ = self._peak
        begun, largest_rest, plain = self.steps, self.largest_rest_bytes, self.plain
        failed: int | None = None
        blocks = [block_bytes(size) for size in sizes]
        keys = [size << ADDRESS_BITS for size in blocks]
        add_request = requests.append
        try:
            for number, step in enumerate(steps, begun):
                if step >= 0:
                    if (asked := sizes[step]) <= 0:
                        add_request(self._nothing(number, asked))
                        continue
                    size = blocks[step]
                    pool, most_rest = (small, 0) if size <= SMALL_BYTES else (large, largest_rest)
                    place = bisect_left(pool, keys[step])
                    if place < len(pool):
                        block = pool.pop(place if plain else self._chosen(pool, place))
                        at = block & ADDRESSES
                        end = end_of.pop(at)
                        del start_of[end]
                    else:
                        self.steps = number
                        if (found := self._new_block(size, pool)) is None:
                            add_request(())
                            failed = asked
                            break
                        at, end = found
                    rest = end - at - size
                    if rest > most_rest:
                        cut = at + size
                        insort(pool, rest << ADDRESS_BITS | cut)
                        end_of[cut] = end
                        start_of[end] = cut
                        end = cut
                    size = end - at
                    add_request((at, size, asked, pool))
                    requested += asked
                    allocated += size
                    if requested > most_requested:
                        most_requested = requested
                    if allocated > most_allocated:
                        most_allocated = allocated
                else:
                    if not (request := requests[~step]):
                        if request is None:
                            raise AllocatorError(f"step {number} frees request {~step}, which was freed before")
                        requests[~step] = None
                        continue
                    requests[~step] = None
                    at, size, asked, pool = request
                    requested -= asked
                    allocated -= size
                    end = at + size
                    if at in start_of and at not in bounds:
                        before = start_of.pop(at)
                        del pool[bisect_left(pool, (at - before) << ADDRESS_BITS | before)]
                        at = before
                    if end in end_of and end not in bounds:
                        after = end_of.pop(end)
                        del pool[bisect_left(pool, (after - end) << ADDRESS_BITS | end)]
                        end = after
                    insort(pool, (end - at) << ADDRESS_BITS | at)
                    end_of[at] = end
                    start_of[end] = at
        except IndexError as error:
            raise AllocatorError(
                f"step {number} is {step}: there is no such {'size' if step >= 0 else 'request'}"
            ) from error
        self.steps = begun + len(steps) if failed is None else number + 1
        self._now[:2] = requested, allocated
        self._peak[:2] = most_requested, most_allocated
        return None if failed is None else self._failure(failed)

    def empty_cache(self) -> None:
        """Gives every segment that is one free block back to the driver."""
        for pool in (self._large, self._small):
            for block in pool.copy():
                at, size = block & ADDRESSES, block >> ADDRESS_BITS
                if self._bounds.get(at) == size:
                    self._take_free(pool, block)
                    del self._bounds[at]
                    self._now[2] -= size
                    self._note("segment_free", at, size)

    def _new_block(self, size: int, pool: list[int]) -> tuple[int, int] | None:
        """Start and end of a block of at least this size from the driver, if need be for the cache; ``None`` if not."""
        if found := self._from_driver(size, pool):
            return found
        self.retries += 1
        self.empty_cache()
        return self._from_driver(size, pool)

    def _from_driver(self, size: int, pool: list[int]) -> tuple[int, int] | None:
        """The same from what the driver has left."""
        asked = segment_bytes(size)
        if not self._has_room(asked):
            return None
        at = self._new_bounds(asked)
        self._count_reserved(asked)
        self._note("segment_alloc", at, asked)
        return at, at + asked

    def _new_bounds(self, size: int) -> int:
        """The address of a segment of this size, which from now on has its bounds there."""
        given = self.place(size)
        at = self._top if given is None else given
        self._top = max(self._top, at + size)
        self._bounds[at] = size
        return at

    def _chosen(self, pool: list[int], place: int) -> int:
        """Which free block of a pool to take, if the one at this place is the smallest that fits."""
        return place

    def _count_reserved(self, size: int) -> None:
        self._now[2] += size
        self._peak[2] = max(self._peak[2], self._now[2])

    def _has_room(self, asked: int) -> bool:
        return self.capacity_bytes is None or self._now[2] + asked <= self.capacity_bytes

    def _nothing(self, step: int, asked: int) -> tuple[()]:
        """What a request of 0 B holds, which the allocator never sees."""
        if asked < 0:
            raise AllocatorError(f"step {step} asks for {asked} B")
        return ()

    def _failure(self, requested: int) -> AllocationFailure:
        assert self.capacity_bytes is not None, "a driver without end refuses nothing"
        return AllocationFailure(
            step=self.steps - 1,
            requested_bytes=requested,
            asked_bytes=segment_bytes(block_bytes(requested)),
            free_bytes=self.capacity_bytes - self._now[2],
            held=self.held,
        )

    def _add_free(self, pool: list[int], start: int, end: int) -> None:
        insort(pool, (end - start) << ADDRESS_BITS | start)
        self._end_of[start] = end
        self._start_of[end] = start

    def _take_free(self, pool: list[int], block: int) -> None:
        del pool[bisect_left(pool, block)]
        del self._start_of[self._end_of.pop(block & ADDRESSES)]

    def _note(self, action: SegmentAction, address: int, size: int) -> None:
        self.segments.append(SegmentEvent(step=self.steps, action=action, address=address, bytes=size))
