"""Our own formula as one more estimator: exact terms from the config, constants and transient from a calibration."""

import dataclasses
import functools

from vram_ledger.analysis.calibrating.calibration import (
    CalibratedTerm,
    Calibration,
    make_calibration,
    predicted_transient,
)
from vram_ledger.analysis.estimating.breakdown import Breakdown, Estimator, EstimatorError, Request, added_up
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import batches_of, inputs, logits, media, phase_regime, predict
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.harness.records import Configuration, ResultsFile, Workload


def exact_terms(request: Request) -> Breakdown:
    """Weights, cache, states and inputs from the config alone: what must fit, whatever runs."""
    return added_up("requested", **_held(request))


def calibrated(calibration: Calibration) -> Estimator:
    """The exact terms, and what the calibration was fitted to for the rest."""
    by_configuration: dict[object, int] = {}

    def estimate(request: Request) -> Breakdown:
        configuration = request.workload.configuration
        if configuration not in by_configuration:
            by_configuration[configuration] = _constants(calibration, request)
        terms = _held(request)
        terms["overhead"] += by_configuration[configuration]
        return added_up("requested", **terms, activations=transient_of(calibration, request)[0])

    return estimate


def held_out(results: ResultsFile, shapes: Shapes) -> Estimator:
    """As :func:`calibrated`, but each request is answered from a fit to all the other contexts of the results."""

    @functools.cache
    def without(context_tokens: int) -> Estimator:
        rest = tuple(m for m in results.measurements if m.workload.context_tokens != context_tokens)
        part = dataclasses.replace(results, measurements=rest)
        return calibrated(make_calibration(part, all_fitted_terms(part), judge(part, shapes), "the other contexts"))

    return lambda request: without(request.context_tokens)(request)


def _held(request: Request) -> dict[str, float]:
    """The exact terms at the peak, where a decode step's dynamic cache still lacks the new token."""
    workload, shapes = request.workload, request.shapes
    terms = predict(shapes, workload)
    return {
        "weights": terms["weights"],
        "kv_cache": cache_at_peak(workload, terms["kv_cache"]),
        "recurrent_state": terms["recurrent_state"],
        "conv_state": terms["conv_state"],
        "overhead": inputs(shapes, workload) + media(shapes, workload),
    }


def cache_at_peak(workload: Workload, held_bytes: int) -> int:
    """Of a cache held after the phase, the bytes that were there when it began (all of a static or prefilled one)."""
    before, after = workload.context_tokens, workload.cached_tokens
    if workload.configuration.cache == "second":  # the other one has as many tokens, and none to come
        return held_bytes * 2 * before // (after + before)
    return held_bytes * before // after if workload.configuration.cache == "dynamic" else held_bytes


def _constants(calibration: Calibration, request: Request) -> int:
    configuration = request.workload.configuration
    constants = [
        t for t in calibration.terms if t.configuration == configuration and t.term in ("buffers", "workspace")
    ]
    if not constants:
        raise EstimatorError(f"{request.text}: {calibration.name} has nothing for this configuration")
    return round(sum(c.value for term in constants for c in term.coefficients))


def workspace_term(calibration: Calibration, configuration: Configuration) -> int:
    """Of those constants the libraries' workspace, which is the calibrated card's and not the program's."""
    found = [t for t in calibration.terms if (t.term, t.configuration) == ("workspace", configuration)]
    return round(sum(c.value for term in found for c in term.coefficients))


def transient_of(calibration: Calibration, request: Request) -> tuple[float, CalibratedTerm]:
    """The highest of the phase's forms: what will be running at the peak is not known beforehand.

    :class:`EstimatorError` if the calibration has none that covers the shape.
    """
    workload = request.workload
    regime = dataclasses.replace(phase_regime(workload.phase), batches=batches_of(workload))
    found = predicted_transient(calibration, regime, workload, logits(request.shapes, workload))
    if found is None:
        raise EstimatorError(f"{request.text}: {calibration.name} can't tell the transient")
    return found
