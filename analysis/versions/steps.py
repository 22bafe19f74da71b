"""What moved between neighbours: runs along one library, folded where nothing did, and tensors that came or went."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vram_ledger.analysis.versions.records import PACKAGES, Observed, Run, Tensor
from vram_ledger.analysis.versions.shapes import slope_of
from vram_ledger.harness.events import STANDING
from vram_ledger.harness.records import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Neighbouring releases under which everything is the same to the byte. package: whose releases they are."""

    package: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The oldest."""
        return self.runs[0]

    @property
    def last(self) -> Run:
        """The newest."""
        return self.runs[-1]

    @property
    def text(self) -> str:
        """The releases: "5.18.0 to 5.22.2", or the only one."""
        ends = [run.software.of(self.package) for run in (self.first, self.last)]
        return ends[0] if len(self.runs) == 1 else f"{ends[0]} to {ends[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From one stretch to the next, in one phase. went, came: tensors at the peak of the longest context.

    moved_bytes: of the requested peak there, to the byte what came less what went. slopes: bytes a token, before and
    after; ``None`` where the peak is on no one line.
    """

    phase: Phase
    before: Run
    after: Run
    moved_bytes: int
    slopes: tuple[int | None, int | None]
    went: tuple[Tensor, ...]
    came: tuple[Tensor, ...]

    @property
    def moved(self) -> bool:
        """Whether the peak or its slope is another."""
        return bool(self.moved_bytes) or self.slopes[0] != self.slopes[1]


def along(runs: Iterable[Run], package: str, fixed: dict[str, str]) -> tuple[Run, ...]:
    """The runs that differ in one library alone. fixed: versions of the others; the newest of what is not given."""
    found = sorted(runs, key=lambda run: run.software.rank)
    for other in (p for p in reversed(PACKAGES) if p != package):
        wanted = fixed.get(other) or (found[-1].software.of(other) if found else "")
        found = [run for run in found if run.software.of(other) == wanted]
    return tuple(found)


def stretches(runs: Iterable[Run], package: str) -> tuple[Stretch, ...]:
    """The runs, neighbours that are the same being one stretch."""
    folded: list[list[Run]] = []
    for run in runs:
        if folded and _figures(folded[-1][-1]) == _figures(run):
            folded[-1].append(run)
        else:
            folded.append([run])
    return tuple(Stretch(package=package, runs=tuple(same)) for same in folded)


def _figures(run: Run) -> list[tuple[Any, ...]]:
    return [(o.phase, bool(o.failed), o.kernels, o.points) for o in run.phases]


def step_between(before: Run, after: Run, phase: Phase) -> Step | None:
    """The step between two runs in a phase; ``None`` where one of them has no tensors to compare."""
    old, new = before.observed(phase), after.observed(phase)
    if not (old.tensors and new.tensors):
        return None
    went, came = differing(old.tensors, new.tensors), differing(new.tensors, old.tensors)
    return Step(
        phase=phase,
        before=before,
        after=after,
        moved_bytes=peak_bytes(new) - peak_bytes(old),
        slopes=(slope_of(old), slope_of(new)),
        went=went,
        came=came,
    )


def peak_bytes(observed: Observed) -> int:
    """The requested peak of the longest context, as the tensors alive there have it."""
    return sum(tensor.bytes for tensor in observed.tensors)


def differing(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Our tensors that they have not, as many as we have more; one whose line alone moved is the same."""
    return tuple(_of(tensor, more) for tensor, more in _left(list(ours), list(theirs)) if more > 0)


def _left(ours: list[Tensor], theirs: list[Tensor]) -> Iterable[tuple[Tensor, int]]:
    """Of each of ours, how many are left when theirs are taken away, those of the same line first."""
    left, counts = [_units(t) for t in ours], [_units(t) for t in theirs]
    alike: list[Callable[[Tensor], Any]] = [_exactly, _identity]
    for same in alike:
        for i, tensor in enumerate(ours):
            for j, other in enumerate(theirs):
                if left[i] and counts[j] and same(tensor) == same(other):
                    taken = min(left[i], counts[j])
                    left[i] -= taken
                    counts[j] -= taken
    return zip(ours, left, strict=True)


def _units(tensor: Tensor) -> int:
    """How many there are; the weights, which are of many sizes, are one."""
    return 1 if tensor.op in STANDING else tensor.count


def _exactly(tensor: Tensor) -> tuple[Any, ...]:
    return _identity(tensor), tensor.source


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    file = tensor.source.rpartition(":")[0]
    return tensor.group, tensor.op, file, tensor.dtype, tensor.shape, tensor.bytes // _units(tensor)


def _of(tensor: Tensor, units: int) -> Tensor:
    if tensor.op in STANDING:
        return tensor
    return dataclasses.replace(tensor, count=units, bytes=tensor.bytes // tensor.count * units)
