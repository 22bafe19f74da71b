"""What is published is what the raw lines give, byte for byte, and no number changes without an entry."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vram_ledger.analysis.calibrating.published import (
    BEGIN,
    END,
    NotPublished,
    calibrations,
    digest,
    unannounced,
    write_table,
)

RESULTS = ROOT / "results"
PATTERNS = (
    "*.calibration.json", "*.calibration.csv", "*.calibration.md", "report.html", "figures/*.svg", "scoreboard.md",
    "scoreboard.csv", "held-out.md", "claims.md", "evidence.md",
)  # fmt: skip
GENERATED = sorted(path for pattern in PATTERNS for path in RESULTS.rglob(pattern))


def test_every_published_number_has_an_entry_in_the_changelog() -> None:
    assert () == unannounced(ROOT / "CHANGELOG.md", RESULTS)


@pytest.mark.parametrize(("seed", "zone", "locale"), [("0", "UTC", "C"), ("4711", "Asia/Kathmandu", "C.UTF-8")])
def test_regenerating_leaves_every_file_as_it_is(tmp_path: Path, seed: str, zone: str, locale: str) -> None:
    for name in (
        "vram_ledger",
        "analysis",
        "harness",
        "configs",
        "results",
        "docs",
        "CHANGELOG.md",
        "Makefile",
        "pyproject.toml",
    ):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, symlinks=True)
        else:
            shutil.copy(source, tmp_path / name)
    for path in GENERATED:
        (tmp_path / path.relative_to(ROOT)).unlink()
    settings = {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "PYTHONUTF8": "0", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [
            "make",
            "calibrate",
            "report",
            "scoreboard",
            "held-out",
            "claims",
            "evidence",
            "RESULTS=results",
            f"PYTHON={sys.executable}",
        ],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert tree(ROOT) == tree(tmp_path)


def tree(root: Path) -> dict[str, bytes]:
    """Every file of the results, and the page of calibrations, by path."""
    files = [path for path in (root / "results").rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in (*files, root / "docs" / "calibrations.md")
    }


def test_digest_moves_with_a_number(tmp_path: Path) -> None:
    path, _ = next(calibrations(RESULTS))
    text = path.read_text(encoding="utf-8")
    changed = tmp_path / path.name
    changed.write_text(text.replace('"value": 65536', '"value": 65537'), encoding="utf-8")
    assert digest(path) != digest(changed)


def test_digest_stays_when_a_record_gains_a_field_that_says_nothing(tmp_path: Path) -> None:
    path, _ = next(calibrations(RESULTS))
    text = path.read_text(encoding="utf-8")
    for images, same in (("null", True), ('{"count": 1}', False)):
        data = json.loads(text)
        for term in data["terms"]:
            term["configuration"]["images"] = json.loads(images)
        changed = tmp_path / path.name
        changed.write_text(json.dumps(data), encoding="utf-8")
        assert same == (digest(path) == digest(changed))


def test_number_without_an_entry_is_named(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n", encoding="utf-8")
    assert len(list(calibrations(RESULTS))) == len(unannounced(changelog, RESULTS))


def test_readme_without_the_marked_place_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n", encoding="utf-8")
    with pytest.raises(NotPublished, match=END):
        write_table(readme, RESULTS)
