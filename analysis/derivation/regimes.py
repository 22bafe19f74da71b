"""Finds the regimes: where the sequence of a program's events changes, by probing both axes and by bisection."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from vram_ledger.analysis.derivation.forms import MASK_TOKENS, MOST_BATCH, MOST_CONTEXT_TOKENS
from vram_ledger.harness.events import EventLog

PROBED_TOKENS = (1, 2, 3, 4, 8, 15, 16, 31, 64, 65, 128, 1000, 4096, 65_535, MOST_CONTEXT_TOKENS)
PROBED_BATCHES = (1, 2, 3, 16, MOST_BATCH)
MOST_CHANGES = 6  # more along one axis are no ranges


class NoRanges(ValueError):
    """Sequences that alternate along an axis, so that no few ranges hold them."""


def signature(log: EventLog) -> str:
    """What stays the same within a regime: every birth's op, module, line and dtype, and the order of all events."""
    events: list[object] = [None] * log.events
    for index, a in enumerate(log.allocations):
        events[a.born] = (a.op, a.module, a.source, a.dtype, len(a.shape))
        if a.died is not None:
            events[a.died] = index
    return hashlib.sha256(repr((events, sorted(log.marks.items()))).encode()).hexdigest()


def ranges(kind: Callable[[int], str], probes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The ranges of an axis in which ``kind`` is the same, between the first and the last probe.

    Probes next to each other that agree are taken for one range; between two that differ every change is bisected.
    :class:`NoRanges` if a kind comes back after another one, or if there are too many.
    """
    changes: list[int] = []
    for low, high in pairwise(probes):
        for change in _changes(kind, low, high):
            changes.append(change)
            _check(kind, probes[0], changes)
    starts = [probes[0], *changes]
    return tuple(zip(starts, [c - 1 for c in changes] + [probes[-1]], strict=True))


def _check(kind: Callable[[int], str], first: int, changes: list[int]) -> None:
    kinds = [kind(at) for at in (first, *changes)]
    if len(changes) > MOST_CHANGES or len(set(kinds)) < len(kinds):
        raise NoRanges(f"the sequence of events changes at {', '.join(f'{c:,}' for c in changes)} and back again")


def _changes(kind: Callable[[int], str], low: int, high: int) -> Iterator[int]:
    """The values in (low, high] whose kind is not that of the value before."""
    if kind(low) == kind(high):
        return
    if high - low == 1:
        yield high
        return
    middle = (low + high) // 2
    yield from _changes(kind, low, middle)
    yield from _changes(kind, middle, high)


def with_mask(number: int, padded: bool, unit: int = MASK_TOKENS) -> int:
    """The ``number``-th (from 0) count of cached tokens that is a multiple of a unit, or, ``padded``, that is none."""
    if not padded:
        return (number + 1) * unit
    return number // (unit - 1) * unit + number % (unit - 1) + 1


def number_of(cached: int, padded: bool, unit: int = MASK_TOKENS) -> int:
    """The largest ``number`` for which :func:`with_mask` gives at most ``cached``; -1 if there is none."""
    if not padded:
        return cached // unit - 1
    whole, rest = divmod(cached, unit)
    return whole * (unit - 1) + rest - 1
