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

CAMPAIGN = read(next((ROOT / "results" / "fake-h200" / "default").glob("qwen3.5-27b.fake.*.jsonl")))
SHAPES = read_shapes(CONFIGS / "models" / "qwen3.5-27b.json")


def rows(results: ResultsFile) -> list[Verdict]:
    return [v for v in judge(results, SHAPES, derived=STORED) if v.term == TERM]


def one_byte_more(line: Measurement) -> Measurement:
    outcome = line.outcome
    assert isinstance(outcome, Measured)
    warm = dataclasses.replace(outcome.warm, requested_bytes=outcome.warm.requested_bytes + 1)
    return dataclasses.replace(line, outcome=dataclasses.replace(outcome, warm=warm))


def test_every_point_of_the_recorded_campaign_is_the_derived_one() -> None:
    assert [("EQUIVALENT", 35, 0), ("EQUIVALENT", 35, 0)] == [
        (v.decision, v.n, v.difference_bytes) for v in rows(CAMPAIGN)
    ]


def test_one_byte_at_one_point_is_drift() -> None:
    first, *others = CAMPAIGN.measurements
    changed = dataclasses.replace(CAMPAIGN, measurements=(one_byte_more(first), *others))
    assert {("DRIFT", 1), ("EQUIVALENT", 0)} == {(v.decision, v.difference_bytes) for v in rows(changed)}


@pytest.mark.parametrize("change", [{"transformers": "9.9.9"}, {"fla": None}, {"config_sha256": "0" * 64}])
def test_another_program_has_no_derived_formula_to_meet(change: dict[str, str | None]) -> None:
    other: Environment = dataclasses.replace(CAMPAIGN.environment, **change)  # type: ignore[arg-type]
    assert [] == rows(dataclasses.replace(CAMPAIGN, environment=other))


def in_flash(line: Measurement) -> Measurement:
    """The point on a card that takes flash attention, its peak inside that kernel and a byte higher."""
    line = one_byte_more(line)
    outcome = line.outcome
    assert isinstance(outcome, Measured)
    flash = "_scaled_dot_product_flash_attention"
    kernels = dataclasses.replace(outcome.kernels, attention=f"aten::{flash}")
    site = dataclasses.replace(outcome.site, op=flash)
    return dataclasses.replace(line, outcome=dataclasses.replace(outcome, kernels=kernels, site=site))


def test_peak_inside_another_attention_kernel_is_named_and_no_drift() -> None:
    first, *others = CAMPAIGN.measurements
    environment = dataclasses.replace(CAMPAIGN.environment, device="emulated", gpu_label="emulated-a100-80gb")
    changed = dataclasses.replace(CAMPAIGN, environment=environment, measurements=(in_flash(first), *others))
    judged = judge(changed, SHAPES, derived=STORED)
    own = [v for v in judged if v.term == OWN_TERM]
    assert [("NO_REFERENCE", 1, 1)] == [(v.decision, v.n, v.difference_bytes) for v in own]
    assert {"EQUIVALENT"} == {v.decision for v in judged if v.term == TERM}
