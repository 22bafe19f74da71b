"""From what ran under a release to its record: the marks of each shape, and the tensors alive at the peak, by kind."""

from collections.abc import Iterable
from itertools import groupby

from vram_ledger.analysis.derivation.groups import any_layer, group_of
from vram_ledger.analysis.versions.records import Observed, Point, Software, Tensor
from vram_ledger.harness.events import STANDING, Allocation, EventLog, alive, peak_event, peak_site
from vram_ledger.harness.records import Environment, Fits, Kernels, Phase, Workload

WEIGHTS = "weights"


def software_of(environment: Environment) -> Software:
    """The releases that a process found."""
    return Software(**{name: getattr(environment, name) for name in Software.__dataclass_fields__})


def observed(
    phase: Phase,
    failed: str,
    kernels: Kernels | None,
    fits: Iterable[tuple[Workload, Fits]],
    log: EventLog | None,
) -> Observed:
    """The record of a phase. log: of the last workload that ran."""
    ran = list(fits)
    return Observed(
        phase=phase,
        failed=failed,
        kernels=kernels,
        points=tuple(point_of(workload, fit) for workload, fit in ran),
        guessed=tuple(sorted({read.source for _, fit in ran for read in fit.guessed})),
        running=running_at_peak(log) if log else "",
        tensors=tensors_at_peak(log) if log else (),
    )


def point_of(workload: Workload, fits: Fits) -> Point:
    """The marks of a shape; an emulated card knows all three."""
    peak = fits.peak
    assert peak.allocated_bytes is not None
    assert peak.reserved_bytes is not None
    return Point(
        batch=workload.batch,
        context_tokens=workload.context_tokens,
        requested_bytes=peak.requested_bytes,
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
    )


def running_at_peak(log: EventLog) -> str:
    """What made the tensor with which the peak was reached: "mul in model.layers.*.linear_attn (file.py:12)"."""
    site = peak_site(log)[1]
    return f"{site.op} in {any_layer(site.module or '') or 'the model'} ({site.source})"


def tensors_at_peak(log: EventLog) -> tuple[Tensor, ...]:
    """What is alive at the peak, the largest kinds first; the weights are one kind."""
    event, _ = peak_event(log, log.marks["start"], log.marks["end"])
    living = alive(log, event)
    kinds = sorted(((_kind(a), a) for a in living if a.op not in STANDING), key=lambda item: item[0])
    found = [_tensor(kind, [a for _, a in same]) for kind, same in groupby(kinds, key=lambda item: item[0])]
    for op in STANDING:
        standing = [a for a in living if a.op == op]
        if standing:
            found.append(_tensor((WEIGHTS, "", op, "", "", ()), standing))
    return tuple(sorted(found, key=lambda t: (-t.bytes, t.source, t.op)))


_Kind = tuple[str, str, str, str, str, tuple[int, ...]]


def _kind(a: Allocation) -> _Kind:
    return group_of(a), any_layer(a.module), a.op, a.source, a.dtype, a.shape


def _tensor(kind: _Kind, alike: list[Allocation]) -> Tensor:
    group, module, op, source, dtype, shape = kind
    return Tensor(
        group=group,
        module=module,
        op=op,
        source=source,
        dtype=dtype,
        shape=shape,
        count=len(alike),
        bytes=sum(a.bytes for a in alike),
    )
