"""A campaign is held against the published one of its card, grid and model, point for point."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import invoke
from tests.synthetic import write
from vram_ledger.analysis.judging.published_points import compare, published_like
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Measured, ResultsFile

(PUBLISHED,) = (ROOT / "results/emulated-h200/default").glob("*.jsonl")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The published campaign in a folder of one's own."""
    path = tmp_path / "runs" / "emulated-h200" / "default" / PUBLISHED.name
    path.parent.mkdir(parents=True)
    shutil.copy(PUBLISHED, path)
    return path


def planted(results: ResultsFile, extra_bytes: int) -> ResultsFile:
    """The same with more bytes requested, allocated and reserved at its first point."""
    first = results.measurements[0]
    assert isinstance(first.outcome, Measured)
    warm = first.outcome.warm
    more = {
        name: getattr(warm, name) + extra_bytes for name in ("requested_bytes", "allocated_bytes", "reserved_bytes")
    }
    outcome = dataclasses.replace(first.outcome, warm=dataclasses.replace(warm, **more))
    moved = dataclasses.replace(first, outcome=outcome)
    return dataclasses.replace(results, measurements=(moved, *results.measurements[1:]))


def test_an_equal_campaign_is_said_to_be_equal(own: Path) -> None:
    result = invoke("judge", own)
    assert (0, True) == (result.exit_code, f"points equal the published {PUBLISHED.name} (same environment)" in
                         result.stdout)  # fmt: skip


def test_a_planted_difference_is_named_with_its_bytes() -> None:
    results = read(PUBLISHED)
    found = compare(planted(results, 512), results)
    workload = results.measurements[0].workload
    assert (((workload, "requested", 512), (workload, "allocated", 512)), 1, ()) == (
        found.differing,
        found.unequal,
        found.fields,
    )


def test_a_difference_on_an_equal_environment_is_drift(own: Path) -> None:
    lines = planted(read(own), 512)
    write(lines, own)
    result = invoke("judge", own)
    assert (1, True) == (result.exit_code, "published points" in result.stdout.splitlines()[-1])


def test_another_environment_is_told_and_does_not_decide() -> None:
    results = read(PUBLISHED)
    other = dataclasses.replace(results, environment=dataclasses.replace(results.environment, emulation="0" * 12))
    found = compare(planted(other, 512), results)
    assert (("emulation",), True) == (found.fields, "other environment: emulation" in found.lines()[0])


def test_reserved_bytes_alone_are_spread() -> None:
    results = read(PUBLISHED)
    first = results.measurements[0]
    assert isinstance(first.outcome, Measured)
    assert first.outcome.warm.reserved_bytes is not None
    warm = dataclasses.replace(first.outcome.warm, reserved_bytes=first.outcome.warm.reserved_bytes + 2**21)
    moved = dataclasses.replace(first, outcome=dataclasses.replace(first.outcome, warm=warm))
    found = compare(dataclasses.replace(results, measurements=(moved, *results.measurements[1:])), results)
    assert ((), 1) == (found.differing, found.spread)


def test_a_published_file_is_not_held_against_itself() -> None:
    assert () == published_like(read(PUBLISHED))


def test_where_nothing_is_published_that_is_said(own: Path) -> None:
    elsewhere = own.parent.parent / "another-grid" / own.name
    elsewhere.parent.mkdir()
    shutil.copy(own, elsewhere)
    assert "nothing is published for emulated-h200, this grid and model" in invoke("judge", elsewhere).stdout


def test_the_published_calibration_is_judged_against_in_ones_own_folder(own: Path) -> None:
    assert "calibration qwen3.5-27b.calibration.json" in invoke("judge", own).stdout


def test_json_is_all_that_is_on_standard_output(own: Path) -> None:
    (told,) = json.loads(invoke("judge", own, "--json").stdout)
    assert (0, str(own), {"EQUIVALENT", "NO_REFERENCE"}) == (
        told["exit_code"],
        told["file"],
        {"NO_REFERENCE", *(verdict["decision"] for verdict in told["verdicts"])},
    )
