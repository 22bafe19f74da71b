"""The scoreboard ranks everybody on the same points, and what is stored is what is generated."""

import subprocess
import sys
from os import environ
from pathlib import Path

import pytest

from tests.conftest import BIG, ROOT
from tests.invoked import invoke
from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.judging.campaign import main_campaigns
from vram_ledger.analysis.refereeing.campaign import read_campaign
from vram_ledger.analysis.refereeing.referee import OURS
from vram_ledger.analysis.refereeing.scoreboard import Board, scoreboard

FILES = ("scoreboard.md", "scoreboard.csv")


@pytest.fixture(scope="module")
def board() -> Board:
    (file,) = (path for path in main_campaigns() if path.name.startswith(f"{BIG}.fake."))
    return scoreboard(read_campaign(file))


def test_everybody_is_ranked(board: Board) -> None:
    assert sorted((*OURS, *ESTIMATORS)) == sorted(own.estimator for own in board.ranked)


def test_everybody_is_asked_at_the_same_points(board: Board) -> None:
    assert {tuple(p.request for p in board.campaign.points)} == {
        tuple(e.request for e in own.totals) for own in board.ranked
    }


def test_ours_comes_first_and_the_one_that_has_not_seen_the_points_second(board: Board) -> None:
    assert ["ours", "ours-held-out"] == [own.estimator for own in board.ranked[:2]]


def test_points_that_the_card_could_not_hold_are_left_out(board: Board) -> None:
    assert (60, 10) == (len(board.campaign.points), board.campaign.left_out)


@pytest.mark.parametrize("file", FILES)
def test_the_stored_scoreboard_is_the_generated_one(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("scoreboard")
    assert (ROOT / "results" / file).read_bytes() == (tmp_path / "runs" / file).read_bytes()


def test_the_scoreboard_is_the_same_under_other_hash_seeds_locales_and_time_zones(tmp_path: Path) -> None:
    for seed, zone, locale in (("1", "UTC", "C"), ("2", "Asia/Tokyo", "C.UTF-8")):
        settings = environ | {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "PYTHONPATH": str(ROOT)}
        (tmp_path / seed).mkdir()
        command = [sys.executable, "-m", "vram_ledger", "scoreboard"]
        subprocess.run(command, cwd=tmp_path / seed, env=settings, check=True, capture_output=True, timeout=60)
    assert [(tmp_path / "1" / "runs" / f).read_bytes() for f in FILES] == [
        (tmp_path / "2" / "runs" / f).read_bytes() for f in FILES
    ]


def test_the_scoreboard_says_that_it_is_replayed() -> None:
    assert "FAKE DEVICE — replayed, not measured" in (ROOT / "results" / "scoreboard.md").read_text(encoding="utf-8")
