"""The report: what stands on it, that it is the same wherever it is made, and what it refuses."""

import dataclasses
import re
import shutil
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import invoke
from tests.reported import frontiers, points, stored
from tests.synthetic import CONFIG, CONFIGURATION, campaign, on_card
from vram_ledger.analysis.predicting.capacity import Largest
from vram_ledger.analysis.refereeing.campaign import read_campaign
from vram_ledger.analysis.reporting.drawing import spread
from vram_ledger.analysis.reporting.palette import COLOURS
from vram_ledger.analysis.reporting.part import Part, chosen, ledger, parts_of
from vram_ledger.analysis.reporting.report import Report, build, write
from vram_ledger.analysis.reporting.residuals import residual_role, residual_text
from vram_ledger.analysis.reporting.svg import MARK, SVG, inline, own_id, plain
from vram_ledger.analysis.reporting.tabular import breakdown_rows, frontier_table
from vram_ledger.harness.records import Measured, Measurement

SCRIPT = '"\'><script>alert(1)<script> onload=" font-family: x; #0b66b8 id="z"'
BROKEN = "bell \x07, null \x00, next line\x85, \ufffe, new\nline"
EACH = ("peaks", "estimators-batch1", "estimators-batch8", "breakdown")
COMMITTED = ROOT / "results" / "report.html"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return build([stored(folder)])


@pytest.fixture(scope="module")
def part(folder: Path) -> Part:
    (only,) = parts_of(read_campaign(stored(folder)))
    return only


def test_two_thousand_measurements_take_less_than_ten_seconds_and_three_megabytes(tmp_path: Path) -> None:
    file = stored(tmp_path, campaign(points=points(contexts=50, batches=20)))
    start = time.process_time()
    made = build([file])
    list(write(made, tmp_path))
    assert 10 > time.process_time() - start
    assert 3_000_000 > (tmp_path / "report.html").stat().st_size
    assert "All 2,000 points" in made.html


def test_every_kind_of_figure_is_there_for_both_phases(report: Report) -> None:
    expected = {f"fake-h100.qwen3.5-27b.text.{phase}.{kind}" for phase in ("prefill", "decode") for kind in EACH}
    expected.add("fake-h100.qwen3.5-27b.text.made-of")
    assert expected == {drawing.name for drawing in report.drawings}
    assert all(f'<figure id="{name}">' in report.html for name in expected)


def test_every_figure_of_a_replay_says_so(report: Report) -> None:
    assert all("FAKE DEVICE — replayed, not measured</text>" in drawing.svg for drawing in report.drawings)


def test_a_card_is_never_called_fake(tmp_path: Path) -> None:
    file = stored(tmp_path, on_card(campaign()))
    assert "FAKE" not in build([file]).html


def test_no_id_is_there_twice_and_every_one_that_is_used_is_there(report: Report) -> None:
    ids = re.findall(r' id="([^"]*)"', report.html)
    assert len(set(ids)) == len(ids)
    used = re.findall(r'(?:url\(#|href="#)([^")]*)', report.html)
    assert used
    assert set(used) <= set(ids)


def test_figures_have_the_colours_of_the_palette_and_follow_the_scheme(report: Report) -> None:
    light = [colour for colour, _ in COLOURS.values()]
    assert len(set(light)) == len(light)
    for drawing in report.drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing.svg)) <= set(light), drawing.name
        assert not re.findall(r"#[0-9a-f]{6}\b", inline(drawing.svg, drawing.name, "")), drawing.name


def test_every_file_of_a_figure_is_xml_with_a_title_and_a_description(report: Report) -> None:
    for drawing in report.drawings:
        root = ET.fromstring(drawing.svg)
        first = [child.tag.rpartition("}")[2] for child in root][:2]
        assert (["title", "desc"], "img") == (first, root.get("role"))


def test_nothing_is_loaded_and_no_path_or_program_is_on_the_page(report: Report) -> None:
    assert not re.findall(r'(?:src|href|url\()=?["\']?(?:https?:|//|file:)', report.html)
    assert str(ROOT) not in report.html
    assert "<script" not in report.html.lower()
    assert "default-src 'none'" in report.html


def test_whatever_was_measured_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "configs" / "models"
    models.mkdir(parents=True)
    shutil.copy(CONFIG, models / f"{SCRIPT}.json")
    shutil.copy(ROOT / "configs" / "gpus.toml", models.parent)
    monkeypatch.setattr("vram_ledger.analysis.judging.campaign.MODELS", models)
    changed = {"gpu_name": SCRIPT, "platform": BROKEN, "gpu_label": f"fake-{SCRIPT} {BROKEN}"}
    own = campaign(environment=dataclasses.replace(campaign().environment, **changed))  # type: ignore[arg-type]
    results = dataclasses.replace(own, measurements=tuple(map(_hostile, own.measurements)))
    made = build([stored(tmp_path, results, calibrated=False)])
    assert "&lt;script&gt;alert(1)" in made.html
    assert "<script" not in made.html + "".join(drawing.svg for drawing in made.drawings)
    assert plain(made.html) == made.html
    assert all(re.fullmatch(r"[\w.-]+", drawing.name) for drawing in made.drawings)
    for drawing in made.drawings:
        for root in (ET.fromstring(drawing.svg), ET.fromstring(inline(drawing.svg, drawing.name, SCRIPT))):
            assert any(SCRIPT in (text.text or "") for text in root.iter(f"{{{SVG}}}text"))
            assert not [name for element in root.iter() for name in element.attrib if name == "onload"]


def test_text_that_no_format_holds_is_replaced() -> None:
    assert "a\ufffdb\ufffdc\n\t" == plain("a\x01b\udcffc\n\t")


def test_names_that_differ_have_ids_that_differ() -> None:
    names = ["a.b", "a-b", "a_b", "a-2e-b"]
    assert len(names) == len(set(map(own_id, names)))


def _hostile(line: Measurement) -> Measurement:
    assert isinstance(line.outcome, Measured)
    site = dataclasses.replace(line.outcome.site, source=f"{SCRIPT}.py:1", op=SCRIPT)
    configuration = dataclasses.replace(CONFIGURATION, model=SCRIPT)
    return dataclasses.replace(
        line,
        workload=dataclasses.replace(line.workload, configuration=configuration),
        outcome=dataclasses.replace(line.outcome, site=site),
    )


def test_segments_of_every_peak_add_up_to_it(part: Part) -> None:
    for workload, outcome in part.ran.items():
        assert outcome.warm.requested_bytes == sum(ledger(workload, outcome).values())


def test_every_row_of_the_breakdown_adds_up_to_the_measured_peak(part: Part) -> None:
    rows = [[int(cell.replace(",", "")) for cell in row[1:]] for row in breakdown_rows(part)]
    peaks = [part.points(phase)[shape].warm.requested_bytes for phase in part.phases for shape in chosen(part, phase)]
    assert rows
    assert [(peak, peak) for peak in peaks] == [(sum(row[:-1]), row[-1]) for row in rows]


def test_a_breakdown_is_of_points_that_the_card_holds(part: Part) -> None:
    held = part.points("prefill")
    assert all(part.fits(held[point].warm.requested_bytes) for point in chosen(part, "prefill"))


def test_without_a_calibration_the_page_says_so_and_has_no_lines(tmp_path: Path) -> None:
    made = build([stored(tmp_path, calibrated=False)])
    assert "No calibration is stored beside this file" in made.html
    assert "our formula − replayed" not in made.html
    assert "there are no lines" in next(d for d in made.drawings if d.name.endswith("prefill.peaks")).caption


def test_several_configurations_have_their_figures_each() -> None:
    made = build(sorted((ROOT / "results" / "fake-h200" / "axes").glob("*.jsonl")))
    names = [drawing.name for drawing in made.drawings if not drawing.name.endswith("made-of")]
    variants = {name.removeprefix("fake-h200.qwen3.5-27b.").split(".")[0] for name in names}
    assert {"text", "default-static", "default-logits", "default-chunk8192", "default-reference"} == variants


def test_drift_is_on_the_page(tmp_path: Path) -> None:
    own = campaign()
    first = own.measurements[0]
    assert isinstance(first.outcome, Measured)
    grown = dataclasses.replace(first.outcome, weights_bytes=first.outcome.weights_bytes - 4096)
    lines = (dataclasses.replace(first, outcome=grown), *own.measurements[1:])
    made = build([stored(tmp_path, dataclasses.replace(own, measurements=lines), calibrated=False)])
    assert '<b class="bad">DRIFT</b>' in made.html
    assert '<td class="n">+4,096</td>' in made.html
    assert '<span class="bad">drift — weights' in made.html


@pytest.mark.parametrize("text", ["", "{}\n", "\udcff"])
def test_a_file_that_is_no_results_file_is_refused_and_nothing_is_written(tmp_path: Path, text: str) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_bytes(text.encode(errors="surrogateescape"))
    done = invoke("report", str(stored(tmp_path)), str(wrong), "--results", str(tmp_path / "to"))
    assert (2, "exit 2: bad input") == (done.exit_code, done.stderr.splitlines()[-1][:17])
    assert not (tmp_path / "to").exists()


def test_one_configuration_twice_is_refused(tmp_path: Path) -> None:
    file = stored(tmp_path)
    again = shutil.copy(file, file.with_name("again.jsonl"))
    done = invoke("report", file, again, "--results", str(tmp_path / "to"))
    assert 2 == done.exit_code
    assert "name the one to report" in done.stderr


def test_only_figures_of_an_earlier_report_are_removed(tmp_path: Path, report: Report) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "of-an-earlier-report.svg").write_text(f"<?xml?>\n{MARK}\n<svg/>", encoding="utf-8")
    (figures / "somebody's.svg").write_text("<svg/>", encoding="utf-8")
    list(write(report, tmp_path))
    names = {f"{drawing.name}.svg" for drawing in report.drawings}
    assert names | {"somebody's.svg"} == {path.name for path in figures.iterdir()}


def test_without_frontiers_the_section_is_left_out(report: Report) -> None:
    assert "fits which GPU" not in report.html


def test_a_frontier_table_has_every_card() -> None:
    table, nothing = frontier_table(frontiers())
    assert (["h200", "a100-80gb", "h100"], "l4") == ([row[0] for row in table.rows], nothing)


@pytest.mark.parametrize(
    ("certain", "possible", "text"),
    [(0, 0, "–"), (5000, 5000, "5,000"), (0, 7, "0 to 7"), (7, 9999, "7 to ≥ 9,999"), (9999, 9999, "≥ 9,999")],
)
def test_both_ends_of_a_frontier_in_words(certain: int, possible: int, text: str) -> None:
    assert text == Largest(at=1, certain=certain, possible=possible, most=9999).text


@pytest.mark.parametrize(
    ("bytes_", "text", "role"),
    [
        (0, "0", "zero"),
        (8, "+8 B", "high-1"),
        (-1536, "−1.5 kB", "low-1"),
        (3_300_000, "+3.3 MB", "high-1"),
        (-6_340_000_000, "−6.34", "low-3"),
        (1_370_000_000_000, "+1,370", "high-4"),
    ],
)
def test_a_residual_in_a_cell(bytes_: int, text: str, role: str) -> None:
    assert (text, role) == (residual_text(bytes_), residual_role(bytes_))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [([10, 50], [10, 50]), ([20, 20], [15, 25]), ([0, 1, 2], [0, 10, 20]), ([99, 100], [90, 100])],
)
def test_labels_are_moved_apart_and_stay_inside(wanted: list[float], found: list[float]) -> None:
    assert found == spread(wanted, gap=10, room=100)


def test_the_environment_is_complete(report: Report) -> None:
    names = {field.name for field in dataclasses.fields(campaign().environment)} - {"gpu_uuid", "allocator"}
    assert all(re.search(f'<th scope="row"[^>]*>{name}</th>', report.html) for name in names)
    assert "gpu_uuid" not in report.html


def test_the_committed_report_says_how_to_make_it_again() -> None:
    assert "make measure MODEL=qwen3.5-27b GRID=default FAKE=h200" in COMMITTED.read_text(encoding="utf-8")
