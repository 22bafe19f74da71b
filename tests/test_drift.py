"""Verdicts: planted drift is found and named, an unchanged run flags nothing, and noise proves nothing."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.synthetic import (
    CONFIGURATION,
    ENVIRONMENT,
    SHAPES,
    campaign,
    measured,
    reshaped,
    revalued,
    workload,
    workloads,
)
from vram_ledger.analysis.calibrating.calibration import Calibration, NotCalibrated, make_calibration
from vram_ledger.analysis.evidence.verdict import Verdict, decide, exit_code, summary
from vram_ledger.analysis.formula.terms import predict
from vram_ledger.analysis.judging.causes import UNEXPLAINED, cause
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge, out_of_memory
from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.records import (
    AllocatorProbe,
    Environment,
    Failure,
    Kernels,
    Measured,
    Measurement,
    OutOfMemory,
    PeakSite,
    ResultsFile,
    Standard,
    Workload,
)

Terms = Callable[[Workload], dict[str, int]]
NEWER = dataclasses.replace(ENVIRONMENT, transformers="5.23.0")
VISION = dataclasses.replace(CONFIGURATION, model_class="Qwen3_5ForConditionalGeneration")


def calibrated(results: ResultsFile | None = None) -> Calibration:
    results = results or campaign()
    return make_calibration(results, all_fitted_terms(results), judge(results, SHAPES), "27b.calibration.json")


def failing(verdicts: Iterable[Verdict]) -> dict[str, str]:
    return {v.term: v.decision for v in verdicts if not v.passes}


def causes(verdicts: Iterable[Verdict]) -> set[str]:
    return {v.cause for v in verdicts if not v.passes}


def all_logits(w: Workload) -> dict[str, int]:
    every = dataclasses.replace(w.configuration, logits="all")
    return {**predict(SHAPES, w), "logits": predict(SHAPES, dataclasses.replace(w, configuration=every))["logits"]}


def text_only(w: Workload) -> dict[str, int]:
    bare = dataclasses.replace(w.configuration, model_class="Qwen3_5ForCausalLM")
    return predict(SHAPES, dataclasses.replace(w, configuration=bare))


def with_mtp(w: Workload) -> dict[str, int]:
    terms = predict(SHAPES, w)
    return {**terms, "weights": terms["weights"] + 2 * 424_699_392}


# name of the one change -> the terms it makes, and the exact terms it must be flagged in.
PLANTS: dict[str, tuple[Terms, set[str]]] = {
    "recurrent state in bf16": (revalued(recurrent_state=0.5), {"recurrent_state", "held per_sequence"}),
    "conv width 3 instead of 4": (reshaped(conv_width=3), {"weights", "conv_state", "held per_sequence"}),
    "conv state of 3 columns instead of 4": (revalued(conv_state=0.75), {"conv_state", "held per_sequence"}),
    "2 KV heads instead of 4": (reshaped(kv_heads=2), {"weights", "kv_cache", "held per_token"}),
    "1 KV heads instead of 4": (reshaped(kv_heads=1), {"weights", "kv_cache", "held per_token"}),
    "KV cache in 8 bits": (revalued(kv_cache=0.5), {"kv_cache", "held per_token"}),
    "17 full-attention layers instead of 16": (
        reshaped(n_full=17, n_linear=47),
        {"weights", "kv_cache", "recurrent_state", "conv_state", "held per_sequence", "held per_token"},
    ),
    "15 full-attention layers instead of 16": (
        reshaped(n_full=15, n_linear=49),
        {"weights", "kv_cache", "recurrent_state", "conv_state", "held per_sequence", "held per_token"},
    ),
    "MTP resident": (with_mtp, {"weights"}),
    "full logits kept": (all_logits, {"logits"}),
}


def test_an_unchanged_run_flags_nothing() -> None:
    verdicts = judge(campaign(), SHAPES)
    assert (0, {}, {"EQUIVALENT", "NO_REFERENCE"}) == (
        exit_code(verdicts),
        failing(verdicts),
        {v.decision for v in verdicts},
    )


def test_an_unchanged_run_agrees_with_its_calibration_in_every_term() -> None:
    assert {"EQUIVALENT"} == {v.decision for v in judge(campaign(), SHAPES, calibration=calibrated())}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_change_is_flagged_in_its_own_terms_only(name: str) -> None:
    terms, flagged = PLANTS[name]
    verdicts = judge(campaign(terms), SHAPES, calibration=calibrated())
    assert dict.fromkeys(flagged, "DRIFT") == failing(verdicts)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_change_is_named(name: str) -> None:
    assert {name} == causes(judge(campaign(PLANTS[name][0]), SHAPES))


def test_a_missing_vision_tower_is_flagged_in_the_weights_and_named() -> None:
    verdicts = judge(campaign(text_only, points=workloads(VISION)), SHAPES)
    assert ({"weights": "DRIFT"}, {"vision tower absent"}) == (failing(verdicts), causes(verdicts))


def test_a_vision_tower_that_should_not_be_there_is_named() -> None:
    def resident(w: Workload) -> dict[str, int]:
        return predict(SHAPES, dataclasses.replace(w, configuration=VISION))

    assert {"vision tower resident"} == causes(judge(campaign(resident), SHAPES))


def test_two_changes_at_once_are_named_term_by_term() -> None:
    def both(w: Workload) -> dict[str, int]:
        return {**all_logits(w), "recurrent_state": predict(SHAPES, w)["recurrent_state"] // 2}

    verdicts = {v.term: v.cause for v in judge(campaign(both), SHAPES)}
    assert ("full logits kept (this term alone)", "recurrent state in bf16 (this term alone)") == (
        verdicts["logits"],
        verdicts["recurrent_state"],
    )


def test_a_change_that_nothing_explains_says_so() -> None:
    assert {UNEXPLAINED} == causes(judge(campaign(revalued(weights=0.99)), SHAPES))


def test_an_improvement_is_drift_too() -> None:
    fewer = {v.term: v for v in judge(campaign(revalued(kv_cache=0.5)), SHAPES)}["kv_cache"]
    assert ("DRIFT", -65_536 * 8 * 32_769 // 2) == (fewer.decision, fewer.difference_bytes)


def test_a_difference_is_quoted_at_a_named_point() -> None:
    assert "B=8, L=32,768" == {v.term: v for v in judge(campaign(), SHAPES)}["kv_cache"].reference


def test_one_byte_at_one_point_is_drift() -> None:
    w = workload("prefill", 2, 1000)
    verdicts = judge(changed(campaign(), w, held_bytes=lambda m: m.held_bytes + 1), SHAPES)
    assert "DRIFT" == failing(verdicts)["unattributed"]


def changed(results: ResultsFile, w: Workload, **changes: Callable[[Measured], Any]) -> ResultsFile:
    """The results with fields of one workload's record changed."""

    def outcome(line: Measurement) -> Measurement:
        if line.workload != w or not isinstance(line.outcome, Measured):
            return line
        values = {name: change(line.outcome) for name, change in changes.items()}
        return dataclasses.replace(line, outcome=dataclasses.replace(line.outcome, **values))

    return dataclasses.replace(results, measurements=tuple(map(outcome, results.measurements)))


def every(results: ResultsFile, **changes: Callable[[Measured], Any]) -> ResultsFile:
    """The results with fields of all records changed."""
    for line in results.measurements:
        results = changed(results, line.workload, **changes)
    return results


def grown(by: Callable[[Workload], int], environment: Environment = ENVIRONMENT) -> ResultsFile:
    """The campaign with more bytes in each transient."""
    results = campaign(environment=environment)
    for w in workloads():
        results = changed(results, w, warm=raised(by(w)))
    return results


def raised(by_bytes: int) -> Callable[[Measured], Any]:
    return lambda m: dataclasses.replace(m.warm, requested_bytes=m.warm.requested_bytes + by_bytes)


def test_one_byte_of_a_transient_is_drift_under_the_same_fingerprint() -> None:
    verdicts = judge(grown(lambda w: int((w.phase, w.batch) == ("prefill", 8))), SHAPES, calibration=calibrated())
    assert {"repeatability fault: same fingerprint, other bytes"} == causes(verdicts)


def test_a_few_bytes_are_within_the_tolerance_of_another_fingerprint() -> None:
    verdicts = judge(grown(lambda w: 8 * w.batch, NEWER), SHAPES, calibration=calibrated())
    assert 0 == exit_code(verdicts)


def test_a_moved_slope_is_flagged_in_that_coefficient_with_its_cause() -> None:
    more = grown(lambda w: 33_020 * w.batch * w.context_tokens if w.phase == "prefill" else 0, NEWER)
    verdicts = judge(more, SHAPES, calibration=calibrated())
    assert (
        {"transient per_token": "DRIFT", "transient (every point)": "DRIFT"},
        {"model-code drift: transformers [transformers 5.17.0 → 5.23.0]"},
    ) == (failing(verdicts), causes(verdicts))


def test_a_new_regime_at_the_peak_is_compared_with_the_highest_known_form() -> None:
    site = PeakSite(stage="mlp", op="mm", module=None, source="transformers/modeling_qwen3_5.py:9", largest=())
    moved = every(campaign(environment=NEWER), site=lambda m: site if m.site.op == "empty_like" else m.site)
    verdicts = {v.regime.label: v for v in judge(moved, SHAPES, calibration=calibrated()) if "every" in v.term}
    assert "EQUIVALENT" == verdicts["prefill, mlp, mm"].decision


def test_a_new_regime_that_is_higher_is_drift() -> None:
    site = PeakSite(stage="mlp", op="mm", module=None, source="transformers/modeling_qwen3_5.py:9", largest=())
    more = grown(lambda w: 2048 * w.batch * w.context_tokens if w.phase == "prefill" else 0, NEWER)
    verdicts = judge(
        every(more, site=lambda m: site if m.site.op == "empty_like" else m.site), SHAPES, calibration=calibrated()
    )
    moved = "model-code drift: transformers [transformers 5.17.0 → 5.23.0]"
    assert {f"another stage at the peak than in the calibration; {moved}"} == causes(verdicts)


def test_a_source_line_that_moved_is_the_same_regime() -> None:
    def shifted(m: Measured) -> PeakSite:
        return dataclasses.replace(m.site, source=f"{(m.site.source or '').rpartition(':')[0]}:777")

    verdicts = judge(every(campaign(environment=NEWER), site=shifted), SHAPES, calibration=calibrated())
    # The two silu regimes are of different phases, so each still has one counterpart.
    assert {"EQUIVALENT"} == {v.decision for v in verdicts}


@pytest.mark.parametrize("seed", range(5))
def test_noise_never_passes_for_agreement_with_another_fingerprint(seed: int) -> None:
    noisy = campaign(environment=NEWER, noise_bytes=5_000_000, seed=seed)
    verdicts = judge(noisy, SHAPES, calibration=calibrated())
    judged = {v.decision for v in verdicts if v.term == "transient (every point)"}
    assert judged <= {"INCONCLUSIVE", "DRIFT"}


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_inconclusive_in_the_slope(seed: int) -> None:
    noisy = campaign(environment=NEWER, noise_bytes=5_000_000, seed=seed)
    slopes = [v for v in judge(noisy, SHAPES, calibration=calibrated()) if v.term == "transient per_token"]
    assert "INCONCLUSIVE" in {v.decision for v in slopes}


def test_noise_without_a_reference_is_not_judged() -> None:
    assert 0 == exit_code(judge(campaign(noise_bytes=5_000_000), SHAPES))


def test_a_misfit_that_repeats_to_the_byte_is_no_drift_under_one_fingerprint() -> None:
    noisy = campaign(noise_bytes=5_000_000)
    assert 0 == exit_code(judge(noisy, SHAPES, calibration=calibrated(noisy)))


def test_a_batch_1_campaign_leaves_the_held_form_unidentifiable() -> None:
    ladder = [workload("prefill", 1, t) for t in (512, 1024, 4096)]
    assert {"held": "UNIDENTIFIABLE"} == failing(judge(campaign(points=ladder), SHAPES))


@pytest.mark.parametrize("count", range(1, 30))
def test_a_campaign_cut_short_anywhere_is_judged_without_an_error(count: int) -> None:
    part = campaign(points=workloads()[:count])
    decisions = {v.decision for v in judge(part, SHAPES, calibration=calibrated())}
    assert decisions <= {"EQUIVALENT", "UNIDENTIFIABLE"}


def test_a_solve_agrees_where_the_reference_predicts_its_points() -> None:
    corners = [workload("prefill", b, t) for b, t in ((1, 512), (8, 512), (1, 32_768))]
    held = [v for v in judge(campaign(points=corners), SHAPES) if v.term.startswith("held")]
    assert {(0, "EQUIVALENT")} == {(v.dof, v.decision) for v in held}


def test_a_solve_of_a_transient_without_reference_is_told_and_passes() -> None:
    one = [v for v in judge(campaign(points=[workload("prefill", 1, 512)]), SHAPES) if "transient" in v.term]
    assert [("transient constant + per_sequence + 512·per_position + 512·per_token", "NO_REFERENCE", 0)] == [
        (v.term, v.decision, v.dof) for v in one
    ]


def test_a_static_cache_with_its_counters_flags_nothing() -> None:
    static = dataclasses.replace(CONFIGURATION, cache="static")
    verdicts = {v.term: v for v in judge(campaign(points=workloads(static)), SHAPES)}
    assert ({}, True, 65_536, 128) == (
        failing(verdicts.values()),
        verdicts["kv_cache"].exact,
        verdicts["kv_cache"].fitted,
        verdicts["held constant"].fitted,
    )


def test_nothing_measured_is_no_agreement() -> None:
    verdicts = judge(campaign(points=[]), SHAPES)
    assert ("exit 1: inconclusive — nothing was judged", 1) == (summary(verdicts), exit_code(verdicts))


def lines(results: ResultsFile, *more: Measurement) -> ResultsFile:
    return dataclasses.replace(results, measurements=(*results.measurements, *more))


def test_a_failure_without_a_later_result_is_inconclusive() -> None:
    w = workload("prefill", 4, 512)
    verdicts = judge(
        lines(campaign(), Measurement(workload=w, repeat=0, outcome=Failure(reason="hang", message="deadline"))), SHAPES
    )
    assert {"hang at prefill B=4, L=512: deadline"} == causes(verdicts)


def test_a_failure_after_a_result_is_forgotten() -> None:
    failure = Measurement(
        workload=workload("prefill", 1, 512), repeat=0, outcome=Failure(reason="crash", message="killed")
    )
    assert 0 == exit_code(judge(lines(campaign(), failure), SHAPES))


def test_running_out_of_memory_is_listed_and_no_fault() -> None:
    outcome = OutOfMemory(during="warm", asked_bytes=10, free_bytes=5, requested_bytes=None)
    full = Measurement(workload=workload("prefill", 64, 262_144), repeat=0, outcome=outcome)
    results = lines(campaign(), full)
    assert (0, (full,)) == (exit_code(judge(results, SHAPES)), out_of_memory(results))


def test_a_model_that_does_not_fit_is_a_result() -> None:
    outcome = OutOfMemory(during="build", asked_bytes=10, free_bytes=5, requested_bytes=None)
    full = Measurement(workload=workload("prefill", 1, 512), repeat=0, outcome=outcome)
    (verdict,) = judge(lines(campaign(points=[]), full), SHAPES)
    assert ("measurement", "DOES_NOT_FIT", "does not fit: build") == (verdict.term, verdict.decision, verdict.fitted)
    assert (0, "exit 0: does not fit: build") == (exit_code([verdict]), summary([verdict]))


def repeat_of(w: Workload, extra_bytes: int) -> Measurement:
    first = measured(w, predict(SHAPES, w))
    warm = dataclasses.replace(first.warm, requested_bytes=first.warm.requested_bytes + extra_bytes)
    return Measurement(workload=w, repeat=1, outcome=dataclasses.replace(first, warm=warm))


def test_a_repeat_with_the_same_bytes_agrees() -> None:
    verdicts = judge(lines(campaign(), repeat_of(workload("prefill", 2, 1000), 0)), SHAPES)
    assert ["EQUIVALENT"] == [v.decision for v in verdicts if v.term == "repeatability"]


def test_a_repeat_that_differs_by_one_byte_is_a_fault() -> None:
    verdicts = judge(lines(campaign(), repeat_of(workload("prefill", 2, 1000), 1)), SHAPES)
    assert {"repeatability fault: +1 B in a fresh process at prefill B=2, L=1,000"} == causes(verdicts)


def test_a_repeat_that_did_not_fit_is_inconclusive() -> None:
    outcome = OutOfMemory(during="warm", asked_bytes=10, free_bytes=5, requested_bytes=None)
    again = Measurement(workload=workload("prefill", 2, 1000), repeat=1, outcome=outcome)
    assert {"repeatability": "INCONCLUSIVE"} == failing(judge(lines(campaign(), again), SHAPES))


def ran(rule: str) -> Callable[[Measured], Kernels]:
    return lambda m: dataclasses.replace(m.kernels, delta_rule=rule)


def test_the_torch_reference_in_place_of_fla_is_drift() -> None:
    slow = every(campaign(), kernels=ran("torch reference: chunk_gated_delta_rule"))
    assert {"fla was asked for but the torch reference ran"} == causes(judge(slow, SHAPES))


def test_the_torch_reference_that_was_asked_for_agrees() -> None:
    torch = dataclasses.replace(CONFIGURATION, kernels="torch")
    slow = every(campaign(points=workloads(torch)), kernels=ran("torch reference: chunk_gated_delta_rule"))
    assert 0 == exit_code(judge(slow, SHAPES))


def standard(when: Any, workspace_bytes: int) -> Standard:
    probe = AllocatorProbe(asked_bytes=511, allocated_bytes=512, reserved_bytes=2**21)
    return Standard(when=when, probes=(probe,), workspace_bytes=workspace_bytes, context_bytes=None)


def test_a_check_standard_that_moved_during_the_campaign_is_drift() -> None:
    results = dataclasses.replace(campaign(), standards=(standard("start", 0), standard("end", 512)))
    assert {"check standard": "DRIFT"} == failing(judge(results, SHAPES))


def test_a_check_standard_that_stayed_agrees() -> None:
    results = dataclasses.replace(campaign(), standards=(standard("start", 512), standard("end", 512)))
    assert 0 == exit_code(judge(results, SHAPES))


def test_two_configurations_in_a_file_are_judged_apart() -> None:
    static = dataclasses.replace(CONFIGURATION, cache="static")
    verdicts = judge(campaign(points=[*workloads(), *workloads(static)]), SHAPES)
    assert ([CONFIGURATION, static], 0) == (
        list(dict.fromkeys(v.configuration for v in verdicts)),
        exit_code(verdicts),
    )


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"gpu_label": "h100"}])
def test_a_calibration_of_another_card_or_device_is_refused(change: dict[str, Any]) -> None:
    card = dataclasses.replace(ENVIRONMENT, **change)
    with pytest.raises(WrongEnvironment, match="is for fake fake-h100, but the measurement is of"):
        judge(campaign(environment=card), SHAPES, calibration=calibrated())


def test_a_red_campaign_is_not_calibrated() -> None:
    with pytest.raises(NotCalibrated, match=r"drift check is red: exit 1: drift — kv_cache"):
        calibrated(campaign(revalued(kv_cache=0.5)))


@pytest.mark.parametrize(
    ("difference", "half_width", "tolerance", "expected"),
    [
        (0, 0, 0, "EQUIVALENT"),
        (0.4, 0, 0, "EQUIVALENT"),
        (1, 0, 0, "DRIFT"),
        (-1, 0, 0, "DRIFT"),
        (100, 400, 512, "EQUIVALENT"),
        (200, 400, 512, "INCONCLUSIVE"),
        (1000, 400, 512, "DRIFT"),
        (0, 10_000, 512, "INCONCLUSIVE"),
    ],
)
def test_the_decision_follows_the_whole_interval(
    difference: float, half_width: float, tolerance: float, expected: str
) -> None:
    assert expected == decide(difference, half_width, tolerance)


@pytest.mark.parametrize(
    ("same", "standard_moved", "replay_moved", "estimate_moved", "expected"),
    [
        (True, None, None, False, "repeatability fault"),
        (False, True, False, False, "runtime drift"),
        (False, False, True, False, "model-code drift"),
        (False, False, False, False, "kernel drift"),
        (False, None, None, False, "undecided"),
        (False, False, None, False, "undecided"),
        (False, True, True, False, "runtime drift: allocator, cuBLAS or driver; and model-code drift"),
        (True, False, False, True, "estimator drift"),
    ],
)
def test_the_cause_is_read_off_what_moved(
    same: bool, standard_moved: bool | None, replay_moved: bool | None, estimate_moved: bool, expected: str
) -> None:
    found = cause(
        same_fingerprint=same,
        standard_moved=standard_moved,
        replay_moved=replay_moved,
        estimate_moved=estimate_moved,
    )
    assert found.startswith(expected)
