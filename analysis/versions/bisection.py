"""In which release a figure moved, found by halving: of many releases only a few are run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.versions.records import Observed, Run
from vram_ledger.analysis.versions.shapes import point_at, slope_of
from vram_ledger.errors import Refused
from vram_ledger.harness.records import Phase

MARKS = ("requested", "allocated", "reserved")
QUANTITIES = ("slope", *MARKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What is looked at: bytes a token, or a high-water mark of a shape. name: of :data:`QUANTITIES`."""

    name: str
    phase: Phase
    batch: int
    context_tokens: int

    @property
    def text(self) -> str:
        """In words."""
        if self.name == "slope":
            return f"bytes a token of the {self.phase}'s requested peak"
        return f"{self.name} peak of a {self.phase} of {self.context_tokens:,} tokens × {self.batch}, bytes"

    def of(self, run: Run) -> int | None:
        """The figure of a run; ``None`` where it has none."""
        observed: Observed = run.observed(self.phase)
        if self.name == "slope":
            return slope_of(observed)
        point = point_at(observed, self.batch, self.context_tokens)
        return None if point is None else getattr(point, f"{self.name}_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Two neighbours of the releases that have a figure: the last with the one at the start, the first with another.

    looked: every release that was asked for, in that order, with its figure; ``None``: it has none.
    """

    before: str
    after: str
    looked: tuple[tuple[str, int | None], ...]

    @property
    def without(self) -> tuple[str, ...]:
        """The releases that have no figure."""
        return tuple(release for release, value in self.looked if value is None)


class NotMoved(Refused):
    """The figure is the same at both ends, or one end has none; the message says which."""


def bisected(releases: Sequence[str], value: Callable[[str], int | None]) -> Found:
    """The first release, between the first and the last of these, whose figure is not the first one's.

    A release without a figure is passed over for a neighbour. Where the figure moves more than once, it is one of the
    moves away from the first one's. :class:`NotMoved`.
    """
    looked: dict[str, int | None] = {}

    def figure(place: int) -> int | None:
        release = releases[place]
        if release not in looked:
            looked[release] = value(release)
        return looked[release]

    low, high = 0, len(releases) - 1
    first, last = figure(low), figure(high)
    for release, end in ((releases[low], first), (releases[high], last)):
        if end is None:
            raise NotMoved(f"{release} has no such figure")
    if first == last:
        raise NotMoved(f"{releases[low]} and {releases[high]} have the same: {first:,}")
    while middle := _middle(low, high, figure):
        low, high = (middle, high) if figure(middle) == first else (low, middle)
    return Found(before=releases[low], after=releases[high], looked=tuple(looked.items()))


def _middle(low: int, high: int, figure: Callable[[int], int | None]) -> int | None:
    """The release nearest to the middle that has a figure; ``None`` where there is none between the ends."""
    between = sorted(range(low + 1, high), key=lambda place: abs(2 * place - low - high))
    return next((place for place in between if figure(place) is not None), None)
