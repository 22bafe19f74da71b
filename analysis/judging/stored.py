"""Verdicts on the terms that only a measurement can tell, transients and constants, against a stored calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vram_ledger.analysis.calibrating.calibration import (
    CalibratedTerm,
    Calibration,
    predicted_transient,
    stored_form,
    stored_points,
)
from vram_ledger.analysis.evidence.fit import EXACT_BYTES, Coefficient, Fit, Unidentifiable
from vram_ledger.analysis.evidence.lines import FittedTerm, Sample
from vram_ledger.analysis.evidence.verdict import GRANULE_BYTES, Decision, Verdict, decide, point, size
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import COLUMNS, UNITS, batches_of, logits
from vram_ledger.analysis.ground.kinds import EMULATED, REPLAYED, kind_of
from vram_ledger.analysis.judging.causes import cause
from vram_ledger.harness.records import Environment, ResultsFile, Standard, Workload

LIVE_TENSORS = 64  # bound on the tensors alive in a transient, each of which may be rounded differently elsewhere
TOO_FEW = "too few points fit this card"
SEVERITY: tuple[Decision, ...] = ("NO_REFERENCE", "EQUIVALENT", "INCONCLUSIVE", "DRIFT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A calibration as it bears on one results file.

    tolerance_bytes: 0 under the same fingerprint. cause: what moved, should a term be found to differ.
    """

    calibration: Calibration
    same_fingerprint: bool
    tolerance_bytes: int
    cause: str

    @classmethod
    def of(cls, calibration: Calibration, results: ResultsFile, replay_moved: bool | None) -> "Reference":
        """The calibration beside ``results``; see :func:`analysis.judging.drift.judge` for ``replay_moved``."""
        theirs, ours = calibration.environment, results.environment
        differing = ours.differences(theirs)
        kind = kind_of(ours)
        fake = kind is REPLAYED
        why = cause(
            same_fingerprint=not differing,
            standard_moved=_moved(calibration.standards, results.standards, fake),
            # On the fake device the measurement is the replay: where bytes moved, the replay did.
            replay_moved=True if fake else replay_moved,
            emulation_moved=kind is EMULATED and "emulation" in differing,
        )
        changes = ", ".join(_change(name, theirs, ours) for name in differing)
        return cls(
            calibration=calibration,
            same_fingerprint=not differing,
            tolerance_bytes=GRANULE_BYTES * LIVE_TENSORS if differing else 0,
            cause=f"{why} [{changes}]" if changes else why,
        )


def _moved(stored: tuple[Standard, ...], now: tuple[Standard, ...], fake: bool) -> bool | None:
    if stored and now:
        return (stored[-1].probes, stored[-1].workspace_bytes) != (now[0].probes, now[0].workspace_bytes)
    return False if fake else None


def _change(name: str, before: Environment, after: Environment) -> str:
    """A differing field with both values, where they are short enough to read."""
    old, new = getattr(before, name), getattr(after, name)
    return f"{name} {old} → {new}" if max(len(str(old)), len(str(new))) <= 24 else name


def interval_of(coefficient: Coefficient, fit: Fit) -> tuple[float, float] | None:
    """The coefficient's 95 % interval; ``None`` where it is exact, or where there is no evidence for one."""
    if fit.exact or coefficient.half_width is None:
        return None
    return coefficient.value - coefficient.half_width, coefficient.value + coefficient.half_width


def unidentifiable(term: FittedTerm, found: Unidentifiable, expected_from: str, refused: Sequence[Workload]) -> Verdict:
    """The verdict on a term that its points can't determine: a fault of the grid, unless the card was too small for it.

    refused: what ran out of memory. Where that is of the term's own phase and batches, it took the points.
    """
    full = any(
        (term.regime.phase or w.phase, term.regime.batches) in ((w.phase, "all"), (w.phase, batches_of(w)))
        for w in refused
    )
    return Verdict(
        configuration=term.configuration,
        term=term.term,
        regime=term.regime,
        unit="",
        decision="NO_REFERENCE" if full else "UNIDENTIFIABLE",
        n=found.n,
        expected_from=expected_from,
        condition=found.condition,
        cause=f"{TOO_FEW if full else term.regime.label}: {found.reason}",
    )


def judge_constant(term: FittedTerm, reference: Reference | None) -> Verdict:
    """A term that is one number: buffers, or the libraries' workspace."""
    assert isinstance(term.fit, Fit), "a constant always has a solution"
    form = _constant_form(term, reference)
    coefficient = term.fit.coefficients[0]
    largest = max(term.samples, key=lambda s: size(s.workload))
    return _against(term, term.fit, coefficient, largest, reference, form, None)


def judge_vision(term: FittedTerm, reference: Reference | None, refused: Sequence[Workload]) -> list[Verdict]:
    """What the vision tower takes while it runs: one verdict a coefficient. refused: as for :func:`unidentifiable`."""
    if isinstance(term.fit, Unidentifiable):
        return [unidentifiable(term, term.fit, reference.calibration.origin if reference else "", refused)]
    form = _constant_form(term, reference)
    largest = max(term.samples, key=lambda s: size(s.workload))
    return [_against(term, term.fit, c, largest, reference, form, None) for c in term.fit.coefficients]


def _constant_form(term: FittedTerm, reference: Reference | None) -> CalibratedTerm | None:
    """By name alone: a campaign that was cut short may have seen only one of the phases."""
    stored = reference.calibration.terms if reference else ()
    found = [t for t in stored if (t.term, t.configuration) == (term.term, term.configuration)]
    return found[0] if found else None


def judge_transient(
    term: FittedTerm, shapes: Shapes, reference: Reference | None, refused: Sequence[Workload]
) -> list[Verdict]:
    """One verdict a coefficient and, given a calibration, one on the bytes at every point."""
    every = [_every_point(term, shapes, reference)] if reference else []
    origin = reference.calibration.origin if reference else ""
    if isinstance(term.fit, Unidentifiable):
        return [unidentifiable(term, term.fit, origin, refused), *every]
    form = None
    if reference:
        form = stored_form(reference.calibration, term.configuration, term.term, term.regime)
    largest = max(term.samples, key=lambda s: size(s.workload))
    agreed = every[0].decision if every else None
    rows = [_against(term, term.fit, c, largest, reference, form, agreed) for c in term.fit.coefficients]
    return [*rows, *every]


def _against(
    term: FittedTerm,
    fit: Fit,
    coefficient: Coefficient,
    largest: Sample,
    reference: Reference | None,
    form: CalibratedTerm | None,
    every_point: Decision | None,
) -> Verdict:
    """A coefficient beside the calibration's. ``every_point``: what was decided on the points themselves."""
    first = coefficient.shares[0].column
    workload = largest.workload
    count = COLUMNS[first](workload.batch, workload.context_tokens) if first in COLUMNS else 1
    known = _stored_coefficient(form, coefficient) if form else None
    decision: Decision = "NO_REFERENCE"
    difference = None
    if reference and known:
        difference = (coefficient.value - known[0]) * count
        half_width = math.hypot(coefficient.half_width or 0, known[1]) * count
        decision = _decide(reference, fit, difference, half_width, every_point)
    return Verdict(
        configuration=term.configuration,
        term=term.term if first == term.term else f"{term.term} {coefficient.label}",
        regime=term.regime,
        unit=UNITS.get(first, "B"),
        decision=decision,
        n=fit.n,
        expected=known[0] if known else None,
        expected_from=reference.calibration.origin if reference and known else "",
        fitted=coefficient.value,
        interval=interval_of(coefficient, fit),
        exact=fit.exact,
        dof=fit.dof,
        condition=fit.condition,
        worst_residual_bytes=fit.worst_residual_bytes,
        reference=point(workload),
        difference_bytes=difference,
        tolerance_bytes=reference.tolerance_bytes if reference and known else None,
        cause=reference.cause if reference and decision in ("DRIFT", "INCONCLUSIVE") else "",
    )


def _decide(
    reference: Reference, fit: Fit, difference: float, half_width: float, every_point: Decision | None
) -> Decision:
    """Under one fingerprint bytes have no noise, so the points decide and the form's own misfit is no doubt.

    Without degrees of freedom a coefficient is no evidence, unless the calibration predicts the very points.
    """
    if every_point == "EQUIVALENT" and (reference.same_fingerprint or fit.dof == 0):
        return "EQUIVALENT"
    if reference.same_fingerprint:
        return decide(difference, 0, 0)
    if fit.dof == 0:
        return "INCONCLUSIVE"
    return decide(difference, half_width, reference.tolerance_bytes)


def _stored_coefficient(form: CalibratedTerm, coefficient: Coefficient) -> tuple[float, float] | None:
    """The calibration's value and half-width of a coefficient, added up from whole coefficients of its own.

    ``None`` if the calibration could not tell apart what the coefficient takes only a part of.
    """
    wanted = {share.column: share.times for share in coefficient.shares}
    value, half_widths = 0.0, []
    for stored in form.coefficients:
        times = wanted.get(stored.shares[0].column)
        if times is not None and all(wanted.get(s.column) == times * s.times for s in stored.shares):
            wanted = {c: t for c, t in wanted.items() if c not in {s.column for s in stored.shares}}
            value += times * stored.value
            half_widths.append(times * (stored.half_width or 0))
    return None if wanted else (value, math.hypot(*half_widths))


def _every_point(term: FittedTerm, shapes: Shapes, reference: Reference) -> Verdict:
    """The bytes at each point beside the calibration's, the gravest difference quoted."""
    rows = [_at_point(term, sample, shapes, reference) for sample in term.samples]
    decision, difference, sample, expected = max(
        rows, key=lambda row: (SEVERITY.index(row[0]), abs(row[1]), size(row[2].workload))
    )
    known = expected is not None
    new_regime = not stored_form(reference.calibration, term.configuration, term.term, term.regime)
    note = "another stage at the peak than in the calibration; " if new_regime else ""
    failing = decision in ("DRIFT", "INCONCLUSIVE")
    return Verdict(
        configuration=term.configuration,
        term=f"{term.term} (every point)",
        regime=term.regime,
        unit="B",
        decision=decision,
        n=sum(row[3] is not None for row in rows),
        expected=expected,
        expected_from=reference.calibration.origin if known else "",
        fitted=sample.observed_bytes,
        exact=known and difference == 0,
        reference=point(sample.workload),
        difference_bytes=difference if known else None,
        tolerance_bytes=reference.tolerance_bytes,
        cause=note + reference.cause if failing else "" if known else "the calibration can't tell these points",
    )


def _at_point(
    term: FittedTerm, sample: Sample, shapes: Shapes, reference: Reference
) -> tuple[Decision, float, Sample, float | None]:
    workload = sample.workload
    calibration = reference.calibration
    points = stored_points(calibration, term.configuration, term.regime)
    stored = points.get((workload.batch, workload.context_tokens))
    if stored is not None:
        difference = sample.observed_bytes - stored
        return decide(difference, 0, reference.tolerance_bytes), difference, sample, stored
    found = predicted_transient(calibration, term.regime, workload, logits(shapes, workload))
    if found is None:
        return "NO_REFERENCE", 0, sample, None
    expected, form = found
    band = term.fit.band_bytes if isinstance(term.fit, Fit) else None
    doubt = math.hypot(band or 0, form.worst_residual_bytes if form.worst_residual_bytes >= EXACT_BYTES else 0)
    difference_bytes = sample.observed_bytes - expected
    # A point that is met is met, whatever the form misses elsewhere; doubt only softens a difference.
    met = decide(difference_bytes, 0, reference.tolerance_bytes) == "EQUIVALENT"
    decision = decide(difference_bytes, 0 if met else doubt, reference.tolerance_bytes)
    return decision, difference_bytes, sample, expected
