"""What moved between neighbours: runs along one library, folded where nothing did, and tensors that came or went."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vram_ledger.analysis.versions.records import PACKAGES, Observed, Run, Tensor
from vram_ledger.analysis.versions.shapes import slope_of
from vram_ledger.harness.events import STANDING
from vram_ledger.harness.records import PHASES, Phase


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

    elsewhere: what another op or file makes now, of the same size and type, as it was and as it is. moved_bytes: of the
    requested peak there, to the byte what came less what went. slopes: bytes a token, before and after; ``None`` where
    the peak is on no one line.
    """

    phase: Phase
    before: Run
    after: Run
    moved_bytes: int
    slopes: tuple[int | None, int | None]
    went: tuple[Tensor, ...]
    came: tuple[Tensor, ...]
    elsewhere: tuple[tuple[Tensor, Tensor], ...]

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


def stretches(runs: Iterable[Run], package: str, phases: Sequence[Phase] = PHASES) -> tuple[Stretch, ...]:
    """The runs, neighbours that are the same in these phases being one stretch."""
    groups = groupby(runs, key=lambda run: [_figures(run.observed(phase)) for phase in phases])
    return tuple(Stretch(package=package, runs=tuple(same)) for _, same in groups)


def _figures(observed: Observed) -> tuple[Any, ...]:
    return bool(observed.failed), observed.kernels, observed.points


def step_between(before: Run, after: Run, phase: Phase) -> Step | None:
    """The step between two runs in a phase; ``None`` where one of them has no tensors to compare."""
    old, new = before.observed(phase), after.observed(phase)
    if not (old.tensors and new.tensors):
        return None
    went, came, elsewhere = compared(old.tensors, new.tensors)
    return Step(
        phase=phase,
        before=before,
        after=after,
        moved_bytes=peak_bytes(new) - peak_bytes(old),
        slopes=(slope_of(old), slope_of(new)),
        went=went,
        came=came,
        elsewhere=elsewhere,
    )


def peak_bytes(observed: Observed) -> int:
    """The requested peak of the longest context, as the tensors alive there have it."""
    return sum(tensor.bytes for tensor in observed.tensors)


Tensors = tuple[Tensor, ...]
Pairs = tuple[tuple[Tensor, Tensor], ...]


def compared(old: Sequence[Tensor], new: Sequence[Tensor]) -> tuple[Tensors, Tensors, Pairs]:
    """What went, what came, and what is made elsewhere; a tensor whose line alone moved has not moved."""
    left, more = [_units(t) for t in old], [_units(t) for t in new]
    elsewhere = []
    for alike in (_exactly, _identity, _size):
        for i, before in enumerate(old):
            for j, after in enumerate(new):
                taken = min(left[i], more[j])
                if taken and alike(before) == alike(after):
                    left[i] -= taken
                    more[j] -= taken
                    if alike is _size:
                        elsewhere.append((_of(before, taken), _of(after, taken)))
    went = tuple(_of(t, n) for t, n in zip(old, left, strict=True) if n)
    came = tuple(_of(t, n) for t, n in zip(new, more, strict=True) if n)
    return went, came, tuple(elsewhere)


def _units(tensor: Tensor) -> int:
    """How many there are; the weights, which are of many sizes, are one."""
    return 1 if tensor.op in STANDING else tensor.count


def _exactly(tensor: Tensor) -> tuple[Any, ...]:
    return _identity(tensor), tensor.source


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    file = tensor.source.rpartition(":")[0]
    return tensor.group, tensor.op, file, tensor.dtype, tensor.shape, tensor.bytes // _units(tensor)


def _size(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.bytes // _units(tensor)


def _of(tensor: Tensor, units: int) -> Tensor:
    if tensor.op in STANDING:
        return tensor
    return dataclasses.replace(tensor, count=units, bytes=tensor.bytes // tensor.count * units)
