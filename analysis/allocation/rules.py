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

Not modelled, and refused by :func:`analysis.allocation.simulation.require_default_rules` where a setting or a probe
shows it: expandable segments, a maximal split size, power-of-two rounding, garbage collection, another segment size,
no caching. Not modelled and not visible: more than one stream, private pools of CUDA graphs, and the addresses that the
driver chooses. Segments are put one above the other here, which only decides between free blocks of the same size in
different segments.

An event log holds the storages that the Python program makes. What the libraries allocate inside one op (the BLAS
workspace, a reduction's scratch) is not in it, so not in the prediction either.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

MIB = 2**20
MIN_BLOCK_BYTES = 512  # kMinBlockSize
SMALL_BYTES = MIB  # kSmallSize: the largest block of the small pool, and the largest rest that a large one keeps
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT_BYTES = 20 * MIB  # kLargeBuffer; the default of large_segment_size
OWN_SEGMENT_BYTES = 10 * MIB  # kMinLargeAlloc: from here on a block gets a segment of its size
SEGMENT_STEP_BYTES = 2 * MIB  # kRoundLarge

EventKind = Literal["alloc", "free", "empty_cache"]
Event = tuple[EventKind, int, int]
"""Kind, id and bytes. A "free" names the id of its "alloc"; its bytes and the numbers of "empty_cache" are unused."""


class AllocatorError(ValueError):
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

    event: position of the request. requested_bytes: what it asked for. asked_bytes: the segment that the driver
    refused, which is the number in torch's message. free_bytes: what the driver had left after all cached segments
    were given back. held: the counters at that moment.
    """

    event: int
    requested_bytes: int
    asked_bytes: int
    free_bytes: int
    held: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEvent:
    """A segment taken from the driver or given back, and the position of the event that caused it."""

    event: int
    action: Literal["segment_alloc", "segment_free"]
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


class _Pool:
    """The free blocks of one pool, by size and address (``BlockPool``)."""

    __slots__ = ("blocks", "order", "small")

    def __init__(self, small: bool) -> None:
        self.small = small
        self.order: list[tuple[int, int]] = []
        self.blocks: dict[int, _Block] = {}

    def add(self, block: "_Block") -> None:
        insort(self.order, (block.bytes, block.address))
        self.blocks[block.address] = block

    def remove(self, block: "_Block") -> None:
        del self.order[bisect_left(self.order, (block.bytes, block.address))]
        del self.blocks[block.address]

    def best_fit(self, size: int) -> "_Block | None":
        place = bisect_left(self.order, (size, 0))
        return self.blocks[self.order[place][1]] if place < len(self.order) else None

    def splits(self, rest: int) -> bool:
        return rest >= MIN_BLOCK_BYTES if self.small else rest > SMALL_BYTES


@dataclass(slots=True, eq=False)
class _Block:
    """A piece of a segment; ``before`` and ``after`` are its neighbours there."""

    address: int
    bytes: int
    pool: _Pool
    free: bool = False
    before: "_Block | None" = None
    after: "_Block | None" = None


@dataclass(slots=True)
class _Counter:
    """A current value and its high-water mark (``Stat``)."""

    now: int = 0
    peak: int = 0

    def add(self, amount: int) -> None:
        self.now += amount
        if self.now > self.peak:
            self.peak = self.now


@dataclass(slots=True, kw_only=True)
class CachingAllocator:
    """The allocator's state. ``capacity_bytes``: all that the driver can give, ``None`` for without end.

    place: the address for the next segment of so many bytes; by default they are put one above the other. segments:
    what was asked of the driver and given back, in order.
    """

    capacity_bytes: int | None = None
    place: Callable[[int], int | None] = lambda size: None
    segments: list[SegmentEvent] = field(default_factory=list)
    _event: int = 0
    _top: int = 0
    _small: _Pool = field(default_factory=lambda: _Pool(small=True))
    _large: _Pool = field(default_factory=lambda: _Pool(small=False))
    _live: dict[int, tuple[_Block | None, int]] = field(default_factory=dict)
    _requested: _Counter = field(default_factory=_Counter)
    _allocated: _Counter = field(default_factory=_Counter)
    _reserved: _Counter = field(default_factory=_Counter)

    @property
    def held(self) -> Usage:
        """The counters now."""
        return self._usage("now")

    @property
    def peak(self) -> Usage:
        """Each counter's high-water mark since the last reset."""
        return self._usage("peak")

    def _usage(self, which: Literal["now", "peak"]) -> Usage:
        return Usage(
            requested_bytes=getattr(self._requested, which),
            allocated_bytes=getattr(self._allocated, which),
            reserved_bytes=getattr(self._reserved, which),
        )

    def live_blocks(self) -> dict[int, tuple[int, int]]:
        """Address and size of the block of every live id; requests of 0 B have none."""
        return {key: (block.address, block.bytes) for key, (block, _) in self._live.items() if block is not None}

    def address(self, key: int) -> int | None:
        """Address of a live id's block; ``None`` for a request of 0 B."""
        block = self._live[key][0]
        return None if block is None else block.address

    def reset_peak(self) -> None:
        """Sets every peak to its current value (``reset_peak_memory_stats``)."""
        for counter in (self._requested, self._allocated, self._reserved):
            counter.peak = counter.now

    def apply(self, position: int, event: Event) -> AllocationFailure | None:
        """Carries out the event at this position; :class:`AllocatorError` if it makes no sense there."""
        self._event = position
        kind, key, size = event
        if kind == "alloc":
            return self._allocate(key, size)
        if kind == "free":
            self._free(key)
        elif kind == "empty_cache":
            self.empty_cache()
        else:
            raise AllocatorError(f"event {position}: unknown kind {kind!r}")
        return None

    def empty_cache(self) -> None:
        """Gives every segment that is one free block back to the driver."""
        for pool in (self._large, self._small):
            whole = [block for _, address in pool.order if _is_whole(block := pool.blocks[address])]
            for block in whole:
                pool.remove(block)
                self._reserved.add(-block.bytes)
                self._note("segment_free", block)

    def _allocate(self, key: int, requested: int) -> AllocationFailure | None:
        if key in self._live or requested < 0:
            what = "is live already" if key in self._live else f"asks for {requested} B"
            raise AllocatorError(f"event {self._event}: id {key} {what}")
        if requested == 0:
            self._live[key] = None, 0
            return None
        size = block_bytes(requested)
        pool = self._small if size <= SMALL_BYTES else self._large
        block = pool.best_fit(size)
        if block is not None:
            pool.remove(block)
        elif (block := self._new_segment(size, pool)) is None:
            return self._failure(requested, segment_bytes(size))
        if pool.splits(block.bytes - size):
            _split(block, size)
        block.free = False
        self._live[key] = block, requested
        self._requested.add(requested)
        self._allocated.add(block.bytes)
        return None

    def _new_segment(self, size: int, pool: _Pool) -> _Block | None:
        asked = segment_bytes(size)
        if not self._has_room(asked):
            self.empty_cache()
            if not self._has_room(asked):
                return None
        given = self.place(asked)
        block = _Block(self._top if given is None else given, asked, pool)
        self._top = max(self._top, block.address + asked)
        self._reserved.add(asked)
        self._note("segment_alloc", block)
        return block

    def _has_room(self, asked: int) -> bool:
        return self.capacity_bytes is None or self._reserved.now + asked <= self.capacity_bytes

    def _failure(self, requested: int, asked: int) -> AllocationFailure:
        assert self.capacity_bytes is not None
        return AllocationFailure(
            event=self._event,
            requested_bytes=requested,
            asked_bytes=asked,
            free_bytes=self.capacity_bytes - self._reserved.now,
            held=self.held,
        )

    def _free(self, key: int) -> None:
        if key not in self._live:
            raise AllocatorError(f"event {self._event}: id {key} is not live")
        block, requested = self._live.pop(key)
        if block is None:
            return
        self._requested.add(-requested)
        self._allocated.add(-block.bytes)
        _merge_neighbours(block)
        block.free = True
        block.pool.add(block)

    def _note(self, action: Literal["segment_alloc", "segment_free"], block: _Block) -> None:
        self.segments.append(
            SegmentEvent(event=self._event, action=action, address=block.address, bytes=block.bytes),
        )


def _is_whole(block: _Block) -> bool:
    return block.before is None and block.after is None


def _split(block: _Block, size: int) -> None:
    """Cuts ``block`` down to its first ``size`` bytes; the rest becomes a free block after it."""
    rest = _Block(block.address + size, block.bytes - size, block.pool, True, block, block.after)
    if block.after is not None:
        block.after.before = rest
    block.after = rest
    block.bytes = size
    block.pool.add(rest)


def _merge_neighbours(block: _Block) -> None:
    """Takes the free neighbours of ``block``, which is in no pool, into it."""
    before, after = block.before, block.after
    if before is not None and before.free:
        block.pool.remove(before)
        block.address = before.address
        block.bytes += before.bytes
        block.before = before.before
        if block.before is not None:
            block.before.after = block
    if after is not None and after.free:
        block.pool.remove(after)
        block.bytes += after.bytes
        block.after = after.after
        if block.after is not None:
            block.after.before = block
