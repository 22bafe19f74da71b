"""The report answers first: what fits which card, what a peak is made of; the rest is folded or said in a line."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reported import of_a_card, rooms_of_all_kinds, stored
from tests.synthetic import campaign, on_card, write
from vram_ledger.analysis.judging.campaign import main_campaigns
from vram_ledger.analysis.public.evidence import published_rows, summary
from vram_ledger.analysis.reporting.capacity import ASKED_TOKENS, CARDS, card_frontiers, rooms
from vram_ledger.analysis.reporting.report import Report, build
from vram_ledger.analysis.reporting.tabular import lookup, matrix
from vram_ledger.harness.records import Measured, ResultsFile
from vram_ledger.home import own_version


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build([stored(tmp_path_factory.mktemp("answers"))], lambda part: rooms_of_all_kinds())


@pytest.fixture(scope="module")
def published() -> Report:
    return build(main_campaigns(), card_frontiers(), published_rows())


@pytest.mark.parametrize(
    ("gpu", "answers"),
    [
        ("h200", ["fits"] * 6),
        ("h100", ["fits"] * 4 + ["chunks", "margin"]),
        ("a100-40gb", ["fits", "fits", "no", "no", "no", "no"]),
        ("rtx-4090", ["no"] * 6),
    ],
)
def test_a_context_fits_if_its_prefill_and_its_decode_do(gpu: str, answers: list[str]) -> None:
    (own,) = (room for room in rooms(rooms_of_all_kinds()) if room.gpu == gpu)
    assert answers == [own.answer(tokens) for tokens in ASKED_TOKENS]


def test_a_card_of_which_no_decode_is_known_has_no_answer() -> None:
    assert [] == rooms([own for own in rooms_of_all_kinds() if own.phase == "prefill"])


def test_the_matrix_has_cards_by_size_with_their_memory() -> None:
    found = matrix(rooms(rooms_of_all_kinds()))
    assert ["rtx-4090 · 24", "a100-40gb · 39", "h100 · 79", "h200 · 140"] == [row[0] for row in found.rows]
    assert ("card · GiB", "4K", "16K", "32K", "64K", "128K", "256K") == found.header


def test_the_lookup_has_every_card_by_name_and_both_ends() -> None:
    assert (
        ("a100-40gb · 39", "20,000"),
        ("h100 · 79", "70,000; in chunks 200,000 to 280,000"),
        ("h200 · 140", "≥ 300,000"),
        ("rtx-4090 · 24", "nothing"),
    ) == lookup([("m", rooms(rooms_of_all_kinds()))]).rows


def test_matrix_and_picture_stand_above_all_else_and_say_what_kind_of_number_they_are(report: Report) -> None:
    top = report.html.partition("<nav")[0]
    assert 1 == top.count('<table class="matrix">') == top.count("PREDICTED FROM REPLAYS")
    assert 1 == top.count("<figure") == top.count("FAKE DEVICE — replayed, not measured</text>")
    assert 4 == len(re.findall(r"<tr><th scope=\"row\">", top))


def test_a_card_is_found_by_its_name_in_the_address(report: Report) -> None:
    assert ["a100-40gb", "h100", "h200", "rtx-4090"] == re.findall(r'<tr id="card-([^"]*)"', report.html)


def test_where_all_is_exact_one_line_says_so_and_no_grid_of_zeros_is_drawn(report: Report) -> None:
    assert "All 30 residuals of our formula are 0 B." in report.html
    assert "our formula − replayed" not in report.html


def test_verdicts_that_agree_are_counted_and_folded_away(report: Report) -> None:
    drift = report.html.partition(">Drift</h3>")[2].partition("<h3")[0]
    before, count, after = re.split(r"<summary>(\d+) verdicts EQUIVALENT", drift)
    assert ("EQUIVALENT</b>" in before, int(count)) == (False, after.count('<b class="good">EQUIVALENT</b>'))


def test_what_does_not_agree_is_not_folded_away(tmp_path: Path) -> None:
    html = build([stored(tmp_path, calibrated=False)]).html
    before = html.partition(">Drift</h3>")[2].partition("verdicts EQUIVALENT")[0]
    assert '<b class="unknown">NO_REFERENCE</b>' in before


def test_campaigns_of_one_model_are_one_chapter_with_cards_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "emulated").mkdir()
    files = [stored(tmp_path), write(_emulated(), tmp_path / "emulated" / "b.jsonl")]
    made = build(files, lambda part: rooms_of_all_kinds())
    assert (1, 2) == (made.html.count('<section class="model"'), made.html.count('<section class="chapter"'))
    assert {"fake-h100"} == {drawing.name.partition(".")[0] for drawing in made.drawings}
    assert re.search(r">l40s</th><td>emulated</td><td class=\"n\">30</td><td class=\"n\">0</td>", made.html)


def test_a_measured_card_has_its_figures_whatever_stands_before_it(tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    made = build([stored(tmp_path), write(of_a_card(), tmp_path / "card" / "b.jsonl")])
    assert {"fake-h100", "h100"} == {drawing.name.partition(".")[0] for drawing in made.drawings}
    assert ("Measured on cards:" in made.html, "No campaign of a real card" in made.html) == (True, False)


def test_without_a_measured_card_the_page_says_that_there_is_none(report: Report) -> None:
    assert "No campaign of a real card is published yet" in report.html


def test_the_page_has_what_others_published_disagreements_first(tmp_path: Path) -> None:
    rows = published_rows()
    html = build([stored(tmp_path, calibrated=False)], evidence=rows).html
    names = re.findall(r'<th scope="row"[^>]*>([^<]*)</th>', html.partition('id="real"')[2].partition("</section>")[0])
    assert [row.figure.name for row in rows] == names
    assert summary(rows) in html


def test_figures_go_no_higher_than_cards_do(tmp_path: Path) -> None:
    own = campaign()
    first = own.measurements[0]
    assert isinstance(first.outcome, Measured)
    huge = dataclasses.replace(first.outcome.warm, requested_bytes=2 * 10**12)
    line = dataclasses.replace(first, outcome=dataclasses.replace(first.outcome, warm=huge))
    changed = dataclasses.replace(own, measurements=(line, *own.measurements[1:]))
    made = build([stored(tmp_path, changed, calibrated=False)])
    (peaks,) = (d for d in made.drawings if d.name.endswith(f"{first.workload.phase}.peaks"))
    assert "in the table only: 1 of 15." in peaks.caption
    assert "TB<" not in peaks.svg


def test_captions_and_titles_have_no_hashes_in_them(published: Report) -> None:
    for drawing in published.drawings:
        assert not re.findall(r"\b(?=\w*\d)[0-9a-f]{10,}\b", f"{drawing.title} {drawing.caption}"), drawing.name


def test_the_published_page_has_the_27b_first_all_cards_and_folds_what_nobody_owns(published: Report) -> None:
    assert "Does qwen3.5-27b fit?" in published.html
    assert list(CARDS) == re.findall(r'<tr><th scope="row">([^< ]*) · \d+<', published.html)
    folded = re.findall(r'<details class="fold" id="[^"]*"><summary>([^:]*):', published.html)
    assert ["qwen3.5-64l-mini", "qwen3.5-64l-nano"] == sorted(folded)
    assert not [drawing.name for drawing in published.drawings if "64l" in drawing.name]


def test_the_published_page_is_small(published: Report) -> None:
    assert 2_000_000 > len(published.html.encode())


def test_the_page_says_of_what_versions_it_is_and_how_to_cite_it(report: Report) -> None:
    foot = report.html.partition('id="cite"')[2]
    environment = campaign().environment
    texts = (own_version(), f"torch {environment.torch}", f"transformers {environment.transformers}", "CITATION.cff")
    assert [] == [text for text in texts if text not in foot]


def test_what_each_counter_is_stands_on_the_page(report: Report) -> None:
    words = re.findall(r"<dt>([a-z]*)</dt>", report.html)
    assert ["requested", "allocated", "reserved", "process", "device"] == words


def test_every_table_has_a_caption_and_headers(report: Report) -> None:
    tables = re.findall(r"<table.*?</table>", report.html, flags=re.DOTALL)
    assert tables
    assert all("<caption>" in own and '<th scope="col"' in own and '<th scope="row"' in own for own in tables)


def test_a_model_that_nobody_owns_is_shown_where_there_is_no_other() -> None:
    (file,) = (ROOT / "results" / "fake-h200" / "default").glob("qwen3.5-64l-mini.fake.*.jsonl")
    made = build([file])
    assert '<section class="model"' in made.html
    assert made.drawings


def _emulated() -> ResultsFile:
    own = on_card(campaign())
    environment = dataclasses.replace(
        own.environment,
        device="emulated",
        gpu_label="emulated-l40s",
        gpu_uuid=None,
        driver=None,
        emulation="0123456789ab",
    )
    return dataclasses.replace(own, environment=environment)
