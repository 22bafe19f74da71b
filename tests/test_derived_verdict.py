"""Every measured point is judged against the formula of the very program that was measured, and against no other."""

import dataclasses

import pytest

from tests.conftest import CONFIGS, ROOT
from tests.test_derived import STORED
from vram_ledger.analysis.evidence.verdict import Verdict
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.judging.derived import OWN_TERM, TERM
from vram_ledger.analysis.judging.drift import judge
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Environment, Measured, Measurement, ResultsFile

SHAPES = read_shapes(CONFIGS / "models" / "qwen3.5-27b.json")


def campaign(folder: str) -> ResultsFile:
    return read(next((ROOT / "results" / folder / "default").glob("qwen3.5-27b.*.jsonl")))


EMULATED, REPLAY = campaign("emulated-a100-80gb"), campaign("fake-h200")


def judged(results: ResultsFile, term: str = TERM) -> list[Verdict]:
    return [v for v in judge(results, SHAPES, derived=STORED) if v.term == term]


def one_byte_more(line: Measurement) -> Measurement:
    outcome = line.outcome
    assert isinstance(outcome, Measured)
    warm = dataclasses.replace(outcome.warm, requested_bytes=outcome.warm.requested_bytes + 1)
    return dataclasses.replace(line, outcome=dataclasses.replace(outcome, warm=warm))


def with_first(results: ResultsFile, phase: str, line: Measurement) -> ResultsFile:
    """A file with another line in place of the first of its phase."""
    lines = list(results.measurements)
    lines[lines.index(first(results, phase))] = line
    return dataclasses.replace(results, measurements=tuple(lines))


def first(results: ResultsFile, phase: str) -> Measurement:
    return next(m for m in results.measurements if m.workload.phase == phase and isinstance(m.outcome, Measured))


@pytest.mark.parametrize(
    ("folder", "points"),
    [
        ("emulated-a100-80gb", {"prefill": 21, "decode": 28}),
        ("emulated-h100", {"prefill": 21, "decode": 28}),
        ("emulated-h200", {"prefill": 27, "decode": 32}),
    ],
)
def test_every_point_of_a_recorded_campaign_is_the_derived_one(folder: str, points: dict[str, int]) -> None:
    verdicts = judged(campaign(folder))
    assert points == {v.regime.phase: v.n for v in verdicts}
    assert {("EQUIVALENT", 0, 0)} == {(v.decision, v.difference_bytes, v.tolerance_bytes) for v in verdicts}


def test_a_replay_s_points_are_those_of_the_program_that_was_derived_on_a_card_of_its_capability() -> None:
    decode = next(v for v in judged(REPLAY) if v.regime.phase == "decode")
    assert ("EQUIVALENT", 35, 0) == (decode.decision, decode.n, decode.difference_bytes)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_byte_at_one_point_is_drift_of_its_phase_alone(phase: str) -> None:
    verdicts = judged(with_first(EMULATED, phase, one_byte_more(first(EMULATED, phase))))
    expected = {p: ("DRIFT", 1) if p == phase else ("EQUIVALENT", 0) for p in ("prefill", "decode")}
    assert expected == {v.regime.phase: (v.decision, v.difference_bytes) for v in verdicts}
    assert {"memory that the program does not ask for"} == {v.cause for v in verdicts if v.difference_bytes}


def test_one_byte_of_a_replay_is_said_to_be_the_program_s() -> None:
    (drift,) = [v for v in judged(with_first(REPLAY, "decode", one_byte_more(first(REPLAY, "decode")))) if not v.passes]
    assert ("DRIFT", 1) == (drift.decision, drift.difference_bytes)
    assert "the program no longer allocates what it was derived from" == drift.cause


@pytest.mark.parametrize("change", [{"transformers": "9.9.9"}, {"fla": None}, {"config_sha256": "0" * 64}])
@pytest.mark.parametrize("results", [EMULATED, REPLAY], ids=["emulated", "replayed"])
def test_another_program_has_no_derived_formula_to_meet(results: ResultsFile, change: dict[str, str | None]) -> None:
    assert judged(results)
    other: Environment = dataclasses.replace(results.environment, **change)  # type: ignore[arg-type]
    assert [] == judged(dataclasses.replace(results, environment=other))


def in_cudnn(line: Measurement) -> Measurement:
    """The point on a card that takes cuDNN's attention, its peak inside that kernel and a byte higher."""
    line = one_byte_more(line)
    outcome = line.outcome
    assert isinstance(outcome, Measured)
    cudnn = "_scaled_dot_product_cudnn_attention"
    assert f"aten::{cudnn}" != outcome.kernels.attention
    kernels = dataclasses.replace(outcome.kernels, attention=f"aten::{cudnn}")
    site = dataclasses.replace(outcome.site, op=cudnn)
    return dataclasses.replace(line, outcome=dataclasses.replace(outcome, kernels=kernels, site=site))


def test_peak_inside_another_attention_kernel_is_named_and_no_drift() -> None:
    changed = with_first(EMULATED, "prefill", in_cudnn(first(EMULATED, "prefill")))
    assert [("NO_REFERENCE", 1, 1)] == [(v.decision, v.n, v.difference_bytes) for v in judged(changed, OWN_TERM)]
    assert {"EQUIVALENT"} == {v.decision for v in judged(changed)}
