"""What a program asks of the allocator, as text: requests and their ends in order, with what repeats written once.

A token of 0 or more is a request, by its number in a table; -d ends the d-th youngest of the requests that are alive,
so that layers that do the same have the same tokens; :data:`RELEASE` gives the cache back. In text, tokens are numbers,
"e" is a release, and "16(…)" stands for what is in the brackets sixteen times.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from vram_ledger.analysis.allocation.rules import AllocationFailure, AllocatorError, CachingAllocator

RELEASE = -(2**40)
LEAST_SAVED = 4  # tokens that writing a repetition once must save
MOST_TOKENS = 2**24  # no phase has so many; a text of a few bytes could
WORD = re.compile(r"\s*(?:(\d+)\(|(-?\d+)|(e)|(\)))")


def folded(tokens: Sequence[int]) -> str:
    """Tokens as text. Of all repetitions the one that saves most is written once, and so on in all its parts."""
    repeated = _repetition(np.array(tokens, dtype=np.int64))
    if repeated is None:
        return " ".join("e" if token == RELEASE else str(token) for token in tokens)
    start, period, times = repeated
    parts = [
        folded(tokens[:start]),
        f"{times}({folded(tokens[start : start + period])})",
        folded(tokens[start + period * times :]),
    ]
    return " ".join(part for part in parts if part)


def _repetition(tokens: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[int, int, int] | None:
    """Where the repetition starts that saves most, how long one time is, and how many there are."""
    best = (LEAST_SAVED - 1, 0, 0, 0)
    for period in range(1, len(tokens) // 2 + 1):
        different = np.flatnonzero(tokens[:-period] != tokens[period:])
        edges = np.concatenate([[-1], different, [len(tokens) - period]])
        lengths = np.diff(edges) - 1
        longest = int(lengths.argmax())
        times = int(lengths[longest]) // period + 1
        if (saved := (times - 1) * period) > best[0]:
            best = (saved, int(edges[longest]) + 1, period, times)
    return best[1:] if best[2] else None


def unfolded(text: str) -> tuple[int, ...]:
    """The tokens of a text; :class:`AllocatorError` names the place that is none."""
    stack: list[tuple[int, list[int]]] = [(1, [])]
    at, end = 0, len(text.rstrip())
    while at < end:
        found = WORD.match(text, at)
        closes = found is not None and found[4] is not None
        if found is None or (closes and len(stack) == 1):
            raise AllocatorError(f"no step at character {at} of a program: {text[at : at + 20]!r}")
        at = found.end()
        if found[1] is not None:
            stack.append((int(found[1]), []))
        elif closes:
            times, inner = stack.pop()
            if times * len(inner) > MOST_TOKENS:
                raise AllocatorError(f"a program repeats {len(inner):,} steps {times:,} times")
            stack[-1][1].extend(inner * times)
        else:
            stack[-1][1].append(RELEASE if found[3] else int(found[2]))
    if len(stack) > 1:
        raise AllocatorError(f"{len(stack) - 1} brackets of a program are not closed")
    return tuple(stack[0][1])


def coded(requests: Mapping[int, int], ends: Mapping[int, int], releases: Collection[int] = ()) -> list[int]:
    """Tokens of requests, numbers by event; of their ends, events of the requests by event; and of releases."""
    alive: list[int] = []
    tokens = []
    for event in sorted([*requests, *ends, *releases]):
        if event in requests:
            alive.append(event)
            tokens.append(requests[event])
        elif event in ends:
            place = -1  # most that end are young
            while alive[place] != ends[event]:
                place -= 1
            tokens.append(place)
            del alive[place]
        else:
            tokens.append(RELEASE)
    return tokens


def steps_of(tokens: Iterable[int], alive: list[int], first: int) -> Iterator[list[int]]:
    """The steps of tokens for :meth:`CachingAllocator.run`, a list up to each release of the cache.

    alive: numbers of the requests that are alive, oldest first; what they are afterwards is left in it. first: the
    number of the next request.
    """
    steps: list[int] = []
    for token in tokens:
        if token >= 0:
            alive.append(first)
            first += 1
            steps.append(token)
        elif token != RELEASE:
            steps.append(~alive.pop(token))
        else:
            yield steps
            steps = []
    yield steps


def carried_out(allocator: CachingAllocator, tokens: Iterable[int], sizes: Sequence[int]) -> AllocationFailure | None:
    """Puts a program through an allocator that has none alive; what it ends with, if it does not fit."""
    for number, steps in enumerate(steps_of(tokens, [], allocator.requests)):
        if number:
            allocator.empty_cache()
        if (failure := allocator.run(steps, sizes)) is not None:
            return failure
    return None
