"""Judges a results file, term by term: against the config's shapes, against itself, and against a calibration."""

from collections.abc import Sequence

from vram_ledger.analysis.calibrating.calibration import Calibration, comparable
from vram_ledger.analysis.derivation.program import Program
from vram_ledger.analysis.evidence.fit import Coefficient, Fit, Unidentifiable
from vram_ledger.analysis.evidence.lines import FittedTerm, Sample, counting, fitted_terms, measured, unattributed_bytes
from vram_ledger.analysis.evidence.verdict import GRANULE_BYTES, Verdict, decide, point, size
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import TERMS, Term, exact_terms, held_terms, phase_regime
from vram_ledger.analysis.judging.causes import explain
from vram_ledger.analysis.judging.derived import judge_derived
from vram_ledger.analysis.judging.faults import judge_faults, judge_standards
from vram_ledger.analysis.judging.stored import (
    Reference,
    interval_of,
    judge_constant,
    judge_transient,
    judge_vision,
    unidentifiable,
)
from vram_ledger.harness.records import Configuration, Measured, Measurement, OutOfMemory, ResultsFile, Workload

CONFIG = "config"
HELD_UNITS = {"constant": "B", "per_sequence": "B/sequence", "per_token": "B/token"}


def judge(
    results: ResultsFile,
    shapes: Shapes,
    *,
    calibration: Calibration | None = None,
    replay_moved: bool | None = None,
    derived: Sequence[Program] = (),
) -> tuple[Verdict, ...]:
    """Every term's verdict, by configuration in the file's order.

    replay_moved: whether the fake device's replay differs between the two software sets, where that is known; a
    fake measurement answers it itself. derived: formulas, of which those of the very program that was measured are
    held against every point. :class:`analysis.calibrating.calibration.WrongEnvironment` if the calibration is of
    another device or card.
    """
    reference = None
    if calibration is not None:
        comparable(calibration, results.environment)
        reference = Reference.of(calibration, results, replay_moved)
    by_configuration = configurations(results)
    verdicts = [v for c, lines in by_configuration.items() for v in _judge(c, lines, shapes, reference)]
    for configuration, lines in by_configuration.items():
        verdicts += judge_derived(configuration, results.environment, measured(lines), derived)
    if by_configuration:
        verdicts += judge_standards(next(iter(by_configuration)), results.standards)
    return tuple(verdicts)


def configurations(results: ResultsFile) -> dict[Configuration, list[Measurement]]:
    """The counting lines of each configuration, in the file's order."""
    lines: dict[Configuration, list[Measurement]] = {}
    for line in counting(results.measurements).values():
        lines.setdefault(line.workload.configuration, []).append(line)
    return lines


def all_fitted_terms(results: ResultsFile) -> tuple[FittedTerm, ...]:
    """The fits of every configuration that has a point which ran."""
    ran = [measured(lines) for lines in configurations(results).values()]
    return tuple(term for points in ran if points for term in fitted_terms(points))


def out_of_memory(results: ResultsFile) -> tuple[Measurement, ...]:
    """The counting lines that did not fit: results to be listed, never faults."""
    return tuple(line for line in counting(results.measurements).values() if isinstance(line.outcome, OutOfMemory))


def counting_lines(results: ResultsFile) -> tuple[Measurement, ...]:
    """The lines that count, in the file's order."""
    return tuple(counting(results.measurements).values())


def _judge(
    configuration: Configuration, lines: Sequence[Measurement], shapes: Shapes, reference: Reference | None
) -> list[Verdict]:
    ran = measured(lines)
    verdicts = judge_faults(configuration, lines)
    if not ran:
        return verdicts
    refused = [line.workload for line in lines if isinstance(line.outcome, OutOfMemory)]
    terms = fitted_terms(ran)
    exact = {term.name: term for term in exact_terms(configuration)}
    drifted = {
        t.name for t in held_terms(configuration) if any(t.observed(m) != t.bytes(shapes, w) for w, m in ran.items())
    }
    causes = explain(shapes, ran, drifted)
    verdicts += [_judge_exact(term, exact[term.term], shapes, causes) for term in terms if term.term in exact]
    verdicts.append(_judge_ledger(configuration, ran))
    verdicts += [judge_constant(term, reference) for term in terms if term.term in ("buffers", "workspace")]
    verdicts += [v for term in terms if term.term == "vision" for v in judge_vision(term, reference, refused)]
    for term in terms:
        if term.term == "held":
            verdicts += _judge_held(term, shapes, causes, refused)
        elif term.term == "transient":
            verdicts += judge_transient(term, shapes, reference, refused)
    return verdicts


def _judge_exact(term: FittedTerm, formula: Term, shapes: Shapes, causes: dict[str, str]) -> Verdict:
    """An exact term must be met at every point to the byte, on any device. The fit only says by how much it is not.

    Where every point is met that is exact, whatever few fixed bytes beside the count do to the fit.
    """
    assert isinstance(term.fit, Fit), "one column that is never zero always has a solution"
    differences = [(s.observed_bytes - formula.bytes(shapes, s.workload), s) for s in term.samples]
    worst, sample = max(differences, key=lambda d: (abs(d[0]), size(d[1].workload)))
    coefficient = term.fit.coefficients[0]
    expected = formula.coefficient(shapes, sample.workload)
    return Verdict(
        configuration=term.configuration,
        term=term.term,
        regime=term.regime,
        unit=formula.unit,
        decision="DRIFT" if worst else "EQUIVALENT",
        n=term.fit.n,
        expected=expected,
        expected_from=CONFIG,
        fitted=coefficient.value if worst else expected,
        interval=interval_of(coefficient, term.fit) if worst else None,
        exact=term.fit.exact or not worst,
        dof=term.fit.dof,
        condition=term.fit.condition,
        worst_residual_bytes=term.fit.worst_residual_bytes if worst else 0,
        reference=point(sample.workload),
        difference_bytes=worst,
        tolerance_bytes=0,
        cause=causes.get(term.term, ""),
    )


def _judge_ledger(configuration: Configuration, ran: dict[Workload, Measured]) -> Verdict:
    """What is held must be the sum of its named parts: no byte without a term."""
    gaps = [(unattributed_bytes(m), w) for w, m in ran.items()]
    worst, workload = max(gaps, key=lambda gap: (abs(gap[0]), size(gap[1])))
    return Verdict(
        configuration=configuration,
        term="unattributed",
        regime=phase_regime(None),
        unit="B",
        decision="DRIFT" if worst else "EQUIVALENT",
        n=len(ran),
        expected=0,
        expected_from="closed ledger",
        fitted=worst,
        exact=not worst,
        reference=f"{workload.phase} {point(workload)}",
        difference_bytes=worst,
        tolerance_bytes=0,
        cause="held bytes that belong to no term" if worst else "",
    )


def _judge_held(term: FittedTerm, shapes: Shapes, causes: dict[str, str], refused: Sequence[Workload]) -> list[Verdict]:
    """The formula recovered from totals alone, as if nothing were known of the parts."""
    if isinstance(term.fit, Unidentifiable):
        return [unidentifiable(term, term.fit, CONFIG, refused)]
    largest = max(term.samples, key=lambda s: size(s.workload))
    workload = largest.workload
    per = {t.name: t.coefficient(shapes, workload) for t in TERMS}
    kv_tensors, state_tensors = 2 * shapes.n_full, 2 * shapes.n_linear
    state = per["recurrent_state"] + per["conv_state"]
    state_cause = causes.get("recurrent_state") or causes.get("conv_state", "")
    # Column -> expected coefficient, its count at the reference point, live tensors of the term, cause if it drifted.
    expectations = {
        "constant": (sum(t.fixed(shapes, workload) for t in TERMS), 1, 1, ""),
        "per_sequence": (state, workload.batch, state_tensors, state_cause),
        "per_token": (per["kv_cache"], workload.batch * workload.cached_tokens, kv_tensors, causes.get("kv_cache", "")),
    }
    return [
        _judge_held_coefficient(term, term.fit, coefficient, largest, expectations[coefficient.shares[0].column])
        for coefficient in term.fit.coefficients
    ]


def _judge_held_coefficient(
    term: FittedTerm, fit: Fit, coefficient: Coefficient, largest: Sample, expectation: tuple[int, int, int, str]
) -> Verdict:
    expected, count, tensors, cause = expectation
    difference = (coefficient.value - expected) * count
    tolerance = GRANULE_BYTES * tensors
    # Without degrees of freedom there is no interval, but the reference predicts the very points that were solved.
    decision = decide(difference, (coefficient.half_width or 0) * count, tolerance)
    return Verdict(
        configuration=term.configuration,
        term=f"held {coefficient.label}",
        regime=term.regime,
        unit=HELD_UNITS[coefficient.shares[0].column],
        decision=decision,
        n=fit.n,
        expected=expected,
        expected_from=CONFIG,
        fitted=coefficient.value,
        interval=interval_of(coefficient, fit),
        exact=fit.exact,
        dof=fit.dof,
        condition=fit.condition,
        worst_residual_bytes=fit.worst_residual_bytes,
        reference=point(largest.workload),
        difference_bytes=difference,
        tolerance_bytes=tolerance,
        cause="" if decision == "EQUIVALENT" else cause,
    )
