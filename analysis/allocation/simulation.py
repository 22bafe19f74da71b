"""An event log as a program for the allocator."""

from collections.abc import Sequence
from typing import Protocol

from vram_ledger.analysis.allocation.rules import AllocatorError


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
