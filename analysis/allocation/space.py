"""The memory of one device as a recording tells it, by address: what each event does to it, and what it undoes.

Where a block lies is read, never chosen. Only the size of a block follows from a rule: a request is rounded up, and a
rest that is too small to split off stays with it (``round_size`` and ``should_split``, see
:mod:`analysis.allocation.rules`).
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vram_ledger.analysis.allocation.plain import SnapshotError
from vram_ledger.analysis.allocation.rules import (
    LARGE_SEGMENT_BYTES,
    MIN_BLOCK_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
    Block,
    Segment,
    block_bytes,
)
from vram_ledger.analysis.allocation.snapshot import Entry, RecordedSegment


@dataclass(slots=True)
class Live:
    """A block that is alive. unsure_bytes: how much larger it may be than what is known of it."""

    bytes: int
    requested_bytes: int
    frame: str
    pending: bool = False
    unsure_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A segment: taken from the driver as one piece, or a stretch of mapped memory of an expandable one."""

    bytes: int
    small: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What reserved memory is made of at a moment; the parts add up to it.

    requested_bytes, rounding_bytes: of the blocks that are given out. pending_bytes: freed, but another stream may use
    it yet. pinned_large_bytes, pinned_small_bytes: free memory in segments that a live block keeps from the driver.
    cached_bytes: segments that are one free block, or whole pieces of an expandable one that are free; ``empty_cache``
    gives them back. pinned_segments: how many segments have pinned free memory. largest_pinned_bytes: the largest of
    that in one piece. largest_large_bytes, largest_small_bytes: the largest free block of either pool, pinned or not.
    """

    requested_bytes: int
    rounding_bytes: int
    pending_bytes: int
    pinned_large_bytes: int
    pinned_small_bytes: int
    cached_bytes: int
    pinned_segments: int
    largest_pinned_bytes: int
    largest_large_bytes: int
    largest_small_bytes: int

    @property
    def allocated_bytes(self) -> int:
        """``torch.cuda.memory_allocated``."""
        return self.requested_bytes + self.rounding_bytes

    @property
    def unusable_bytes(self) -> int:
        """Reserved, free, and not to be had for anything but a request that fits into one of the pieces."""
        return self.pinned_large_bytes + self.pinned_small_bytes

    @property
    def reserved_bytes(self) -> int:
        """``torch.cuda.memory_reserved``."""
        return self.allocated_bytes + self.pending_bytes + self.unusable_bytes + self.cached_bytes


class Space:
    """Segments, live and free blocks. ``allocated_bytes`` leaves out what is pending, as torch's counter does.

    expandable: whether its segments are stretches of mapped memory, which grow, shrink, join and part.

    :meth:`do` and :meth:`undo` raise :class:`SnapshotError` for an event that this memory can't have seen.
    """

    def __init__(self, segments: Iterable[RecordedSegment], expandable: bool = False) -> None:
        self.expandable = expandable
        self.extents: dict[int, Extent] = {}
        self.live: dict[int, Live] = {}
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self._order: list[int] = []  # addresses of segments, ascending
        self._live_to: dict[int, int] = {}  # start of a live block by its end
        self._free: dict[int, int] = {}  # end of a free block by its start
        self._free_to: dict[int, int] = {}  # and its start by its end
        self._free_order: list[int] = []  # starts of free blocks, ascending
        for segment in segments:
            self._add_extent(segment.address, Extent(bytes=segment.bytes, small=segment.small))
            for block in segment.blocks:
                if block.requested_bytes is None:
                    self._add_free(block.address, block.address + block.bytes)
                else:
                    self._add_live(block.address, Live(block.bytes, block.requested_bytes, block.frame, block.pending))

    def do(self, entry: Entry) -> None:
        """Carries out one event."""
        match entry.action:
            case "alloc":
                self._take(entry)
            case "free_requested":
                self._set_pending(entry, True)
            case "free_completed":
                self._known(entry)
                self._release(entry.address)
            case "segment_alloc" | "segment_map":
                self._map(entry)
            case "segment_free" | "segment_unmap":
                self._unmap(entry)

    def undo(self, entry: Entry) -> None:
        """Takes one event back, from the memory as it was after it."""
        match entry.action:
            case "alloc":
                self._known(entry)
                self._settle(entry.address)
                self._release(entry.address)
            case "free_requested":
                self._set_pending(entry, False)
            case "free_completed":
                self._give_again(entry)
            case "segment_alloc" | "segment_map":
                self._unmap(entry)
            case "segment_free" | "segment_unmap":
                self._map(entry)

    def segments(self) -> tuple[Segment, ...]:
        """The state as the rules take it; pending blocks are live there."""
        return tuple(
            Segment(
                address=at,
                small=self.extents[at].small,
                blocks=tuple(Block(bytes=size, requested_bytes=asked) for _, size, asked in self._pieces(at)),
            )
            for at in self._order
        )

    def differs_from(self, segments: Iterable[RecordedSegment]) -> str:
        """Where this state is not the recorded one, in words; "" if it is."""
        recorded = {segment.address: segment for segment in segments}
        for at in sorted(recorded.keys() | self.extents.keys()):
            found = list(self._pieces(at)) if at in self.extents else []
            told = [(b.address, b.bytes, b.requested_bytes) for b in recorded[at].blocks] if at in recorded else []
            if found != told:
                own, other = next(((f, t) for f, t in zip(found, told, strict=False) if f != t), (found[:1], told[:1]))
                return f"segment {at:#x}: the events lead to {own}, recorded is {other} (address, bytes, requested)"
        return ""

    def made(self) -> Made:
        """What reserved memory is made of now."""
        pinned, largest, whole = {True: 0, False: 0}, {True: 0, False: 0}, 0
        pinned_segments, largest_pinned = set[int](), 0
        for start, end in self._free.items():
            at, extent = self._extent_of(start)
            largest[extent.small] = max(largest[extent.small], end - start)
            pieces = self._pinned(start, end, at, extent)
            whole += end - start - sum(pieces)
            pinned[extent.small] += sum(pieces)
            largest_pinned = max(largest_pinned, *pieces)
            if any(pieces):
                pinned_segments.add(at)
        given = [block for block in self.live.values() if not block.pending]
        return Made(
            requested_bytes=sum(block.requested_bytes for block in given),
            rounding_bytes=sum(block.bytes - block.requested_bytes for block in given),
            pending_bytes=sum(block.bytes for block in self.live.values() if block.pending),
            pinned_large_bytes=pinned[False],
            pinned_small_bytes=pinned[True],
            cached_bytes=whole,
            pinned_segments=len(pinned_segments),
            largest_pinned_bytes=largest_pinned,
            largest_large_bytes=largest[False],
            largest_small_bytes=largest[True],
        )

    def _pinned(self, start: int, end: int, at: int, extent: Extent) -> tuple[int, int]:
        """What of a free block can't be given back: before its first and after its last whole piece of the segment."""
        piece = _granule(extent.small) if self.expandable else extent.bytes
        first, last = at - (at - start) // piece * piece, at + (end - at) // piece * piece
        return (first - start, end - last) if first < last else (end - start, 0)

    def by_frame(self) -> dict[str, tuple[int, int]]:
        """Bytes and number of the blocks that are given out, by frame."""
        found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for block in self.live.values():
            if not block.pending:
                size, count = found[block.frame]
                found[block.frame] = size + block.bytes, count + 1
        return dict(found)

    # ---- one event ----

    def _take(self, entry: Entry) -> None:
        at, size = entry.address, block_bytes(entry.size_bytes)
        end = self._free.get(at)
        if end is None or end - at < size:
            raise _impossible(entry, "no free block begins there that is large enough")
        if self._splits(end - at - size, self._extent_of(at)[1].small):
            self._remove_free(at)
            self._add_free(at + size, end)
            end = at + size
        else:
            self._remove_free(at)
        self._add_live(at, Live(end - at, entry.size_bytes, entry.frame))

    def _give_again(self, entry: Entry) -> None:
        """Undoes a free: the block had its rounded size, or all up to its neighbour if no rest was split off."""
        at, size = entry.address, block_bytes(entry.size_bytes)
        start, end = self._free_around(at)
        if at + size > end:
            raise _impossible(entry, "what was freed there is not free afterwards")
        small = self._extent_of(at)[1].small
        rest = end - at - size
        self._remove_free(start)
        block = Live(size, entry.size_bytes, "", pending=True)
        if self._splits(rest, small):
            self._add_free(at + size, end)
            # Its neighbour may have been freed before it, and a rest may lie in between; see _settle.
            block.unsure_bytes = (
                0 if small or self.expandable else min(SMALL_BYTES, rest - SMALL_BYTES - MIN_BLOCK_BYTES)
            )
        else:
            block.bytes += rest
        if at > start and not self._splits(at - start, small):
            self._widen(start, at, entry)
        elif at > start:
            self._add_free(start, at)
        self._add_live(at, block)
        self._settle(at)

    def _widen(self, start: int, end: int, entry: Entry) -> None:
        """Gives a gap that is too small to have been a block to the live block before it, whose rest it was."""
        if (owner := self._live_to.pop(start, None)) is None or not self._same_extent(owner, start):
            raise _impossible(entry, f"before it lie {end - start} B that no block can be")
        block = self.live[owner]
        block.bytes += end - start
        block.unsure_bytes = 0
        self._live_to[end] = owner
        if not block.pending:
            self.allocated_bytes += end - start

    def _settle(self, at: int) -> None:
        """A block begins here, so the one before it ends here, and is no larger."""
        if (before := self._live_to.get(at)) is not None:
            self.live[before].unsure_bytes = 0

    def _release(self, at: int) -> None:
        block = self.live.pop(at)
        start, end = at, at + block.bytes
        del self._live_to[end]
        if not block.pending:
            self.allocated_bytes -= block.bytes
        self._merge_free(start, end)

    def _known(self, entry: Entry) -> Live:
        block = self.live.get(entry.address)
        if block is None or block.requested_bytes != entry.size_bytes:
            has = "nothing alive is there" if block is None else f"a block of {block.requested_bytes} B is there"
            raise _impossible(entry, has)
        return block

    def _set_pending(self, entry: Entry, pending: bool) -> None:
        block = self._known(entry)
        if block.pending == pending:
            raise _impossible(entry, "it is freed already" if pending else "it is not freed afterwards")
        block.pending = pending
        self.allocated_bytes += -block.bytes if pending else block.bytes

    def _map(self, entry: Entry) -> None:
        """Memory that the driver gives: a segment, or a stretch that joins what is mapped beside it."""
        at, end = entry.address, entry.address + entry.size_bytes
        place = bisect_left(self._order, at)
        before = self._order[place - 1] if place else None
        after = self._order[place] if place < len(self._order) else None
        before_end = at - 1 if before is None else before + self.extents[before].bytes
        if before_end > at or (after is not None and after < end):
            raise _impossible(entry, "a segment is there already")
        small = entry.size_bytes % LARGE_SEGMENT_BYTES != 0 if self.expandable else end - at == SMALL_SEGMENT_BYTES
        start = at
        if self.expandable and before is not None and before_end == at:
            start, small = before, self._remove_extent(before).small
        if self.expandable and after == end:
            end += self._remove_extent(end).bytes
        self._add_extent(start, Extent(bytes=end - start, small=small))
        self._merge_free(at, at + entry.size_bytes)

    def _unmap(self, entry: Entry) -> None:
        """Memory that goes back to the driver: a segment that is free, or a part of a stretch that is."""
        at, end = entry.address, entry.address + entry.size_bytes
        free, free_end = self._free_around(at)
        start, extent = self._extent_of(at) if free_end else (0, Extent(bytes=0, small=False))
        if free_end < end or not (self.expandable or (start, extent.bytes) == (at, entry.size_bytes)):
            raise _impossible(entry, "there is no segment of this size that is free as a whole")
        self._remove_free(free)
        self._remove_extent(start)
        for left, right in ((start, at), (end, start + extent.bytes)):
            if left < right:
                self._add_extent(left, Extent(bytes=right - left, small=extent.small))
        for left, right in ((free, at), (end, free_end)):
            if left < right:
                self._add_free(left, right)

    def _free_around(self, at: int) -> tuple[int, int]:
        """The free block that an address is in; nothing if it is in none."""
        place = bisect_right(self._free_order, at) - 1
        start = self._free_order[place] if place >= 0 else 0
        end = self._free.get(start, 0)
        return (start, end) if at < end else (0, 0)

    def _merge_free(self, start: int, end: int) -> None:
        """Makes memory free, as one block with what is free beside it in its segment."""
        if start in self._free_to and start not in self.extents:
            start = self._remove_free(self._free_to[start])
        if end in self._free and end not in self.extents:
            end = self._free[end]
            self._remove_free(self._free_to[end])
        self._add_free(start, end)

    def _splits(self, rest: int, small: bool) -> bool:
        """Whether a rest becomes a block of its own (``should_split``)."""
        return rest > (0 if small or self.expandable else SMALL_BYTES)

    # ---- the tables ----

    def _pieces(self, at: int) -> Iterator[tuple[int, int, int | None]]:
        """Address, bytes and requested bytes (of a free one ``None``) of a segment's blocks."""
        end = at + self.extents[at].bytes
        while at < end:
            if (block := self.live.get(at)) is not None:
                yield at, block.bytes, block.requested_bytes
                at += block.bytes
            else:
                yield at, self._free[at] - at, None
                at = self._free[at]

    def _extent_of(self, at: int) -> tuple[int, Extent]:
        start = self._order[bisect_right(self._order, at) - 1]
        return start, self.extents[start]

    def _same_extent(self, at: int, other: int) -> bool:
        return self._extent_of(at)[0] == self._extent_of(other)[0]

    def _add_extent(self, at: int, extent: Extent) -> None:
        self.extents[at] = extent
        insort(self._order, at)
        self.reserved_bytes += extent.bytes

    def _remove_extent(self, at: int) -> Extent:
        extent = self.extents.pop(at)
        del self._order[bisect_left(self._order, at)]
        self.reserved_bytes -= extent.bytes
        return extent

    def _add_live(self, at: int, block: Live) -> None:
        self.live[at] = block
        self._live_to[at + block.bytes] = at
        if self.expandable:  # what is mapped does not say for which pool; what lies in it does
            start, extent = self._extent_of(at)
            self.extents[start] = replace(extent, small=block_bytes(block.requested_bytes) <= SMALL_BYTES)
        if not block.pending:
            self.allocated_bytes += block.bytes

    def _add_free(self, start: int, end: int) -> None:
        self._free[start] = end
        self._free_to[end] = start
        insort(self._free_order, start)

    def _remove_free(self, start: int) -> int:
        del self._free_to[self._free.pop(start)]
        del self._free_order[bisect_left(self._free_order, start)]
        return start


def _granule(small: bool) -> int:
    """What an expandable segment maps at a time."""
    return SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES


def _impossible(entry: Entry, why: str) -> SnapshotError:
    return SnapshotError(
        f"event {entry.number}, {entry.action} of {entry.size_bytes:,} B at {entry.address:#x}: {why}. The events and "
        "the segments do not belong together: the recording has a gap, or the blocks follow other rules"
    )
