"""The default rules for many shapes: whether a program fits, or where it ends, in a tenth of the time.

The same decisions as :meth:`CachingAllocator.run`, over whole numbers in arrays, compiled by numba; a test holds both
together on stored and on random programs. The peaks are asked of the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from vram_ledger.analysis.allocation.rules import SMALL_BYTES, CachingAllocator, Usage, block_bytes, segment_bytes

Ints = NDArray[np.int64]
WITHOUT_END = 2**62
NONE = -1
# Rows of what is known of a block: where it lies, its neighbours in its segment, the segment's bytes, its pool if free.
ADDRESS, SIZE, BEFORE, AFTER, WHOLE, POOL = range(6)
# Places of the counters.
RESERVED, TOP, UNUSED, REQUESTS, CAPACITY, ALLOCATED = range(6)


def _compiled(function: Any) -> Any:
    """Compiled when first called; kept on disk where a folder can be written."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)


_block_bytes, _segment_bytes = _compiled(block_bytes), _compiled(segment_bytes)


@_compiled
def _place(blocks: Any, pool: Any, count: int, size: int, address: int) -> int:
    """Where in a pool a free block of this size at this address stands or would stand."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        block = pool[middle]
        if blocks[SIZE, block] < size or (blocks[SIZE, block] == size and blocks[ADDRESS, block] < address):
            low = middle + 1
        else:
            high = middle
    return low


@_compiled
def _put(blocks: Any, pools: Any, counts: Any, block: int, kind: int) -> None:
    pool, count = pools[kind], counts[kind]
    at = _place(blocks, pool, count, blocks[SIZE, block], blocks[ADDRESS, block])
    for other in range(count, at, -1):
        pool[other] = pool[other - 1]
    pool[at] = block
    counts[kind] += 1
    blocks[POOL, block] = kind


@_compiled
def _take(blocks: Any, pools: Any, counts: Any, at: int, kind: int) -> None:
    pool = pools[kind]
    blocks[POOL, pool[at]] = NONE
    counts[kind] -= 1
    for other in range(at, counts[kind]):
        pool[other] = pool[other + 1]


@_compiled
def _forget(unused: Any, state: Any, block: int) -> None:
    unused[state[UNUSED]] = block
    state[UNUSED] += 1


@_compiled
def _fresh(unused: Any, state: Any) -> int:
    state[UNUSED] -= 1
    return int(unused[state[UNUSED]])


@_compiled
def _empty_cache(blocks: Any, pools: Any, counts: Any, unused: Any, state: Any) -> None:
    for kind in range(2):
        at = counts[kind] - 1
        while at >= 0:
            block = pools[kind, at]
            if blocks[SIZE, block] == blocks[WHOLE, block]:
                _take(blocks, pools, counts, at, kind)
                state[RESERVED] -= blocks[SIZE, block]
                _forget(unused, state, block)
            at -= 1


@_compiled
def _from_driver(blocks: Any, pools: Any, counts: Any, unused: Any, state: Any, size: int) -> int:
    """A block in a segment of its own, if need be for the cache; :data:`NONE` if there is no room."""
    asked = _segment_bytes(size)
    if state[RESERVED] + asked > state[CAPACITY]:
        _empty_cache(blocks, pools, counts, unused, state)
        if state[RESERVED] + asked > state[CAPACITY]:
            return NONE
    block: int = _fresh(unused, state)
    blocks[:, block] = (state[TOP], asked, NONE, NONE, asked, NONE)
    state[TOP] += asked
    state[RESERVED] += asked
    return block


@_compiled
def _join(blocks: Any, pools: Any, counts: Any, unused: Any, state: Any, block: int, kind: int) -> int:
    """A block that is no longer needed with its free neighbours."""
    before, after = blocks[BEFORE, block], blocks[AFTER, block]
    if before != NONE and blocks[POOL, before] != NONE:
        at = _place(blocks, pools[kind], counts[kind], blocks[SIZE, before], blocks[ADDRESS, before])
        _take(blocks, pools, counts, at, kind)
        blocks[SIZE, before] += blocks[SIZE, block]
        blocks[AFTER, before] = after
        if after != NONE:
            blocks[BEFORE, after] = before
        _forget(unused, state, block)
        block = before
    if after != NONE and blocks[POOL, after] != NONE:
        at = _place(blocks, pools[kind], counts[kind], blocks[SIZE, after], blocks[ADDRESS, after])
        _take(blocks, pools, counts, at, kind)
        blocks[SIZE, block] += blocks[SIZE, after]
        blocks[AFTER, block] = blocks[AFTER, after]
        if blocks[AFTER, block] != NONE:
            blocks[BEFORE, blocks[AFTER, block]] = block
        _forget(unused, state, after)
    return block


@_compiled
def _run(steps: Any, sizes: Any, blocks: Any, pools: Any, counts: Any, unused: Any, requests: Any, state: Any) -> int:
    """:meth:`CachingAllocator.run`; the request that found no memory, :data:`NONE` if it came to the end."""
    for step in steps:
        if step >= 0:
            asked = sizes[step]
            number = state[REQUESTS]
            state[REQUESTS] += 1
            requests[number, 0] = NONE
            if asked <= 0:
                continue
            size = _block_bytes(asked)
            kind = 0 if size <= SMALL_BYTES else 1
            at = _place(blocks, pools[kind], counts[kind], size, 0)
            if at < counts[kind]:
                block = pools[kind, at]
                _take(blocks, pools, counts, at, kind)
            else:
                block = _from_driver(blocks, pools, counts, unused, state, size)
                if block == NONE:
                    return int(step)
            rest = blocks[SIZE, block] - size
            if rest > (0 if kind == 0 else SMALL_BYTES):
                cut, after = _fresh(unused, state), blocks[AFTER, block]
                blocks[:, cut] = (blocks[ADDRESS, block] + size, rest, block, after, blocks[WHOLE, block], NONE)
                if after != NONE:
                    blocks[BEFORE, after] = cut
                blocks[AFTER, block] = cut
                blocks[SIZE, block] = size
                _put(blocks, pools, counts, cut, kind)
            requests[number] = (block, kind)
            state[ALLOCATED] += blocks[SIZE, block]
        elif requests[~step, 0] != NONE:
            block, kind = requests[~step]
            requests[~step, 0] = NONE
            state[ALLOCATED] -= blocks[SIZE, block]
            _put(blocks, pools, counts, _join(blocks, pools, counts, unused, state, block, kind), kind)
    return NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Where calls found no memory: in which call, in which of its requests, and the counters at that moment."""

    call: int
    request: int
    allocated_bytes: int
    reserved_bytes: int


class Room:
    """A state of the allocator with the default rules, from which programs are tried.

    What is alive in it stays: its blocks are walls between the free ones.
    """

    def __init__(self, built: CachingAllocator) -> None:
        self._free = sorted(built.free_in_pools(), key=lambda block: (block[1], block[0]))
        self._held, self._top = built.held, built.top

    def ended(self, calls: Sequence[tuple[Sequence[Ints], Ints]], capacity_bytes: int | None) -> Ended | None:
        """Where calls find no memory if there is so much of it; ``None`` if they come to their end.

        calls: of each its steps, a piece up to each release of the cache, and the sizes of its requests.
        """
        most = sum(int((steps >= 0).sum()) for pieces, _ in calls for steps in pieces)
        own = _State(self._free, self._held, self._top, most, capacity_bytes)
        for done, (pieces, sizes) in enumerate(calls):
            for number, steps in enumerate(pieces):
                if number:
                    own.empty_cache()
                if (failed := own.run(steps, sizes)) != NONE:
                    return Ended(
                        call=done,
                        request=failed,
                        allocated_bytes=int(own.state[ALLOCATED]),
                        reserved_bytes=int(own.state[RESERVED]),
                    )
        return None


class _State:
    """The arrays of one attempt."""

    def __init__(
        self,
        free: Sequence[tuple[int, int, int, bool]],
        held: Usage,
        top: int,
        most_requests: int,
        capacity_bytes: int | None,
    ) -> None:
        most = len(free) + 2 * most_requests + 2
        self.blocks = np.empty((6, most), dtype=np.int64)
        self.pools = np.empty((2, most), dtype=np.int64)
        self.counts = np.zeros(2, dtype=np.int64)
        self.unused = np.arange(most - 1, -1, -1, dtype=np.int64)
        self.requests = np.full((most_requests + 1, 2), NONE, dtype=np.int64)
        capacity = WITHOUT_END if capacity_bytes is None else capacity_bytes
        self.state = np.array(
            [held.reserved_bytes, top, most - len(free), 0, capacity, held.allocated_bytes], dtype=np.int64
        )
        for block, (at, size, kind, whole) in enumerate(free):
            self.blocks[:, block] = (at, size, NONE, NONE, size if whole else 0, kind)
            self.pools[kind, self.counts[kind]] = block
            self.counts[kind] += 1

    def run(self, steps: Ints, sizes: Ints) -> int:
        """The request that found no memory, :data:`NONE` if the steps came to their end."""
        return int(_run(steps, sizes, self.blocks, self.pools, self.counts, self.unused, self.requests, self.state))

    def empty_cache(self) -> None:
        """Gives whole free segments back."""
        _empty_cache(self.blocks, self.pools, self.counts, self.unused, self.state)
