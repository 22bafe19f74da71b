"""What the report says in words and tables: findings, counts, names for a screen reader, commands."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import invoke
from tests.reported import frontiers, stored
from tests.synthetic import CACHE_27B, STATE_27B, campaign
from vram_ledger.analysis.refereeing.campaign import stored_campaign
from vram_ledger.analysis.refereeing.scoreboard import assumptions, scoreboard
from vram_ledger.analysis.reporting.findings import findings
from vram_ledger.analysis.reporting.part import Part, parts_of
from vram_ledger.analysis.reporting.report import Report, build
from vram_ledger.analysis.reporting.sections import commands, points_text
from vram_ledger.analysis.reporting.tabular import Table, board_tables, table

AXES = ROOT / "results" / "fake-h200" / "axes"
MAIN = sorted((ROOT / "results" / "fake-h200" / "default").glob("qwen3.5-27b.fake.*.jsonl"))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return build([stored(folder)], lambda part: frontiers())


@pytest.fixture(scope="module")
def part(folder: Path) -> Part:
    (only,) = parts_of(stored_campaign(stored(folder)))
    return only


def test_findings_are_read_off_the_points(part: Part) -> None:
    cache, prefill, estimators = findings([part], scoreboard(part.campaign))
    assert f"{CACHE_27B:,} bytes a token, the state of a sequence {STATE_27B:,} bytes" in cache
    outcome = part.points("prefill")[32768, 1]
    whole = (outcome.warm.requested_bytes - outcome.baseline_bytes) / 10**9
    assert f"A prefill of 1 sequence of 32,768 tokens needs {whole:,.1f} GB" in prefill
    assert re.match(r"Of \d+ public estimators [\w.-]+ comes nearest", estimators)


def test_findings_stand_on_top_of_their_chapter(report: Report, part: Part) -> None:
    top = report.html[: report.html.index("Peak against context</h3>")]
    assert all(sentence in top for sentence in findings([part], scoreboard(part.campaign)))


def test_what_a_card_does_not_hold_is_said_to_be_left_out_of_the_scoreboard_only(part: Part) -> None:
    campaign_ = dataclasses.replace(part.campaign, left_out=10)
    total = len(campaign_.points) + 10
    expected = f"{total} points; 10 of them need more than the card holds and are left out of the scoreboard"
    assert expected == points_text(campaign_, refused=0)


def test_one_is_one_point_and_not_one_points(part: Part) -> None:
    one = dataclasses.replace(part.campaign, points=part.campaign.points[:1], left_out=0)
    assert "1 point; 2 workloads ran out of memory" == points_text(one, refused=2)


def test_the_environment_has_its_values(report: Report) -> None:
    environment = campaign().environment
    for name in ("torch", "transformers", "fla", "gpu_label", "config_sha256", "python"):
        value = getattr(environment, name)
        classes = ' class="long"' if len(value) > 28 else ""
        short = ' class="name"' if len(name) <= 14 else ""
        assert (
            f'<th scope="row"{short}>{name}</th><td{classes}>{value.replace(".", ".<wbr>") if classes else value}</td>'
            in (report.html)
        )


def test_no_two_regions_or_links_have_one_name(report: Report) -> None:
    for pattern in (
        r'role="region" aria-label="([^"]*)"',
        r'<a [^>]*aria-label="([^"]*)"',
        r'role="img"[^>]*aria-label="([^"]*)"',
    ):
        names = re.findall(pattern, report.html)
        assert names
        assert len(set(names)) == len(names)


def test_regions_that_can_be_scrolled_have_a_role_and_a_name(report: Report) -> None:
    assert all("role" in tag and "aria-label" in tag for tag in re.findall(r"<[^>]*tabindex[^>]*>", report.html))


def test_nothing_has_an_empty_class(report: Report) -> None:
    assert 'class=""' not in report.html


def test_what_has_no_reference_is_not_good(tmp_path: Path) -> None:
    html = build([stored(tmp_path, calibrated=False)]).html
    assert '<b class="unknown">NO_REFERENCE</b>' in html
    assert "passes without being confirmed" in html


def test_the_derived_formula_is_named_where_drift_is_judged_by_it() -> None:
    html = build([MAIN]).html
    assert re.search(r"the program’s own formula says: derived qwen3\.5-27b\.default\.prefill", html)
    assert "peak and held (every point, derived)" in html
    assert "no drift" in html
    assert "exit 0" not in html


def test_words_and_numbers_of_a_table_stand_apart() -> None:
    found = Table(header=("a", "b", "c"), rows=(), words=1, notes=1)
    assert ["", "n", ""] == [found.style(column, "1") for column in (1, 2, 3)]
    assert ["", "long"] == [found.style(2, cell) for cell in ("fla.ops.chunk", "fla.ops.gated_delta_rule.chunk")]


def test_a_table_has_one_sign_for_minus() -> None:
    assert (("−1", "a-1", "+2", "-"),) == table(("", "", "", ""), [("-1", "a-1", "+2", "-")]).rows


def test_an_exact_estimator_has_zeros_and_no_worst_point(part: Part) -> None:
    (_, ranking), _ = board_tables(scoreboard(part.campaign))
    ours = next(row for row in ranking.rows if row[0] == "ours")
    assert ("0", "0", "0", "0", "–") == ours[4:]


def test_what_the_scoreboard_found_is_on_the_page(report: Report, part: Part) -> None:
    board = scoreboard(part.campaign, ("ours-held-out",))
    assert all(text in report.html for _, text in assumptions(board) if "'" not in text)
    assert all(row[0] in report.html for _, table in board_tables(board) for row in table.rows)


def test_commands_make_the_page_again() -> None:
    own = stored_campaign(MAIN)
    assert [
        "make measure MODEL=qwen3.5-27b GRID=default FAKE=h200",
        "make derive MODEL=qwen3.5-27b VARIANT=default FAKE=h200",
        "make calibrate report RESULTS=results",
    ] == commands(own, parts_of(own))


def test_commands_name_the_file_of_another_grid() -> None:
    file = sorted(AXES.glob("*.jsonl"))[0]
    *_, calibrate, report = commands(stored_campaign(file), ())
    name = file.relative_to(ROOT).as_posix()
    assert (f"make calibrate FILE={name}", f"make report FILE={name} RESULTS=report") == (calibrate, report)


def test_commands_are_quoted_for_a_shell(part: Part) -> None:
    environment = dataclasses.replace(part.campaign.results.environment, gpu_label="fake-a; b")
    own = dataclasses.replace(
        part.campaign, results=dataclasses.replace(part.campaign.results, environment=environment)
    )
    assert "FAKE='a; b'" in commands(own, ())[0]


def test_a_report_goes_to_the_user_s_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert 0 == invoke("report", stored(folder)).exit_code
    assert (folder / "runs" / "report.html").exists()
