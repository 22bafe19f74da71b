"""Least squares on known answers, and on points that can't give one."""

import dataclasses
import random
from collections.abc import Sequence

import pytest

from tests.synthetic import CONFIGURATION, ENVIRONMENT, campaign, workload
from vram_ledger.analysis.evidence.fit import (
    Fit,
    Unidentifiable,
    held_counts,
    identifiable,
    least_squares,
    merged_columns,
    plain_columns,
)
from vram_ledger.analysis.evidence.lines import (
    MixedError,
    counting,
    fitted_terms,
    measured,
    same_configuration,
    same_environment,
)
from vram_ledger.harness.records import Failure, Measurement, OutOfMemory

CORNERS = [(1, 256), (1, 32_768), (32, 256), (32, 1024), (4, 8192)]
STATE, CACHE = 154_927_104, 65_536


def held(points: Sequence[tuple[int, int]], noise: int = 0, seed: int = 1) -> Fit | Unidentifiable:
    chance = random.Random(seed)
    observed = [b * (STATE + CACHE * t) + round(chance.gauss(0, noise)) for b, t in points]
    return least_squares(plain_columns(held_counts(points)), observed)


def solved(fit: Fit | Unidentifiable) -> Fit:
    assert isinstance(fit, Fit), fit
    return fit


def values(fit: Fit | Unidentifiable) -> list[float]:
    return [coefficient.value for coefficient in solved(fit).coefficients]


def test_whole_coefficients_are_found_to_the_last_byte() -> None:
    assert [0, STATE, CACHE] == values(held(CORNERS))


def test_a_form_that_meets_every_point_is_exact() -> None:
    fit = solved(held(CORNERS))
    assert (True, 0.0, 2, 5) == (fit.exact, fit.worst_residual_bytes, fit.dof, fit.n)


def test_an_exact_coefficient_is_an_int_without_an_error() -> None:
    coefficient = solved(held(CORNERS)).coefficients[2]
    assert (int, 0.0, 0.0) == (type(coefficient.value), coefficient.stderr, coefficient.half_width)


def test_one_byte_is_seen_at_the_largest_shapes() -> None:
    points = [(b, t) for b in (1, 2, 8) for t in (512, 65_536, 262_144)]
    observed = [b * (STATE + CACHE * t) for b, t in points]
    observed[-1] += 1
    fit = solved(least_squares(plain_columns(held_counts(points)), observed))
    assert 0 < fit.worst_residual_bytes < 1


def test_as_many_points_as_coefficients_are_a_solve_and_not_exact() -> None:
    fit = solved(held(CORNERS[:3]))
    assert (0, False, None, None) == (fit.dof, fit.exact, fit.coefficients[0].half_width, fit.band_bytes)


def test_noise_gives_standard_errors_of_its_own_size() -> None:
    points = [(b, t) for b in range(1, 9) for t in (512, 1024, 4096, 8192)]
    deviations = [(solved(held(points, 1_000_000, seed)).coefficients[1]) for seed in range(200)]
    covered = sum(abs(c.value - STATE) <= (c.half_width or 0) for c in deviations)
    assert 180 <= covered <= 199


def test_a_batch_1_ladder_cannot_identify_the_state() -> None:
    assert "at these points the columns depend on each other (constant, per_sequence, per_token)" == identifiable(
        [(1, 512), (1, 1024), (1, 4096)]
    )


def test_corners_identify_the_held_form() -> None:
    assert identifiable(CORNERS) is None


def test_fewer_points_than_coefficients_are_counted() -> None:
    assert "2 points for 3 coefficients (constant, per_sequence, per_token)" == identifiable([(1, 512), (2, 1024)])


def test_no_points_identify_nothing() -> None:
    assert "no points" == identifiable([])


def test_nearly_dependent_points_fail_by_their_condition() -> None:
    reason = identifiable([(50, 1000), (51, 1000), (50, 1001), (51, 1001), (52, 1000)])
    assert reason is not None
    assert reason.startswith("condition ")


def test_an_unidentifiable_fit_is_a_value_and_not_an_error() -> None:
    assert Unidentifiable(
        reason="2 points for 3 coefficients (constant, per_sequence, per_token)", n=2, condition=None
    ) == held([(1, 512), (2, 1024)])


def test_columns_that_only_batch_1_has_seen_are_summed_by_name() -> None:
    columns, absent = merged_columns({"per_position": [512, 1024], "per_token": [512, 1024], "padding": [0, 0]})
    assert (["per_position + per_token"], ("padding",)) == (labels(columns), absent)


def test_columns_at_one_batch_are_summed_with_the_batch_as_weight() -> None:
    columns, _ = merged_columns({"constant": [1, 1], "per_sequence": [8, 8], "per_token": [4096, 8192]})
    assert ["constant + 8·per_sequence", "per_token"] == labels(columns)


def test_one_point_leaves_one_sum() -> None:
    columns, _ = merged_columns({"constant": [1], "per_sequence": [2], "per_position": [512], "per_token": [1024]})
    assert ["constant + 2·per_sequence + 512·per_position + 1,024·per_token"] == labels(columns)


def labels(columns) -> list[str]:  # type: ignore[no-untyped-def]
    return [c.label for c in solved(least_squares(columns, [1] * len(columns[0].counts))).coefficients]


def test_every_term_of_the_27b_is_recovered_exactly() -> None:
    terms = fitted_terms(measured(campaign().measurements))
    assert {"constant": 0, "per_sequence": 0, "per_position": 8, "per_token": 202_016, "per_padding_token": 24_576} == {
        c.label: c.value for t in terms if t.regime.label.startswith("prefill, l") for c in solved(t.fit).coefficients
    }


def test_shapes_within_one_chunk_leave_padding_undetermined() -> None:
    short = [workload("prefill", b, t) for b in (1, 2, 8) for t in (16, 32, 48)]
    transient = fitted_terms(measured(campaign(points=short).measurements))[-1]
    assert isinstance(transient.fit, Unidentifiable)


def test_the_last_line_that_is_no_failure_counts() -> None:
    w = workload("prefill", 1, 512)
    ok = campaign(points=[w]).measurements[0]
    failed = Measurement(workload=w, repeat=0, outcome=Failure(reason="crash", message="killed"))
    full = Measurement(
        workload=w,
        repeat=0,
        outcome=OutOfMemory(during="warm", asked_bytes=1, free_bytes=0, requested_bytes=None),
    )
    assert [ok, full, failed] == [
        counting(lines)[(w, 0)] for lines in ([failed, ok, failed], [failed, ok, full], [failed, failed])
    ]


def test_configurations_are_never_mixed_in_a_fit() -> None:
    torch = dataclasses.replace(CONFIGURATION, kernels="torch")
    with pytest.raises(MixedError, match="can't mix configurations: kernels is fla and torch"):
        same_configuration([workload("prefill", 1, 512), workload("prefill", 1, 512, torch)])


def test_environments_are_never_mixed_in_a_fit() -> None:
    with pytest.raises(MixedError, match="can't mix environments: they differ in torch, fla"):
        same_environment([ENVIRONMENT, dataclasses.replace(ENVIRONMENT, torch="2.13.0", fla=None)])


def test_environments_that_differ_in_what_is_only_told_are_the_same() -> None:
    assert ENVIRONMENT == same_environment([ENVIRONMENT, dataclasses.replace(ENVIRONMENT, python="3.12.1")])
