"""The caching allocator under ``expandable_segments:True``, the setting that torch's own out-of-memory error names.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp``, read at pytorch commit 001074d25084; the functions named
below are its own. torch 2.14.1 on an emulated card gives the same bytes (``tests/test_allocators_on_a_card.py``).

- each pool has a segment of address space for 9/8 of the card's memory, in granules of 2 MiB (small pool) or 20 MiB;
  memory is mapped into it where it is needed, and reserved counts the granules that are mapped (``ExpandableSegment``);
- a free block that has unmapped space behind it counts with that space when the smallest is looked for; the search goes
  on to the next block only as long as that makes it smaller (``get_free_block``);
- a block is split in both pools if at least 512 B would remain (``should_split``);
- if nothing cached fits, the lowest run of free and unmapped space that is long enough is made whole, hole by hole, and
  if no segment has one, the pool gets another segment (``find_expandable_block``, ``try_allocate_expandable_block``);
- a hole that the driver refuses takes nothing; what was mapped into the holes before it stays (``map_block``);
- ``empty_cache`` unmaps every granule that is free from end to end, and gives up a segment that is then empty
  (``unmap_block``, ``release_blocks``);
- the error names the segment that the request would have got without the setting, not what was to be mapped
  (``malloc``).
"""

from collections.abc import Callable, Iterable
from typing import Self

from vram_ledger.analysis.allocation.rules import (
    ADDRESS_BITS,
    ADDRESSES,
    LARGE_SEGMENT_BYTES,
    SMALL_SEGMENT_BYTES,
    AllocatorError,
    CachingAllocator,
    Segment,
)

ENDLESS_BYTES = 2**44  # of a card whose memory is not said


class ExpandableAllocator(CachingAllocator):
    """The allocator's state with expandable segments; see :class:`CachingAllocator`.

    total_bytes: the card's memory as torch reports it, which sets the segments' address space. It decides where memory
    is mapped only when much of that space is in use in pieces. ``place`` gives the addresses of these segments.
    """

    plain = False
    largest_rest_bytes = 0

    def __init__(
        self,
        *,
        capacity_bytes: int | None = None,
        total_bytes: int | None = None,
        place: Callable[[int], int | None] = lambda size: None,
    ) -> None:
        super().__init__(capacity_bytes=capacity_bytes, place=place)
        self.total_bytes = ENDLESS_BYTES if total_bytes is None else total_bytes
        self._small_holes: dict[int, int] = {}  # unmapped space: its end by its start
        self._large_holes: dict[int, int] = {}

    @classmethod
    def holding(
        cls, segments: Iterable[Segment], capacity_bytes: int | None = None, total_bytes: int | None = None
    ) -> Self:
        """An allocator in a given state, from the stretches of mapped memory, which is what a snapshot calls segments.

        The lowest stretch of a pool is taken to be at the start of its address space. All must be expandable: those of
        a run that switched the setting on or off on its way are for the reader of the snapshot to refuse.
        """
        allocator = cls(capacity_bytes=capacity_bytes, total_bytes=total_bytes)
        allocator._hold(segments)
        return allocator

    def _hold(self, segments: Iterable[Segment]) -> None:
        stretches = list(segments)
        super()._hold(stretches)
        self._bounds.clear()
        stretches.sort(key=lambda segment: segment.address)
        for small in (True, False):
            self._lay_out([segment for segment in stretches if segment.small is small], small)

    def _lay_out(self, stretches: list[Segment], small: bool) -> None:
        """Puts the bounds of a pool's segments around its stretches, and holes between them."""
        granule, holes = self._granule_and_holes(small)
        base, end = 0, 0  # of the segment so far
        for stretch in stretches:
            if stretch.address + stretch.bytes > end:
                base, end = stretch.address, stretch.address + self._space(granule)
                self._bounds[base] = end - base
                holes[base] = end
            if (stretch.address - base) % granule or stretch.bytes % granule:
                raise AllocatorError(
                    f"segment {stretch.address:#x}, {stretch.bytes} B: not whole pieces of {granule} B"
                )
            start = next(reversed(holes))
            del holes[start]
            if start < stretch.address:
                holes[start] = stretch.address
            if stretch.address + stretch.bytes < end:
                holes[stretch.address + stretch.bytes] = end
            self._top = max(self._top, end)

    def copy(self, capacity_bytes: int | None = None) -> Self:
        """See :meth:`CachingAllocator.copy`; the copy is on a card of the same size."""
        twin = super().copy(capacity_bytes)
        twin._small_holes, twin._large_holes = self._small_holes.copy(), self._large_holes.copy()
        return twin

    def empty_cache(self) -> None:
        """Gives every granule that is free from end to end back to the driver, and the segments that are then empty."""
        for pool, small in ((self._large, False), (self._small, True)):
            granule, holes = self._granule_and_holes(small)
            for block in pool.copy():
                at, size = block & ADDRESSES, block >> ADDRESS_BITS
                base = max(bound for bound in self._bounds if bound <= at)
                first, last = base - (base - at) // granule * granule, at + size - (at + size - base) % granule
                if first < last:
                    self._take_free(pool, block)
                    if at < first:
                        self._add_free(pool, at, first)
                    if last < at + size:
                        self._add_free(pool, last, at + size)
                    self._unmap(holes, first, last)

    def _unmap(self, holes: dict[int, int], start: int, end: int) -> None:
        self._now[2] -= end - start
        self._note("segment_unmap", start, end - start)
        if end not in self._bounds:
            end = holes.pop(end, end)
        if start not in self._bounds:
            start = next((hole for hole, its_end in holes.items() if its_end == start), start)
        holes[start] = end
        if self._bounds.get(start) == end - start:
            del self._bounds[start], holes[start]

    def _from_driver(self, size: int, pool: list[int]) -> tuple[int, int] | None:
        """A free block of at least this size, made whole by mapping the holes in it; ``None`` if memory runs out."""
        granule, holes = self._granule_and_holes(pool is self._small)
        start = self._room_for(size, granule, holes)
        while (end := self._end_of.get(start, start)) - start < size:
            missing = min(size - (end - start), holes[end] - end)
            if not self._map(pool, holes, end, -(-missing // granule) * granule):
                return None
        self._take_free(pool, (end - start) << ADDRESS_BITS | start)
        return start, end

    def _room_for(self, size: int, granule: int, holes: dict[int, int]) -> int:
        """Where the lowest run of free and unmapped space begins that is large enough, if need be in a new segment."""
        for hole in sorted(holes):
            start = hole if hole in self._bounds else self._start_of.get(hole, hole)
            end = holes[hole]
            while end - start < size and end not in self._bounds and (end in self._end_of or end in holes):
                end = self._end_of[end] if end in self._end_of else holes[end]
            if end - start >= size:
                return start
        space = self._space(granule)
        if self.capacity_bytes is None:  # a driver without end refuses nothing
            space = max(space, -(-size // granule) * granule)
        start = self._new_bounds(space)
        holes[start] = start + space
        return start

    def _map(self, pool: list[int], holes: dict[int, int], start: int, size: int) -> bool:
        """Maps the first bytes of a hole and joins them to what is free around; whether the driver had them."""
        if not self._has_room(size):
            return False
        self._count_reserved(size)
        self._note("segment_map", start, size)
        end, hole_end = start + size, holes.pop(start)
        if end < hole_end:
            holes[end] = hole_end
        if start not in self._bounds and (before := self._start_of.get(start)) is not None:
            self._take_free(pool, (start - before) << ADDRESS_BITS | before)
            start = before
        if end not in self._bounds and (after := self._end_of.get(end)) is not None:
            self._take_free(pool, (after - end) << ADDRESS_BITS | end)
            end = after
        self._add_free(pool, start, end)
        return True

    def _chosen(self, pool: list[int], place: int) -> int:
        """Goes on from a block that has a hole behind it, as long as the next, with the hole behind it, is smaller."""
        holes = self._small_holes if pool is self._small else self._large_holes
        behind = self._behind(pool[place], holes)
        while behind and place + 1 < len(pool):
            next_behind = self._behind(pool[place + 1], holes)
            if (pool[place + 1] >> ADDRESS_BITS) + next_behind >= (pool[place] >> ADDRESS_BITS) + behind:
                break
            place, behind = place + 1, next_behind
        return place

    def _behind(self, block: int, holes: dict[int, int]) -> int:
        """The size of the hole behind a free block."""
        end = (block & ADDRESSES) + (block >> ADDRESS_BITS)
        return 0 if end not in holes or end in self._bounds else holes[end] - end

    def _granule_and_holes(self, small: bool) -> tuple[int, dict[int, int]]:
        """How much is mapped at a time in a pool, and what is not mapped."""
        return (SMALL_SEGMENT_BYTES, self._small_holes) if small else (LARGE_SEGMENT_BYTES, self._large_holes)

    def _space(self, granule: int) -> int:
        """The address space of a segment."""
        return -(-(self.total_bytes + self.total_bytes // 8) // granule) * granule
