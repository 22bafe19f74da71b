"""What is published is what the raw lines give, byte for byte, and no number changes without an entry."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.published import BEGIN, END, NotPublished, calibrations, digest, unannounced, write_readme
from tests.conftest import ROOT

RESULTS = ROOT / "results"
GENERATED = sorted(p for pattern in ("*.calibration.json", "*.calibration.csv", "*.calibration.md")
                   for p in RESULTS.rglob(pattern))  # fmt: skip


def test_every_published_number_has_an_entry_in_the_changelog() -> None:
    assert () == unannounced(ROOT / "CHANGELOG.md", RESULTS)


@pytest.mark.parametrize(("seed", "zone"), [("0", "UTC"), ("4711", "Asia/Kathmandu")])
def test_regenerating_leaves_every_file_as_it_is(tmp_path: Path, seed: str, zone: str) -> None:
    for name in ("analysis", "harness", "configs", "results", "README.md", "CHANGELOG.md"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    for path in GENERATED:
        (tmp_path / path.relative_to(ROOT)).unlink()
    raw = [str(path) for path in sorted((tmp_path / "results").rglob("*.jsonl"))]
    environment = {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C", "PYTHONUTF8": "0", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "calibrate", *raw, "--readme", "README.md"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    again = [(tmp_path / path.relative_to(ROOT)).read_bytes() for path in [*GENERATED, ROOT / "README.md"]]
    assert [path.read_bytes() for path in [*GENERATED, ROOT / "README.md"]] == again


def test_digest_moves_with_a_number(tmp_path: Path) -> None:
    path, _ = next(calibrations(RESULTS))
    text = path.read_text(encoding="utf-8")
    changed = tmp_path / path.name
    changed.write_text(text.replace('"value": 65536', '"value": 65537'), encoding="utf-8")
    assert digest(path) != digest(changed)


def test_number_without_an_entry_is_named(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n", encoding="utf-8")
    assert len(list(calibrations(RESULTS))) == len(unannounced(changelog, RESULTS))


def test_readme_without_the_marked_place_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n", encoding="utf-8")
    with pytest.raises(NotPublished, match=END):
        write_readme(readme, RESULTS)
