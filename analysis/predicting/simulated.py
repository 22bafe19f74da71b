"""What the caching allocator adds to the requested bytes: replays put through its rules, stored, and looked up.

A device must have more than what is requested at the peak, because free blocks of the wrong size can't be used. How
much more depends on the sequence of sizes; :mod:`analysis.predicting.simulate` finds it by putting the whole event log
through the allocator's rules. No card has confirmed the rules yet: this is the best that is known without one.

Schema history
    1  the first published layout
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from vram_ledger.analysis.ground.files import put, stored, with_rows
from vram_ledger.errors import InputError
from vram_ledger.harness.records import Configuration, Environment, Phase, encode

SCHEMA = 1
NEAREST, LEFT_OUT = 39, 1  # of 40 alike, one lies between the second and the last but one of the others in 9 of 10


class SimulatedError(InputError):
    """A file of simulated points that can't be read; the message starts with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPoint:
    """One replay put through the rules. requested, allocated, reserved: peaks on a device without a limit.

    least_bytes: the smallest device, in steps of 2 MiB, on which the same sequence runs; there the allocator gives
    cached blocks back before it gives up.
    """

    phase: Phase
    batch: int
    context_tokens: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    least_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Simulated points of one configuration. resident_bytes: its weights and buffers."""

    name: str
    environment: Environment
    configuration: Configuration
    resident_bytes: int
    points: tuple[SimulatedPoint, ...]

    @property
    def chunked(self) -> bool:
        """Whether its prefill is fed in chunks, so that it is compared with such alone."""
        return self.configuration.prefill_chunk_tokens > 0

    def shares(self, phase: Phase) -> tuple["Share", ...]:
        """What each point of a phase takes beyond the requested bytes, as a share of its growth."""
        return tuple(
            Share(growth_bytes=growth, share=(p.least_bytes - p.requested_bytes) / growth)
            for p in self.points
            if p.phase == phase and (growth := p.requested_bytes - self.resident_bytes) > 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A point's excess as a share of its growth: the requested bytes beyond weights and buffers."""

    growth_bytes: int
    share: float


class Excess:
    """The least and the most that the allocator adds, as functions of the growth that never fall; to hold 9 in 10.

    At the growth of every known point the bounds are the range of the shares of the :data:`NEAREST` points, near by
    the ratio of the growths, of which the outermost are left out: a segment that one small tensor keeps from being
    given back makes rare excesses as large as the cache. Between two points the bounds are on a line. A bound that
    would fall is held level.
    """

    def __init__(self, shares: Sequence[Share], whose: str = "") -> None:
        self._whose = whose
        ordered = sorted(shares, key=lambda s: (s.growth_bytes, s.share))
        self._growths = [s.growth_bytes for s in ordered]
        windows = [_nearest(ordered, position) for position in range(len(ordered))]
        least = [int(min(w) * g) for w, g in zip(windows, self._growths, strict=True)]
        most = [math.ceil(max(w) * g) for w, g in zip(windows, self._growths, strict=True)]
        self._least = list(accumulate(reversed(least), min))[::-1]
        self._most = list(accumulate(most, max))

    @property
    def n(self) -> int:
        """Points known."""
        return len(self._growths)

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"simulated, from {self.n} replays {self._whose}".rstrip() if self.n else "not known: never simulated"

    def bytes(self, growth_bytes: int) -> tuple[int, int]:
        """The bounds at a growth. Where nothing is known, anything up to the growth once more must be allowed for."""
        if growth_bytes <= 0:
            return 0, 0
        if not self._growths:
            return 0, growth_bytes
        right = bisect_right(self._growths, growth_bytes)
        if right == self.n:
            times = growth_bytes / self._growths[-1]
            return int(self._least[-1] * times), math.ceil(self._most[-1] * times)
        start = (self._growths[right - 1], self._least[right - 1], self._most[right - 1]) if right else (0, 0, 0)
        part = (growth_bytes - start[0]) / (self._growths[right] - start[0])
        least = start[1] + part * (self._least[right] - start[1])
        return int(least), math.ceil(start[2] + part * (self._most[right] - start[2]))


def _nearest(ordered: Sequence[Share], position: int) -> list[float]:
    at = math.log(ordered[position].growth_bytes)
    window = ordered[max(0, position - NEAREST) : position + NEAREST + 1]
    near = sorted(window, key=lambda s: abs(math.log(s.growth_bytes) - at))[:NEAREST]
    shares = sorted(s.share for s in near)
    return shares[LEFT_OUT:-LEFT_OUT] if len(shares) == NEAREST else shares


def read_simulated(path: Path) -> Simulated:
    """Stored points; :class:`SimulatedError` names the file and what in it is not as written."""
    simulated: Simulated = stored(path, Simulated, "simulated", SCHEMA, SimulatedError)
    return simulated


def write_simulated(simulated: Simulated, path: Path) -> None:
    """Puts the file in place, a line of text a point."""
    data = {"schema": SCHEMA, **encode(simulated)}
    del data["name"]
    points = data.pop("points")
    put(path, with_rows(data, points=points))
