"""Made-up memory snapshots: what a card would have recorded of events, by the rules, whole or from its middle on."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from vram_ledger.analysis.allocation.rules import CachingAllocator

MIB = 2**20
BASE = 0x7F00_0000_0000
SETTINGS: dict[str, Any] = {
    "PYTORCH_CUDA_ALLOC_CONF": "",
    "max_split_size": -1,
    "garbage_collection_threshold": 0.0,
    "expandable_segments": False,
    "pinned_num_register_threads": 1,
    "release_lock_on_cudamalloc": False,
    "pinned_use_cuda_host_register": False,
    "roundup_power2_divisions": {"1": 0, "2": 0, "32768": 0},
}


def entry(action: str, address: int, size: int, **more: Any) -> dict[str, Any]:
    """An event of a recording."""
    return {"action": action, "addr": address, "size": size, "stream": 0, **more}


def block(size: int, requested: int | None = None, state: str = "", **more: Any) -> dict[str, Any]:
    """A block of a segment: free without ``requested``."""
    state = state or ("inactive" if requested is None else "active_allocated")
    return {"size": size, "requested_size": requested or 0, "state": state, **more}


def segment(address: int, *blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A segment at the end of a recording; of the small pool where it has 2 MiB."""
    total = sum(b["size"] for b in blocks)
    given = sum(b["size"] for b in blocks if b["state"] == "active_allocated")
    kind = "small" if total == 2 * MIB else "large"
    told = {"address": address, "total_size": total, "allocated_size": given, "segment_type": kind}
    return {"device": 0, "stream": 0, "is_expandable": False, **told, "blocks": list(blocks), **more}


def snapshot(entries: Sequence[dict[str, Any]], segments: Iterable[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """What ``torch.cuda.memory._snapshot`` gives, of device 0."""
    return {
        "segments": list(segments),
        "device_traces": [list(entries)],
        "allocator_settings": SETTINGS | settings,
    }


class Card:
    """An allocator that is recorded, as torch does it. shuffled: draws the addresses of segments."""

    def __init__(self, capacity_bytes: int | None = None, shuffled: random.Random | None = None) -> None:
        self.allocator = CachingAllocator(capacity_bytes=capacity_bytes, place=self._place)
        self.entries: list[dict[str, Any]] = []
        self._shuffled = shuffled
        self._segments: dict[int, int] = {}
        self._alive: dict[int, int] = {}  # requested bytes by address
        self._seen = 0

    def _place(self, size: int) -> int:
        if self._shuffled is None:
            return BASE + sum(e["size"] for e in self.entries if e["action"] == "segment_alloc")
        return BASE + self._shuffled.randrange(2**20) * 64 * MIB

    def alloc(self, size: int, **more: Any) -> int:
        """Requests memory and gives its number; -1 if there is none."""
        number = self.allocator.requests
        if failure := self.allocator.run([0], [size]):
            self._note_segments()
            self.entries.append({"action": "oom", "device_free": failure.free_bytes, "size": size, "stream": 0})
            return -1
        self._note_segments()
        place = self.allocator.block_of(number)
        assert place is not None
        self._alive[place[0]] = size
        self.entries.append(entry("alloc", place[0], size, **more))
        return number

    def free(self, number: int) -> None:
        """Frees a request."""
        place = self.allocator.block_of(number)
        assert place is not None
        self.allocator.run([~number], [])
        size = self._alive.pop(place[0])
        self.entries += [entry(f"free_{how}", place[0], size) for how in ("requested", "completed")]

    def empty_cache(self) -> None:
        """Gives the cache back."""
        self.allocator.empty_cache()
        self._note_segments()

    def snapshot(self, skipped: int = 0, **settings: Any) -> dict[str, Any]:
        """The recording without its first events."""
        blocks = {at: block(size, self._alive[at], address=at) for at, size in self.allocator.live_blocks().values()}
        blocks |= {at: block(size, address=at) for at, size in self.allocator.free_blocks().items()}
        segments = []
        for start, size in sorted(self._segments.items()):
            segments.append(segment(start, *(blocks[at] for at in sorted(blocks) if start <= at < start + size)))
        return snapshot(self.entries[skipped:], segments, **settings)

    def _note_segments(self) -> None:
        for event in self.allocator.segments[self._seen :]:
            self.entries.append(entry(event.action, event.address, event.bytes))
            if event.action == "segment_alloc":
                self._segments[event.address] = event.bytes
            else:
                del self._segments[event.address]
        self._seen = len(self.allocator.segments)


def random_card(seed: int, count: int = 300, capacity_bytes: int | None = 200 * MIB) -> Card:
    """A recorded run of requests from 1 B to 32 MiB, frees in any order, releases, retries and failures."""
    choose = random.Random(seed)
    card, live = Card(capacity_bytes, random.Random(seed + 1)), list[int]()
    for _ in range(count):
        if choose.random() < 0.01:
            card.empty_cache()
        elif live and choose.random() < 0.5:
            card.free(live.pop(choose.randrange(len(live))))
        elif (number := card.alloc(int(2 ** choose.uniform(0, 25)))) >= 0:
            live.append(number)
    return card
