"""Where the requested bytes of a workload can come from: what was measured, fitted, derived, or the program itself.

A number from a card is one that was measured there or fitted to what was. A replay is never called a measurement:
what was fitted to one says so, and serves only where the program has no derived formula.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from analysis.calibration import CalibratedTerm, Calibration
from analysis.derivation.derived import Derived, OutsideDomain
from analysis.formula import COLUMNS
from analysis.model import Shapes, resident_bytes
from analysis.predicting import program
from analysis.refereeing.breakdown import EstimatorError, Request
from analysis.refereeing.ours import calibrated, transient_of
from harness.records import Measured, Workload

Basis = Literal[
    "measured here",
    "calibrated on this GPU",
    "calibrated on another GPU",
    "derived from the program",
    "calibrated on a replay",
    "formula only",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """Requested bytes at a peak, with the 95 % interval of a fit; a replay or a derived formula has none.

    origin: the file and the software that it comes from. stage: what runs at the peak, "" where not known.
    """

    bytes: int
    half_width_bytes: int
    basis: Basis
    origin: str
    stage: str


Source = Callable[[Request], Requested | None]
"""``None`` where the source has nothing to say about a request."""


def measured_source(found: dict[Workload, Measured], origin: str) -> Source:
    """The stored measurements of this very card."""

    def answer(request: Request) -> Requested | None:
        outcome = found.get(request.workload)
        if outcome is None:
            return None
        size, stage = outcome.warm.requested_bytes, outcome.site.stage
        return Requested(bytes=size, half_width_bytes=0, basis="measured here", origin=origin, stage=stage)

    return answer


def calibrated_source(calibration: Calibration, gpu_label: str) -> Source:
    """A calibration, within the batches and contexts that it was fitted to."""
    environment = calibration.environment
    basis: Basis = "calibrated on another GPU"
    if environment.device != "cuda":
        basis = "calibrated on a replay"
    elif environment.gpu_label == gpu_label:
        basis = "calibrated on this GPU"
    estimate = calibrated(calibration)
    origin = f"{environment.gpu_label}, {calibration.origin}"

    def answer(request: Request) -> Requested | None:
        if not _within(calibration, request.workload):
            return None
        try:
            total = estimate(request).total_bytes
            _, form = transient_of(calibration, request)
        except EstimatorError:
            return None
        if form.dof == 0:
            return None  # a solve: nothing says that the form holds anywhere else
        half = _half_width(form, request.workload)
        return Requested(bytes=total, half_width_bytes=half, basis=basis, origin=origin, stage=form.regime.stage)

    return answer


def _within(calibration: Calibration, workload: Workload) -> bool:
    points = [
        (p.batch, p.context_tokens)
        for t in calibration.terms
        if t.configuration == workload.configuration and t.regime.phase == workload.phase
        for p in t.points
    ]
    if not points:
        return False
    batches, contexts = sorted(b for b, _ in points), sorted(c for _, c in points)
    return batches[0] <= workload.batch <= batches[-1] and contexts[0] <= workload.context_tokens <= contexts[-1]


def _half_width(form: CalibratedTerm, workload: Workload) -> int:
    """Of a form at a shape: every coefficient's half-width at its worst, and the worst residual of the fit."""
    shape = workload.batch, workload.context_tokens
    spread = sum((c.half_width or 0) * COLUMNS[c.shares[0].column](*shape) for c in form.coefficients)
    return round(spread + form.worst_residual_bytes)


def derived_source(formula: Derived) -> Source:
    """A derived formula, in its domain; exact for the software that it names."""
    environment = formula.environment
    software = f"transformers {environment.transformers}, fla {environment.fla}, torch {environment.torch}"
    origin = f"{formula.name} ({software})"

    def answer(request: Request) -> Requested | None:
        shape = request.batch, request.context_tokens
        try:
            size = formula.peak_bytes(*shape)
        except OutsideDomain:
            return None
        return Requested(
            bytes=size, half_width_bytes=0, basis="derived from the program", origin=origin, stage=""
        )  # fmt: skip

    return answer


def program_source(shapes: Shapes) -> Source:
    """The family's program in symbols, where it knows the configuration."""
    origin = f"transformers {program.TRANSFORMERS} and fla {program.FLA} in symbols; not replayed for this model"

    def answer(request: Request) -> Requested | None:
        configuration = request.workload.configuration
        if not program.knows(shapes, configuration):
            return None
        point = program.peak(shapes, request.workload)
        size = resident_bytes(shapes, configuration.model_class) + point.bytes
        return Requested(bytes=size, half_width_bytes=0, basis="formula only", origin=origin, stage=point.stage)

    return answer
