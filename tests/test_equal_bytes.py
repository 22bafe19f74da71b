"""Equal bytes are never drift, whatever made them; and no published campaign is red against its own calibration."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import invoke

PUBLISHED = sorted(path for path in (ROOT / "results").rglob("*.jsonl") if list(path.parent.glob("*.calibration.json")))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.relative_to(ROOT / "results").as_posix())
def test_a_published_campaign_agrees_with_its_own_calibration(path: Path) -> None:
    assert 0 == invoke("judge", path).exit_code


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ('"emulation":"', '"emulation":"0'),
        ('"torch":"', '"torch":"9.'),
        ('"transformers":"', '"transformers":"9.'),
        ('"driver":"', '"driver":"other '),
    ],
)
@pytest.mark.parametrize("folder", ["emulated-a100-80gb/axes", "emulated-a100-80gb/media", "emulated-h100/axes"])
def test_equal_bytes_in_another_environment_are_no_drift(tmp_path: Path, folder: str, field: str, other: str) -> None:
    (path,) = (ROOT / "results" / folder).glob("*.jsonl")
    (tmp_path / path.name).write_text(path.read_text(encoding="utf-8").replace(field, other, 1), encoding="utf-8")
    (calibration,) = path.parent.glob("*.calibration.json")
    result = invoke("judge", tmp_path / path.name, "--calibration", calibration)
    assert (0, "") == (result.exit_code, "\n".join(line for line in result.stdout.splitlines() if "DRIFT" in line))
