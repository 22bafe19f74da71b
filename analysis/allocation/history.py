"""Memory histories that a card recorded, held against the allocator's rules event by event."""

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vram_ledger.analysis.allocation.rules import AllocatorError, CachingAllocator, Event, SegmentEvent, Usage

IGNORED_ACTIONS = ("free_requested", "snapshot", "oom")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A recorded memory history as events, with what the recording says about segments and addresses.

    addresses: where the recorded allocator put each "alloc", by the event's position.
    """

    events: tuple[Event, ...]
    segments: tuple[SegmentEvent, ...]
    addresses: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A recording that these rules reproduce: every segment event and the address of every block."""

    events: int
    segments: int
    peak: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first event at which a recording and these rules part: its segment events, or the address of its block."""

    event: int
    recorded: tuple[SegmentEvent, ...]
    predicted: tuple[SegmentEvent, ...]
    recorded_address: int | None
    predicted_address: int | None


@dataclass(slots=True)
class _Reading:
    """What was read of a history so far. ``live``: event of the block at an address. ``extents``: live segments."""

    events: list[Event] = field(default_factory=list)
    segments: list[SegmentEvent] = field(default_factory=list)
    addresses: dict[int, int] = field(default_factory=dict)
    live: dict[int, int] = field(default_factory=dict)
    extents: list[tuple[int, int]] = field(default_factory=list)

    def alloc(self, address: int, size: int) -> None:
        place = bisect_right(self.extents, address, key=lambda extent: extent[0]) - 1
        if place < 0 or address >= sum(self.extents[place]):
            raise AllocatorError(f"block {address:#x} is in no recorded segment; record from the first allocation on")
        if address in self.live:
            raise AllocatorError(f"block {address:#x} is live already")
        position = len(self.events)
        self.live[address] = position
        self.addresses[position] = address
        self.events.append(("alloc", position, size))

    def free_completed(self, address: int, size: int) -> None:
        if address not in self.live:
            raise AllocatorError(f"block {address:#x} is not live")
        self.events.append(("free", self.live.pop(address), 0))

    def segment_alloc(self, address: int, size: int) -> None:
        insort(self.extents, (address, size))
        self._note("segment_alloc", len(self.events), address, size)

    def segment_free(self, address: int, size: int) -> None:
        if (address, size) not in self.extents:
            raise AllocatorError(f"segment {address:#x} of {size} B is not there")
        self.extents.remove((address, size))
        if not self.events or self.events[-1][0] != "empty_cache":
            self.events.append(("empty_cache", 0, 0))
        self._note("segment_free", len(self.events) - 1, address, size)

    def _note(self, action: Literal["segment_alloc", "segment_free"], event: int, address: int, size: int) -> None:
        self.segments.append(SegmentEvent(event=event, action=action, address=address, bytes=size))


def read_history(entries: Sequence[Mapping[str, Any]]) -> History:
    """The events of one device's ``device_traces`` in a ``torch.cuda.memory._snapshot``, as JSON gives them.

    A recording must begin before the first allocation and hold one stream. Frees count where they complete. A run of
    "segment_free" is one "empty_cache", also where a retry inside an allocation was what freed them: the next event
    finds the same state. :class:`AllocatorError` names the entry that can't be followed.
    """
    reading = _Reading()
    steps = {
        "alloc": reading.alloc,
        "free_completed": reading.free_completed,
        "segment_alloc": reading.segment_alloc,
        "segment_free": reading.segment_free,
    }
    streams = {entry["stream"] for entry in entries if "stream" in entry and entry.get("action") in steps}
    if len(streams) > 1:
        raise AllocatorError(f"the recording has {len(streams)} streams; one is modelled")
    for number, entry in enumerate(entries):
        action = entry.get("action")
        if action in IGNORED_ACTIONS:
            continue
        if action not in steps:
            raise AllocatorError(f"entry {number}: action {action!r} is not modelled")
        try:
            steps[action](_whole_number(entry, "addr"), _whole_number(entry, "size"))
        except AllocatorError as error:
            raise AllocatorError(f"entry {number}: {error}") from None
    return History(events=tuple(reading.events), segments=tuple(reading.segments), addresses=reading.addresses)


def _whole_number(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if type(value) is not int:
        raise AllocatorError(f"{name} is {value!r}, not a whole number")
    return value


def compare(history: History) -> Agreement | Divergence:
    """Replays a recording and compares its segment events and block addresses, up to the first that differs.

    New segments are put at the recorded addresses, so that equal free blocks are told apart as they were there.
    """
    recorded: dict[int, list[SegmentEvent]] = defaultdict(list)
    for segment in history.segments:
        recorded[segment.event].append(segment)
    allocator = CachingAllocator(place=_recorded_places(history.segments))
    for number, event in enumerate(history.events):
        seen = len(allocator.segments)
        allocator.apply(number, event)
        predicted = _in_order(allocator.segments[seen:])
        expected = _in_order(recorded.pop(number, []))
        address = allocator.address(event[1]) if event[0] == "alloc" else None
        if predicted != expected or address != history.addresses.get(number):
            return Divergence(
                event=number,
                recorded=expected,
                predicted=predicted,
                recorded_address=history.addresses.get(number),
                predicted_address=address,
            )
    return Agreement(events=len(history.events), segments=len(history.segments), peak=allocator.peak)


def _in_order(segments: Sequence[SegmentEvent]) -> tuple[SegmentEvent, ...]:
    """The segment events of one event; the order in which a release goes through them does not matter."""
    return tuple(sorted(segments, key=lambda segment: (segment.action, segment.address)))


def _recorded_places(segments: Sequence[SegmentEvent]) -> Callable[[int], int | None]:
    """Gives out the addresses of the recorded segments in order, as long as the sizes agree."""
    taken = iter([segment for segment in segments if segment.action == "segment_alloc"])

    def place(size: int) -> int | None:
        segment = next(taken, None)
        return segment.address if segment is not None and segment.bytes == size else None

    return place
