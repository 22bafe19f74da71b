"""Loops of a program whose number of rounds hangs on the shape, such as the torch reference's over chunks of 64 tokens.

A log in which a stretch of events comes again and again is shortened to :data:`ROUNDS` rounds of it, in which
everything happens that happens in any number of them: the first frees what lay there before, the second what the first
made, the third what the second made, and so does every other. How many there are is a form of the shape like a size.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vram_ledger.analysis.allocation.steps import coded
from vram_ledger.analysis.derivation.forms import Ints
from vram_ledger.harness.events import Allocation, EventLog

ROUNDS = 3
MOST_LENGTH = 64  # events of a round: of a few ops, never of a layer
LEAST_REQUESTS = 4  # of a round; fewer are as well written out


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop of a shortened log: the event with which it begins, the events of a round, and how many rounds it had."""

    start: int
    length: int
    rounds: int


def shortened(log: EventLog) -> tuple[EventLog, tuple[Loop, ...]]:
    """The log with :data:`ROUNDS` rounds of every loop, and its loops in order."""
    tokens = _tokens(log)
    loops: list[Loop] = []
    kept: list[int] = []
    done = 0
    for start, length, rounds in _stretches(np.array(tokens, dtype=np.int64)):
        kept += range(done, start + ROUNDS * length)
        loops.append(Loop(start=len(kept) - ROUNDS * length, length=length, rounds=rounds))
        done = start + rounds * length
    kept += range(done, len(tokens))
    return (_rewritten(log, tokens, kept), tuple(loops)) if loops else (log, ())


def _tokens(log: EventLog) -> list[int]:
    """A log's events as tokens (:mod:`analysis.allocation.steps`); requests of one kind and size have one number."""
    numbers: dict[tuple[object, ...], int] = {}
    requests, ends = {}, {}
    for a in log.allocations:
        kind = (a.op, a.module, a.source, a.dtype, a.shape, a.bytes)
        requests[a.born] = numbers.setdefault(kind, len(numbers))
        if a.died is not None:
            ends[a.died] = a.born
    return coded(requests, ends)


def _stretches(tokens: Ints) -> list[tuple[int, int, int]]:
    """Where a stretch comes again and again: start, length of a round, rounds; in order, none within another."""
    taken = np.zeros(len(tokens), dtype=bool)
    found = []
    for length in range(2 * LEAST_REQUESTS, min(MOST_LENGTH, len(tokens) // ROUNDS) + 1):
        different = np.flatnonzero(tokens[:-length] != tokens[length:])
        edges = np.concatenate([[-1], different, [len(tokens) - length]])
        again = np.diff(edges) - 1
        for at in np.flatnonzero(again >= (ROUNDS - 1) * length):
            start, rounds = int(edges[at]) + 1, int(again[at]) // length + 1
            once = tokens[start : start + length]
            balanced = 2 * int((once >= 0).sum()) == length
            if balanced and not taken[start : start + rounds * length].any():
                taken[start : start + rounds * length] = True
                found.append((start, length, rounds))
    return sorted(found)


def _rewritten(log: EventLog, tokens: Sequence[int], kept: Sequence[int]) -> EventLog:
    """The log of the events that are kept; a death is that of what then lies where its own lay."""
    by_birth = {a.born: a for a in log.allocations}
    at = np.searchsorted(np.array(kept, dtype=np.int64), np.arange(log.events + 1)).tolist()
    born: list[Allocation] = []
    died: dict[int, int] = {}
    alive: list[int] = []
    for event, old in enumerate(kept):
        if tokens[old] >= 0:
            alive.append(len(born))
            born.append(dataclasses.replace(by_birth[old], born=event, died=None))
        else:
            died[alive.pop(tokens[old])] = event
    return EventLog(
        allocations=tuple(dataclasses.replace(a, died=died.get(number)) for number, a in enumerate(born)),
        events=len(kept),
        marks={name: at[event] for name, event in log.marks.items()},
    )
