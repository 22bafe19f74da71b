"""An event log as a program for the allocator, and whether a machine has the allocator's rules."""

import re
from collections.abc import Sequence
from typing import Protocol

from vram_ledger.analysis.allocation.rules import AllocatorError, CachingAllocator
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


def log_steps(log: Log) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The births and deaths of a log in order, as the steps of a program, and the size of each birth."""
    births = sorted(log.allocations, key=lambda a: a.born)
    steps: dict[int, int] = {}
    for number, allocation in enumerate(births):
        steps[allocation.born] = number
        if allocation.died is not None:
            steps[allocation.died] = ~number
    if sorted(steps) != list(range(log.events)):
        raise AllocatorError(f"the log has {log.events} events, but its allocations do not fill them one by one")
    return tuple(steps[event] for event in range(log.events)), tuple(a.bytes for a in births)


def probe(asked_bytes: int) -> AllocatorProbe:
    """What these rules do with one request while nothing is cached."""
    allocator = CachingAllocator()
    allocator.run([0], [asked_bytes])
    return AllocatorProbe(
        asked_bytes=asked_bytes,
        allocated_bytes=allocator.held.allocated_bytes,
        reserved_bytes=allocator.held.reserved_bytes,
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
