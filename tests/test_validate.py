"""Any estimator is held against measured bytes, by term."""

import json
from pathlib import Path

import pytest

from tests.refereed import campaign, run
from vram_ledger.analysis.estimating.breakdown import EstimatorError
from vram_ledger.analysis.estimators import fitmygpu
from vram_ledger.analysis.refereeing.referee import OURS, scored
from vram_ledger.analysis.refereeing.score import by_term, errors, read_tolerance


def test_a_replayed_result_is_compared_as_requested_and_says_so() -> None:
    output = run("fitmygpu").stdout
    assert ["**FAKE DEVICE — replayed, not measured**"] == [line for line in output.splitlines() if "FAKE" in line]
    assert "fitmygpu claims the process bytes. Compared with: requested (replayed)." in output


def fitmygpu_terms(context_tokens: int) -> dict[str, str]:
    point = next(
        p
        for p in campaign().points
        if (p.request.workload.phase, p.request.batch, p.request.context_tokens) == ("prefill", 1, context_tokens)
    )
    found = errors(point, fitmygpu.estimate(point.request), "requested")
    return {e.term: f"{e.bytes / 1e9:+.3f}" for e in found}


def test_fitmygpu_is_5_8_gb_high_at_4096_tokens_of_prefill() -> None:
    expected = {"weights": "+0.847", "kv_cache": "+0.000", "state": "+0.004", "rest": "+4.906", "total": "+5.757"}
    assert expected == fitmygpu_terms(4096)


def test_fitmygpu_is_36_6_gb_low_at_262144_tokens_of_prefill() -> None:
    expected = {"weights": "+0.847", "kv_cache": "-0.403", "state": "+0.004", "rest": "-37.055", "total": "-36.607"}
    assert expected == fitmygpu_terms(262_144)


def test_the_structural_faults_of_fitmygpu_are_named_in_its_report() -> None:
    output = run("fitmygpu").stdout
    named_ones = ("MTP resident", "context clamped to 256,000 tokens", "conv state in float32")
    assert [True] * 3 == [name in output for name in named_ones]


@pytest.mark.parametrize(("tolerance", "code"), [("1%", 1), ("50%", 0), ("58GB", 1), ("59GB", 0), ("56GiB", 0)])
def test_a_tolerance_decides_the_exit_code(tolerance: str, code: int) -> None:
    assert code == run("fitmygpu", "--tolerance", tolerance).exit_code


def test_a_tolerance_names_the_worst_point() -> None:
    last = run("fitmygpu", "--tolerance", "35%").stdout.splitlines()[-1]
    assert (
        "exit 1: 1 of 60 totals of qwen3.5-27b are off by more than 35%, "
        "the worst by -39.2% (qwen3.5-27b, prefill, B=4, L=100,001)"
    ) == last


@pytest.mark.parametrize("text", ["five", "5", "-1%", "5 TB"])
def test_a_tolerance_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EstimatorError, match="is not a share or an amount"):
        read_tolerance(text)


def test_the_report_is_written_as_markdown_too(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    result = run("kvanta", "--points", "--markdown", path)
    assert result.stdout.startswith(path.read_text(encoding="utf-8"))


def test_points_are_printed_only_if_asked_for() -> None:
    assert len(run("kvanta").stdout.splitlines()) < 40 < len(run("kvanta", "--points").stdout.splitlines())


def test_without_tolerance_or_base_nothing_is_called_validated() -> None:
    done = run("fitmygpu")
    said = "exit 0: scored, nothing was asked of it; worst -39.2% (qwen3.5-27b, prefill, B=4, L=100,001)"
    assert (0, said) == (done.exit_code, done.stdout.splitlines()[-1])


def test_with_a_tolerance_that_holds_it_is_validated_within_it() -> None:
    last = run("fitmygpu", "--tolerance", "50%", "--base", "fitmygpu").stdout.splitlines()[-1]
    assert last.startswith("exit 0: validated, within 50% and no worse than fitmygpu; worst -39.2% ")


@pytest.mark.parametrize(("tolerance", "code"), [("", 0), ("1%", 1)])
def test_json_is_all_that_is_printed(tolerance: str, code: int) -> None:
    done = run("fitmygpu", "--json", *(["--tolerance", tolerance] if tolerance else []))
    data = json.loads(done.stdout)
    assert (code, code, "") == (done.exit_code, data["exit"], done.stderr)
    (own,) = data["campaigns"]
    assert ("process", "requested", "replayed") == (own["claims"], own["against"], own["kind"])
    assert 60 == sum(point["term"] == "total" for point in own["points"])


ONE_SEQUENCE = """
def estimate(request):
    s = request.shapes
    conv = s.n_linear * s.conv_channels * s.conv_width * 2
    matrices = s.n_linear * s.linear_value_heads * s.linear_key_dim * s.linear_value_dim * 4
    weights = round(54_713_457_120 * 1.02)
    return {
        "predicts": "requested", "weights_bytes": weights, "state_bytes": conv + matrices, "total_bytes": 2 * weights
    }
"""


def test_state_of_one_sequence_and_a_share_on_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(ONE_SEQUENCE, encoding="utf-8")
    output = run(f"{tmp_path}/one.py:estimate").stdout
    assert [True] * 2 == [name in output for name in ("the state of one sequence only", "+2.0 % at every point")]


def test_ours_gives_every_replayed_point_to_the_byte() -> None:
    assert {0} == {e.bytes for e in scored("ours", OURS["ours"](campaign()), campaign()).totals}


def test_ours_fitted_to_the_other_contexts_is_off_by_less_than_a_percent() -> None:
    own = scored("ours-held-out", OURS["ours-held-out"](campaign()), campaign())
    assert by_term(own.errors)["total"].worst_share < 0.01
