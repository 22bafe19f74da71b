"""Events for the caching allocator, by hand and at random, and what it makes of them."""

import random
from typing import Any

from vram_ledger.analysis.allocation.rules import AllocationFailure, CachingAllocator, Event, Usage
from vram_ledger.analysis.allocation.simulation import Simulation, simulate_events

MIB = 2**20
EMPTY: Event = ("empty_cache", 0, 0)


def alloc(key: int, size: int) -> Event:
    """A request."""
    return "alloc", key, size


def free(key: int) -> Event:
    """Its end."""
    return "free", key, 0


def usage(requested: int, allocated: int, reserved: int) -> Usage:
    """The three counters."""
    return Usage(requested_bytes=requested, allocated_bytes=allocated, reserved_bytes=reserved)


def after(*events: Event) -> CachingAllocator:
    """An allocator that has seen these events."""
    allocator = CachingAllocator()
    for position, event in enumerate(events):
        assert allocator.apply(position, event) is None
    return allocator


def fitted(events: list[Event], **options: Any) -> Simulation:
    """What becomes of events that fit."""
    result = simulate_events(events, **options)
    assert isinstance(result, Simulation)
    return result


def refused(events: list[Event], **options: Any) -> AllocationFailure:
    """What becomes of events that do not fit."""
    result = simulate_events(events, **options)
    assert isinstance(result, AllocationFailure)
    return result


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
