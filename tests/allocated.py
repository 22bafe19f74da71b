"""Events for the caching allocator, by hand and at random, and what it makes of them."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from vram_ledger.analysis.allocation.rules import AllocationFailure, CachingAllocator, Usage

MIB = 2**20
Event = tuple[Literal["alloc", "free", "empty_cache"], int, int]
EMPTY: Event = ("empty_cache", 0, 0)


class Fitted(NamedTuple):
    """The counters of events that fitted: since their start, and after the last."""

    peak: Usage
    held: Usage


def alloc(key: int, size: int) -> Event:
    """A request."""
    return "alloc", key, size


def free(key: int) -> Event:
    """Its end."""
    return "free", key, 0


def usage(requested: int, allocated: int, reserved: int) -> Usage:
    """The three counters."""
    return Usage(requested_bytes=requested, allocated_bytes=allocated, reserved_bytes=reserved)


def feed(
    allocator: CachingAllocator, events: Sequence[Event], numbers: dict[int, int] | None = None
) -> AllocationFailure | None:
    """Gives an allocator events, one at a time. numbers: of the requests by their keys."""
    numbers = {} if numbers is None else numbers
    for kind, key, size in events:
        if kind == "alloc":
            numbers[key] = allocator.requests
            if failure := allocator.run([0], [size]):
                return failure
        elif kind == "free":
            allocator.run([~numbers.pop(key)], [])
        else:
            allocator.empty_cache()
    return None


def after(*events: Event) -> CachingAllocator:
    """An allocator that has seen these events."""
    allocator = CachingAllocator()
    assert feed(allocator, events) is None
    return allocator


def fitted(events: Sequence[Event], capacity_bytes: int | None = None) -> Fitted:
    """What becomes of events that fit."""
    allocator = CachingAllocator(capacity_bytes=capacity_bytes)
    assert feed(allocator, events) is None
    return Fitted(allocator.peak, allocator.held)


def refused(events: Sequence[Event], capacity_bytes: int) -> AllocationFailure:
    """What becomes of events that do not fit."""
    failure = feed(CachingAllocator(capacity_bytes=capacity_bytes), events)
    assert failure is not None
    return failure


def random_events(seed: int, count: int = 400) -> list[Event]:
    """Requests from 1 B to 64 MiB, spread evenly over the powers of two, frees in any order, a few releases."""
    choose = random.Random(seed)
    live: list[int] = []
    events: list[Event] = []
    for number in range(count):
        if choose.random() < 0.02:
            events.append(EMPTY)
        elif live and choose.random() < 0.48:
            events.append(free(live.pop(choose.randrange(len(live)))))
        else:
            events.append(alloc(number, int(2 ** choose.uniform(0, 26))))
            live.append(number)
    return events
