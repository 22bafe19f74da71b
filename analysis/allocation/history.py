"""What a recorded run took, when, and of what; and whether the allocator's rules give every address of it.

A recording may begin in mid-run. The memory at its start is the memory at its end, which a snapshot has, with every
event undone, last one first. From there each event is carried out at its recorded address: the figures are the
recording's own. Apart from that the rules replay it, and must choose every block and every segment as the card did.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from vram_ledger.analysis.allocation.plain import SnapshotError
from vram_ledger.analysis.allocation.rules import (
    SMALL_BYTES,
    AllocatorError,
    CachingAllocator,
    SegmentEvent,
    Usage,
    block_bytes,
    segment_bytes,
)
from vram_ledger.analysis.allocation.settings import Rules, allocator
from vram_ledger.analysis.allocation.snapshot import DEFAULT_POOL, Entry, Snapshot
from vram_ledger.analysis.allocation.space import Made, Space

TAKEN, GIVEN_BACK = ("segment_alloc", "segment_map"), ("segment_free", "segment_unmap")
EARLIER = "(made before the recording)"
PAGE_BYTES = 2**21  # what a driver maps at once, so the least that can be reserved for an allocated peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """What was given out to one line of the program. frame: "" where the recording has none."""

    frame: str
    bytes: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The memory after one event. event: its number, ``None`` for before the first. time_s: since the first event.

    alive: what was given out then, by the frame that asked for it, most bytes first.
    """

    event: int | None
    time_s: float | None
    made: Made
    alive: tuple[Alive, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastStraw:
    """The request for which the most was reserved: what it asked for, and the largest free block of its pool then."""

    requested_bytes: int
    segment_bytes: int
    largest_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An allocation that failed. free_bytes: what the driver had."""

    event: int
    requested_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """The rules give the address of every allocation and every segment event. held: what they end with."""

    allocations: int
    segment_events: int
    held: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Parted:
    """The first event at which the rules do another thing than the card: with segments, or with its block.

    Segments are address and bytes, of what is taken for an allocation or, without a block, of what is given back.
    """

    event: int
    recorded_segments: tuple[tuple[int, int], ...]
    expected_segments: tuple[tuple[int, int], ...]
    recorded_address: int | None
    expected_address: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """Why the rules were not asked: what they do not model."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A recorded run of one device.

    events: in the recording, also those that move no memory. begins_in_midrun: whether anything was reserved before
    its first event. unsure_bytes: by how much the allocated peak may be higher; a large block that was made before
    the recording and is freed in it may have kept a rest of up to 1 MiB of which there is no trace.
    expandable: whether it was recorded with expandable segments. least_reserved_bytes: what any allocator must reserve
    at the peak for the same requests, each rounded up to 512 B. otherwise_reserved_bytes: what they would have reserved
    at the peak without expandable segments, or with them if the run had none; known of a run that is recorded whole.
    allocated, reserved: in bytes after each of ``numbers``, the events that move memory; the first is before any.
    """

    device: int
    events: int
    duration_s: float | None
    begins_in_midrun: bool
    start: Moment
    allocated_peak: Moment
    reserved_peak: Moment
    end: Moment
    last_straw: LastStraw | None
    refusals: tuple[Refusal, ...]
    unsure_bytes: int
    expandable: bool
    least_reserved_bytes: int
    otherwise_reserved_bytes: int | None
    rules: Reproduced | Parted | SetAside
    numbers: tuple[int, ...]
    allocated: tuple[int, ...]
    reserved: tuple[int, ...]

    @property
    def most_saved_bytes(self) -> int:
        """What another setting of the allocator could have saved of the reserved peak at the most."""
        return max(0, self.reserved_peak.made.reserved_bytes - self.least_reserved_bytes)


def history_of(snapshot: Snapshot) -> History:
    """A recorded run; :class:`SnapshotError` where its events and its segments contradict each other."""
    start = _start(snapshot)
    numbers, allocated, reserved, most = _counters(snapshot, copy.deepcopy(start))
    most_allocated, taken = allocated.index(max(allocated)), reserved.index(max(reserved))
    most_reserved = _with_its_request(snapshot.entries, taken)
    wanted = {0, most_allocated, taken - 1, most_reserved, len(snapshot.entries)}
    moments = dict(_moments(snapshot.entries, copy.deepcopy(start), wanted))
    rules, whole = _held_against_rules(snapshot, start), not reserved[0]
    clock = [entry.time_us for entry in snapshot.entries]
    return History(
        device=snapshot.device,
        events=snapshot.events,
        duration_s=_seconds(clock[0], clock[-1]) if clock else None,
        begins_in_midrun=not whole,
        start=moments[0],
        allocated_peak=moments[most_allocated],
        reserved_peak=moments[most_reserved],
        end=moments[len(clock)],
        last_straw=_last_straw(snapshot.entries[most_reserved - 1], moments[taken - 1]) if taken else None,
        refusals=tuple(
            Refusal(event=e.number, requested_bytes=e.size_bytes, free_bytes=e.address)
            for e in snapshot.entries
            if e.action == "oom"
        ),
        unsure_bytes=most - max(allocated),
        expandable=snapshot.expandable,
        least_reserved_bytes=_least_reserved(snapshot.entries, start),
        otherwise_reserved_bytes=_otherwise_reserved(snapshot) if isinstance(rules, Reproduced) and whole else None,
        rules=rules,
        numbers=numbers,
        allocated=allocated,
        reserved=reserved,
    )


def _start(snapshot: Snapshot) -> Space:
    """The memory before the first event."""
    space = Space(snapshot.segments, snapshot.expandable)
    for entry in reversed(snapshot.entries):
        space.undo(entry)
    for block in space.live.values():
        block.frame = block.frame or EARLIER
    return space


def _counters(snapshot: Snapshot, space: Space) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Numbers of the events, allocated and reserved bytes after each and before any, and what allocated is at the most.

    :class:`SnapshotError` if the events do not end where the file does.
    """
    unsure = {at: block.unsure_bytes for at, block in space.live.items() if not block.pending}
    left = sum(unsure.values())
    numbers, allocated, reserved = [-1], [space.allocated_bytes], [space.reserved_bytes]
    most = space.allocated_bytes + left
    for entry in snapshot.entries:
        space.do(entry)
        if entry.action.startswith("free"):
            left -= unsure.pop(entry.address, 0)
        numbers.append(entry.number)
        allocated.append(space.allocated_bytes)
        reserved.append(space.reserved_bytes)
        most = max(most, space.allocated_bytes + left)
    if difference := space.differs_from(snapshot.segments):
        raise SnapshotError(f"the blocks do not follow the default rules, so their sizes can't be told: {difference}")
    return tuple(numbers), tuple(allocated), tuple(reserved), most


def _least_reserved(entries: Sequence[Entry], space: Space) -> int:
    """The peak of the blocks that the requests need, in whole pages; ``space`` is the memory before the first event."""
    now = most = sum(block_bytes(block.requested_bytes) for block in space.live.values())
    for entry in entries:
        if entry.action == "alloc":
            now += block_bytes(entry.size_bytes)
            most = max(most, now)
        elif entry.action == "free_completed":
            now -= block_bytes(entry.size_bytes)
    return -(-most // PAGE_BYTES) * PAGE_BYTES


def _otherwise_reserved(snapshot: Snapshot) -> int | None:
    """The reserved peak of the same requests under the other setting, from the first allocation on.

    Where the cache was given back just before more was taken, the recording does not say whether the program or the
    allocator did it. ``None`` if that matters.
    """
    found = {_reserved_peak(snapshot, also_unclear) for also_unclear in (False, True)}
    return found.pop() if len(found) == 1 else None


def _reserved_peak(snapshot: Snapshot, also_unclear: bool) -> int:
    other = allocator("default" if snapshot.expandable else "expandable_segments")
    numbers: dict[int, int] = {}
    for entry, after in zip_longest(snapshot.entries, snapshot.entries[1:]):
        if entry.action == "alloc":
            numbers[entry.address] = other.requests
            other.run([0], [entry.size_bytes])
        elif entry.action == "free_completed":
            other.run([~numbers.pop(entry.address)], [])
        elif entry.action in GIVEN_BACK and (after is None or after.action not in GIVEN_BACK):
            unclear = after is not None and (after.action in TAKEN or after.action == "oom")
            if also_unclear or not unclear:
                other.empty_cache()
    return other.peak.reserved_bytes


def _with_its_request(entries: Sequence[Entry], done: int) -> int:
    """How many events are done when the request has its block for which a segment was taken."""
    if done == 0:
        return 0
    return next((i for i in range(done, len(entries)) if entries[i].action == "alloc"), done - 1) + 1


def _moments(entries: Sequence[Entry], space: Space, wanted: Collection[int]) -> Iterator[tuple[int, Moment]]:
    """What memory is made of, by how many events are done."""
    for done in range(len(entries) + 1):
        if done:
            space.do(entries[done - 1])
        if done in wanted:
            last = entries[done - 1] if done else None
            yield (
                done,
                Moment(
                    event=last.number if last else None,
                    time_s=_seconds(entries[0].time_us, last.time_us) if last else None,
                    made=space.made(),
                    alive=_alive(space),
                ),
            )


def _alive(space: Space) -> tuple[Alive, ...]:
    found = (Alive(frame=frame, bytes=size, blocks=count) for frame, (size, count) in space.by_frame().items())
    return tuple(sorted(found, key=lambda own: (-own.bytes, own.frame)))


def _last_straw(request: Entry, before: Moment) -> LastStraw:
    small = block_bytes(request.size_bytes) <= SMALL_BYTES
    return LastStraw(
        requested_bytes=request.size_bytes,
        segment_bytes=segment_bytes(block_bytes(request.size_bytes)),
        largest_free_bytes=before.made.largest_small_bytes if small else before.made.largest_large_bytes,
    )


def _seconds(first_us: int | None, last_us: int | None) -> float | None:
    return None if first_us is None or last_us is None else (last_us - first_us) / 1e6


# ---- the rules ----


def _held_against_rules(snapshot: Snapshot, start: Space) -> Reproduced | Parted | SetAside:
    """Replays the events by the rules, and compares what they choose with the recording, up to the first difference.

    New segments are put at the recorded addresses, so that equal free blocks are told apart as they were there.
    """
    if reasons := tuple(_beyond_the_rules(snapshot)):
        return SetAside(reasons=reasons)
    rules: Rules = "expandable_segments" if snapshot.expandable else "default"
    try:
        begun = allocator(rules, segments=start.segments())
    except AllocatorError as error:
        return SetAside(reasons=(str(error),))
    replay = _Replay(begun, {at: n for n, at in enumerate(sorted(start.live))})
    for entry in snapshot.entries:
        if (parted := replay.follow(entry)) is not None:
            return parted
    if (parted := replay.give_back()) is not None:
        return parted
    return Reproduced(
        allocations=sum(entry.action == "alloc" for entry in snapshot.entries),
        segment_events=sum(entry.action.startswith("segment") for entry in snapshot.entries),
        held=replay.allocator.held,
    )


def _beyond_the_rules(snapshot: Snapshot) -> Iterator[str]:
    streams = {s.stream for s in snapshot.segments} | {e.stream for e in snapshot.entries}
    if len(streams) > 1:
        yield f"{len(streams)} streams, which do not share blocks"
    pools = {s.pool for s in snapshot.segments} | {e.pool for e in snapshot.entries}
    if pools - {DEFAULT_POOL}:
        yield f"{len(pools - {DEFAULT_POOL})} private pools of CUDA graphs or torch.cuda.MemPool"
    yield from snapshot.choices


class _Replay:
    """The rules beside a recording. numbers: of the requests that are alive, by address.

    A run of "segment_free" is one ``empty_cache``, also where a request that the driver refused was what gave the cache
    back: either way the next event finds the same state. A request that failed in the end leaves no more than that.
    """

    def __init__(self, begun: CachingAllocator, numbers: dict[int, int]) -> None:
        self.allocator = begun
        self.allocator.place = self._place
        self._numbers = numbers
        self._taken: list[Entry] = []
        self._given_back: list[Entry] = []

    def follow(self, entry: Entry) -> Parted | None:
        """Carries out one event; says where the rules part with it."""
        if entry.action in GIVEN_BACK:
            self._given_back.append(entry)
            return None
        parted = self.give_back()
        if entry.action in TAKEN:
            self._taken.append(entry)
        elif entry.action == "oom" and self._taken:
            return _difference(entry.number, self._taken, ())
        elif entry.action == "alloc":
            parted = parted or self._request(entry)
        elif entry.action == "free_completed":
            self.allocator.run([~self._numbers.pop(entry.address)], [])
        return parted

    def give_back(self) -> Parted | None:
        """Gives the cache back if the recording did since the last call."""
        if not self._given_back:
            return None
        recorded, self._given_back = self._given_back, []
        seen = len(self.allocator.segments)
        self.allocator.empty_cache()
        return _difference(recorded[0].number, recorded, self.allocator.segments[seen:])

    def _request(self, entry: Entry) -> Parted | None:
        recorded, seen, number = self._taken.copy(), len(self.allocator.segments), self.allocator.requests
        self.allocator.run([0], [entry.size_bytes])
        self._numbers[entry.address] = number
        self._taken.clear()
        block = self.allocator.block_of(number)
        assert block is not None
        return _difference(entry.number, recorded, self.allocator.segments[seen:], entry.address, block[0])

    def _place(self, size: int) -> int | None:
        """The recorded address of the next segment, if it has this size; one that is mapped in parts has any."""
        if not self._taken or (self._taken[0].action == "segment_alloc" and self._taken[0].size_bytes != size):
            return None
        return self._taken[0].address


def _difference(
    event: int,
    recorded: Sequence[Entry],
    expected: Sequence[SegmentEvent],
    address: int | None = None,
    expected_address: int | None = None,
) -> Parted | None:
    """What differs in one event; the order in which segments are given back does not matter."""
    told = sorted((e.action, e.address, e.size_bytes) for e in recorded)
    if told == sorted((s.action, s.address, s.bytes) for s in expected) and address == expected_address:
        return None
    return Parted(
        event=event,
        recorded_segments=tuple((e.address, e.size_bytes) for e in recorded),
        expected_segments=tuple((s.address, s.bytes) for s in expected),
        recorded_address=address,
        expected_address=expected_address,
    )
