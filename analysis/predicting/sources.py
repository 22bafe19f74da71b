"""Where the requested bytes of a workload can come from: what was measured, fitted, derived, or the program itself.

A number from a card is one that was measured there or fitted to what was. Neither an emulated card nor a replay is ever
called a measurement: what was fitted to one says so, and serves only where nothing better does. The libraries'
workspace is a term of its own (:mod:`analysis.predicting.workspace`), so it is in none of these bytes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.calibrating.calibration import CalibratedTerm, Calibration
from vram_ledger.analysis.derivation.derived import Derived, OutsideDomain
from vram_ledger.analysis.estimating.breakdown import EstimatorError, Request
from vram_ledger.analysis.estimating.ours import calibrated, transient_of, workspace_term
from vram_ledger.analysis.evidence.lines import workspace_bytes
from vram_ledger.analysis.formula.shapes import Shapes, resident_bytes
from vram_ledger.analysis.formula.terms import COLUMNS
from vram_ledger.analysis.ground.kinds import EMULATED, MEASURED, Word, kind_of
from vram_ledger.analysis.predicting import program
from vram_ledger.harness.records import Configuration, Environment, Measured, Phase, Workload

Basis = Literal[
    "measured here",
    "calibrated on this GPU",
    "emulated here",
    "calibrated on an emulated card",
    "calibrated on another GPU",
    "derived from the program",
    "calibrated on a replay",
    "formula only",
]
HERE: dict[Word, Basis] = {"measured": "measured here", "emulated": "emulated here"}
WORD_OF: dict[Basis, Word] = {
    **{basis: word for word, basis in HERE.items()},
    "calibrated on this GPU": "measured",
    "calibrated on another GPU": "measured",
    "calibrated on an emulated card": "emulated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """Requested bytes at a peak without the libraries' workspace, with the 95 % interval of a fit, if it is one.

    origin: the file and the software that it comes from. stage: what runs at the peak, "" where not known.
    workspace: the card's own, where the source has seen it. reserved, process: what was counted at the very point.
    """

    bytes: int
    half_width_bytes: int
    basis: Basis
    origin: str
    stage: str
    workspace_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None

    @property
    def word(self) -> Word:
        """The kind of number that it is made from."""
        return WORD_OF.get(self.basis, "replayed")


Source = Callable[[Request], Requested | None]
"""``None`` where the source has nothing to say about a request."""


def measured_source(found: dict[Workload, Measured], environment: Environment, origin: str) -> Source:
    """The stored points of this very card, measured or emulated."""
    basis = HERE[kind_of(environment).word]

    def answer(request: Request) -> Requested | None:
        outcome = found.get(request.workload)
        if outcome is None:
            return None
        peak, workspace = outcome.warm, workspace_bytes(outcome)
        return Requested(
            bytes=peak.requested_bytes - workspace,
            half_width_bytes=0,
            basis=basis,
            origin=origin,
            stage=outcome.site.stage,
            workspace_bytes=workspace,
            reserved_bytes=peak.reserved_bytes,
            process_bytes=peak.process_bytes,
        )

    return answer


def calibrated_source(calibration: Calibration, gpu_label: str) -> Source:
    """A calibration, within the batches and contexts that it was fitted to."""
    environment = calibration.environment
    kind, here = kind_of(environment), environment.card == gpu_label
    basis: Basis = "calibrated on a replay"
    if kind is MEASURED:
        basis = "calibrated on this GPU" if here else "calibrated on another GPU"
    elif kind is EMULATED:
        basis = "calibrated on an emulated card"
    own = here and kind in (MEASURED, EMULATED)
    estimate = calibrated(calibration)
    origin = f"{environment.gpu_label}, {calibration.origin}"

    extents = _extents(calibration)

    def answer(request: Request) -> Requested | None:
        if not _within(extents, request.workload):
            return None
        try:
            total = estimate(request).total_bytes
            workspace = workspace_term(calibration, request.workload.configuration)
            _, form = transient_of(calibration, request)
        except EstimatorError:
            return None
        if form.dof == 0:
            return None  # a solve: nothing says that the form holds anywhere else
        half = _half_width(form, request.workload)
        return Requested(
            bytes=total - workspace,
            half_width_bytes=half,
            basis=basis,
            origin=origin,
            stage=form.regime.stage,
            workspace_bytes=workspace if own else None,
        )

    return answer


Extents = dict[tuple[Configuration, Phase | None], tuple[range, range]]


def _extents(calibration: Calibration) -> Extents:
    """The batches and contexts, from the least to the most, that a calibration was fitted to."""
    points: dict[tuple[Configuration, Phase | None], set[tuple[int, int]]] = {}
    for term in calibration.terms:
        if fitted := {(p.batch, p.context_tokens) for p in term.points}:
            points.setdefault((term.configuration, term.regime.phase), set()).update(fitted)
    return {key: (_span(b for b, _ in found), _span(c for _, c in found)) for key, found in points.items()}


def _span(values: Iterable[int]) -> range:
    known = sorted(values)
    return range(known[0], known[-1] + 1)


def _within(extents: Extents, workload: Workload) -> bool:
    known = extents.get((workload.configuration, workload.phase))
    return known is not None and workload.batch in known[0] and workload.context_tokens in known[1]


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


def program_source(shapes: Shapes, capability: str) -> Source:
    """The family's program in symbols on a card of this capability, where it knows the configuration."""
    versions = " or ".join(sorted(program.TRANSFORMERS))
    origin = f"transformers {versions} and fla {program.FLA} in symbols; not replayed for this model"

    def answer(request: Request) -> Requested | None:
        configuration = request.workload.configuration
        if not program.knows(shapes, configuration):
            return None
        point = program.peak(shapes, request.workload, capability)
        size = resident_bytes(shapes, configuration.model_class) + point.bytes
        return Requested(bytes=size, half_width_bytes=0, basis="formula only", origin=origin, stage=point.stage)

    return answer
