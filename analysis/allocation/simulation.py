"""Allocated and reserved of an event log, predicted by the allocator's rules; and whether a machine has those rules."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from vram_ledger.analysis.allocation.rules import AllocationFailure, AllocatorError, CachingAllocator, Event, Usage
from vram_ledger.harness.records import AllocatorProbe, Environment

NEUTRAL_SETTINGS = re.compile(r"expandable_segments:false|backend:native|pinned_\w+:\w+|release_lock_on_\w+:\w+", re.I)


class LoggedAllocation(Protocol):
    """What is read of one storage of a log; see :class:`harness.events.Allocation`."""

    @property
    def born(self) -> int:
        """Number of the event that made it."""

    @property
    def died(self) -> int | None:
        """Number of the event that freed it, ``None`` if it outlives the log."""

    @property
    def bytes(self) -> int:
        """Bytes asked for."""


class Log(Protocol):
    """What is read of a log; see :class:`harness.events.EventLog`."""

    @property
    def allocations(self) -> Sequence[LoggedAllocation]:
        """Every storage."""

    @property
    def events(self) -> int:
        """Number of births and deaths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """A sequence that fitted: the peaks since its start, and the counters after its last event."""

    peak: Usage
    held: Usage


def simulate_events(
    events: Sequence[Event],
    *,
    start: int = 0,
    capacity_bytes: int | None = None,
    empty_cache_before: Collection[int] = (),
) -> Simulation | AllocationFailure:
    """Counters after ``events``, and their peaks since the state before event ``start``.

    empty_cache_before: numbers of events before which the cache is emptied; the peaks are reset after that.
    """
    if not 0 <= start <= len(events):
        raise AllocatorError(f"start {start} is not one of the {len(events)} events")
    allocator = CachingAllocator(capacity_bytes=capacity_bytes)
    empty_before = frozenset(empty_cache_before)
    for number in range(len(events) + 1):
        if number in empty_before:
            allocator.empty_cache()
        if number == start:
            allocator.reset_peak()
        if number < len(events) and (failure := allocator.apply(number, events[number])) is not None:
            return failure
    return Simulation(peak=allocator.peak, held=allocator.held)


def log_events(log: Log) -> tuple[Event, ...]:
    """The births and deaths of a log in order, so that an event's position is its number; the id is the birth."""
    events: dict[int, Event] = {}
    for allocation in log.allocations:
        events[allocation.born] = "alloc", allocation.born, allocation.bytes
        if allocation.died is not None:
            events[allocation.died] = "free", allocation.born, 0
    if sorted(events) != list(range(log.events)):
        raise AllocatorError(f"the log has {log.events} events, but its allocations do not fill them one by one")
    return tuple(events[number] for number in range(log.events))


def simulate(
    log: Log,
    start: int,
    end: int,
    *,
    capacity_bytes: int | None = None,
    empty_cache_before: Collection[int] = (),
) -> Simulation | AllocationFailure:
    """Predicted counters of a log just before event ``end``, and their peaks since the state before event ``start``.

    The events before ``start`` are carried out too: what they leave cached decides what the later ones reserve. See
    :func:`simulate_events` for the rest.
    """
    if not 0 <= start <= end <= log.events:
        raise AllocatorError(f"events {start} to {end} are not among the log's {log.events}")
    return simulate_events(
        log_events(log)[:end], start=start, capacity_bytes=capacity_bytes, empty_cache_before=empty_cache_before
    )


def probe(asked_bytes: int) -> AllocatorProbe:
    """What these rules do with one request while nothing is cached."""
    result = simulate_events([("alloc", 0, asked_bytes)])
    assert isinstance(result, Simulation)
    return AllocatorProbe(
        asked_bytes=asked_bytes,
        allocated_bytes=result.held.allocated_bytes,
        reserved_bytes=result.held.reserved_bytes,
    )


def require_default_rules(environment: Environment) -> None:
    """:class:`AllocatorError` if the machine's allocator has a setting that changes the rules, or probed otherwise."""
    for setting in re.split(r"[\s,]+", environment.allocator_settings):
        name, _, value = setting.rpartition("=")
        if name == "PYTORCH_NO_CUDA_MEMORY_CACHING" or (value and not NEUTRAL_SETTINGS.fullmatch(value)):
            raise AllocatorError(f"allocator setting {setting!r} is not modelled; only the default rules are")
    for measured in environment.allocator:
        if measured != (expected := probe(measured.asked_bytes)):
            raise AllocatorError(f"the allocator does not follow the default rules: {measured}, expected {expected}")
