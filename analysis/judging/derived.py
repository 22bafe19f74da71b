"""Verdicts on the bytes at every point against the formula that was derived from the program itself.

A fit can only say how a transient grew over the points that it saw; the derived formula says what it is, at each of
them. On the fake device there is nothing between the two but the program, so the tolerance is 0. A card, real or
emulated, has the libraries' workspace beside it, which is taken off; what is then left over is memory that an op of
this card takes inside and that of the card it was derived on does not, and its tolerance is 0 as well.
"""

from collections.abc import Iterable

from vram_ledger.analysis.derivation.derived import OtherProgram, OutsideDomain
from vram_ledger.analysis.derivation.program import Program, shape_of
from vram_ledger.analysis.evidence.lines import workspace_bytes
from vram_ledger.analysis.evidence.verdict import Verdict, point, size
from vram_ledger.analysis.formula.terms import phase_regime
from vram_ledger.analysis.ground.cards import multiprocessors_of
from vram_ledger.analysis.ground.kinds import REPLAYED, kind_of
from vram_ledger.harness.records import Configuration, Environment, Measured, Phase, Workload
from vram_ledger.home import GPUS

TERM = "peak and held (every point, derived)"
OWN_TERM = "peak in another attention kernel"


def judge_derived(
    configuration: Configuration,
    environment: Environment,
    ran: dict[Workload, Measured],
    formulas: Iterable[Program],
) -> list[Verdict]:
    """One verdict a phase that has a formula of this program, by the nearest one; none where there is no such."""
    nearest: dict[Phase, tuple[Program, dict[Workload, Measured]]] = {}
    for program in sorted(formulas, key=lambda f: f.derived.distance(environment)):
        points = {
            w: m for w, m in ran.items() if w.phase == program.derived.phase and _same(program, w, environment, m)
        }
        if points:
            nearest.setdefault(program.derived.phase, (program, points))
    verdicts: list[Verdict] = []
    for phase, (program, points) in nearest.items():
        own = {w: m for w, m in points.items() if _in_its_own_kernel(m, program)}
        met = {w: m for w, m in points.items() if w not in own}
        if met:
            verdicts.append(_every_point(configuration, environment, met, program))
        if own:
            verdicts.append(_own_kernel(configuration, phase, own, program))
    return verdicts


def _in_its_own_kernel(measured: Measured, program: Program) -> bool:
    """Whether the peak stands inside an attention kernel that the formula's program did not take.

    What such a kernel takes inside (flash's accumulators where it splits the keys) is the kernel's, not the program's,
    and the traced run has named it.
    """
    kernel, other = measured.kernels.attention, program.derived.kernels.attention
    return kernel != other and f"aten::{(measured.site.op or '').removeprefix('inside ')}" == kernel


def _own_kernel(
    configuration: Configuration, phase: Phase, points: dict[Workload, Measured], program: Program
) -> Verdict:
    """What the peak has over the formula where it stands in a kernel that the formula does not have."""
    over = {w: m.warm.requested_bytes - workspace_bytes(m) - _peak(program, w) for w, m in points.items()}
    workload = max(over, key=lambda w: (over[w], size(w)))
    kernel, ours = points[workload].kernels.attention, program.derived.kernels.attention
    return Verdict(
        configuration=configuration,
        term=OWN_TERM,
        regime=phase_regime(phase),
        unit="B",
        decision="NO_REFERENCE",
        n=len(points),
        expected=_peak(program, workload),
        expected_from=program.derived.origin,
        fitted=_peak(program, workload) + over[workload],
        exact=False,
        reference=point(workload),
        difference_bytes=over[workload],
        tolerance_bytes=None,
        cause=f"{kernel} at {points[workload].site.source}; the formula's program takes {ours}",
    )


def _peak(program: Program, workload: Workload) -> int:
    return program.peak_bytes(*shape_of(workload))


def _same(program: Program, workload: Workload, environment: Environment, measured: Measured) -> bool:
    try:
        program.derived.check(workload, environment, measured.kernels)
        program.peak_bytes(*shape_of(workload))
    except (OtherProgram, OutsideDomain):
        return False
    return True


def _every_point(
    configuration: Configuration, environment: Environment, points: dict[Workload, Measured], program: Program
) -> Verdict:
    """The largest difference, at the peak or in what is held after it."""
    count = environment.gpu_multiprocessors or multiprocessors_of(environment.card, GPUS)
    worst, workload, expected, where = max(
        (_difference(program, w, m, count) for w, m in points.items()), key=lambda d: (abs(d[0]), size(d[1]))
    )
    replayed = kind_of(environment) is REPLAYED
    cause = "the program no longer allocates what it was derived from" if replayed else where
    return Verdict(
        configuration=configuration,
        term=TERM,
        regime=phase_regime(program.derived.phase),
        unit="B",
        decision="DRIFT" if worst else "EQUIVALENT",
        n=len(points),
        expected=expected,
        expected_from=program.derived.origin,
        fitted=expected + worst,
        exact=not worst,
        reference=point(workload),
        difference_bytes=worst,
        tolerance_bytes=0,
        cause=cause if worst else "",
    )


def _difference(
    program: Program, w: Workload, m: Measured, multiprocessors: int | None
) -> tuple[int, Workload, int, str]:
    """The larger of the two differences, what was expected there, and what it is if not of the program."""
    workspace = workspace_bytes(m)
    peak, held = program.requested(*shape_of(w), multiprocessors)
    pairs = [
        (m.warm.requested_bytes - workspace - peak, w, peak, "memory that the program does not ask for"),
        (m.held_bytes - workspace - held, w, held, "memory held that the program does not keep"),
    ]
    return max(pairs, key=lambda pair: abs(pair[0]))
