"""The figures of the report, read back from what was drawn: lines, marks, bars and cells stand where they should."""

import dataclasses
import itertools
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drawn import bars, leaders, lines, marks, texts
from tests.reported import OOM, of_a_card, points, stored
from tests.synthetic import CONTEXTS, campaign
from vram_ledger.analysis.estimating.breakdown import Breakdown, Estimator, EstimatorError, Request
from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.refereeing.campaign import stored_campaign
from vram_ledger.analysis.reporting.drawing import Drawing
from vram_ledger.analysis.reporting.estimates import ESTIMATOR_LINES, SHOWN
from vram_ledger.analysis.reporting.part import SEGMENTS, Part, chosen, ledger, parts_of
from vram_ledger.analysis.reporting.report import Report, build
from vram_ledger.analysis.reporting.residuals import residual, residual_map
from vram_ledger.analysis.reporting.svg import inline
from vram_ledger.harness.records import Measured, OutOfMemory, ResultsFile

ROLES = {batch: f"ramp-{n}" for batch, n in ((1, 0), (2, 3), (8, 7))}


def figure(report: Report, name: str) -> str:
    """The SVG of the prefill's figure of this kind."""
    (found,) = (d.svg for d in report.drawings if d.name.endswith(f".prefill.{name}"))
    return found


def planted(folder: Path, change: Callable[[Measured], Measured | OutOfMemory], batch: int, tokens: int) -> Path:
    """A stored campaign whose calibration is of what it was before one prefill was changed."""
    own = campaign()
    stored(folder, own)
    return stored(folder, _changed(own, change, batch, tokens), calibrated=False)


def _changed(
    own: ResultsFile, change: Callable[[Measured], Measured | OutOfMemory], batch: int, tokens: int
) -> ResultsFile:
    lines_ = []
    for line in own.measurements:
        w = line.workload
        assert isinstance(line.outcome, Measured)
        hit = (w.phase, w.batch, w.context_tokens) == ("prefill", batch, tokens)
        lines_.append(dataclasses.replace(line, outcome=change(line.outcome)) if hit else line)
    return dataclasses.replace(own, measurements=tuple(lines_))


def grown(outcome: Measured) -> Measured:
    """A point that takes 1,000 bytes more."""
    peak = dataclasses.replace(outcome.warm, requested_bytes=outcome.warm.requested_bytes + 1000)
    return dataclasses.replace(outcome, warm=peak)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return build([stored(folder)])


@pytest.fixture(scope="module")
def part(folder: Path) -> Part:
    (only,) = parts_of(stored_campaign(stored(folder)))
    return only


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build([planted(tmp_path_factory.mktemp("refused"), lambda _: OOM, 8, CONTEXTS[-1])])


def test_every_batch_has_a_dot_a_context_and_a_line_through_them(report: Report) -> None:
    svg = figure(report, "peaks")
    for role in ROLES.values():
        (line,), dots = lines(svg, role), marks(svg, role)
        assert len(CONTEXTS) == len(dots) == len(set(dots))
        assert line[-1] == pytest.approx(max(dots), abs=0.1)
        assert line[0] == pytest.approx(min(dots), abs=0.1)


def test_without_a_formula_there_are_dots_but_no_lines(tmp_path: Path) -> None:
    svg = figure(build([stored(tmp_path, calibrated=False)]), "peaks")
    assert [(0, 5)] * 3 == [(len(lines(svg, role)), len(marks(svg, role))) for role in ROLES.values()]


def test_labels_of_batches_lead_to_the_ends_of_their_lines(report: Report) -> None:
    svg = figure(report, "peaks")
    for batch, role in ROLES.items():
        dots, (start, *_) = lines(svg, role)[0], leaders(svg, role)[0]
        assert start[1] == pytest.approx(dots[-1][1], abs=0.1)
        assert f"B = {batch}" in texts(svg)


def test_a_point_out_of_memory_is_a_cross_a_cell_and_a_word_in_the_head(refused: Report) -> None:
    svg = figure(refused, "peaks")
    assert len(CONTEXTS) == len(marks(svg, ROLES[8]))
    assert '<td class="refused">OOM</td>' in refused.html
    assert "; 1 workload ran out of memory." in refused.html
    assert '<b class="bad">out of memory</b>' in refused.html
    assert "Crosses: out of memory (1)" in refused.html


def test_a_label_leads_to_where_the_points_end(tmp_path: Path) -> None:
    own = _changed(campaign(), lambda _: OOM, 8, CONTEXTS[-1])
    svg = figure(build([stored(tmp_path, own, calibrated=False)]), "peaks")
    ends = max(marks(svg, ROLES[8])[:4])
    assert ends[1] == pytest.approx(leaders(svg, ROLES[8])[0][0][1], abs=0.1)


def test_a_campaign_in_which_nothing_ran_is_a_chapter(tmp_path: Path) -> None:
    own = campaign()
    none = tuple(dataclasses.replace(line, outcome=OOM) for line in own.measurements)
    made = build([stored(tmp_path, dataclasses.replace(own, measurements=none), calibrated=False)])
    assert () == made.drawings
    assert "nothing ran; 30 workloads ran out of memory" in made.html
    assert 30 == made.html.count("out of memory: ")
    assert '<th scope="row" class="name">torch</th>' in made.html


def test_a_replay_of_which_the_card_holds_nothing_is_a_chapter(tmp_path: Path) -> None:
    environment = dataclasses.replace(campaign().environment, gpu_label="fake-l4")
    made = build([stored(tmp_path, campaign(environment=environment))])
    assert "30 points; 30 of them need more than the card holds" in made.html
    assert {"made-of", "peaks", "estimators-batch1"} == {d.name.rpartition(".")[2] for d in made.drawings}
    assert "No point is within the card’s memory." in made.html


def test_a_residual_is_predicted_minus_counted(tmp_path: Path) -> None:
    file = planted(tmp_path, grown, 2, 4097)
    (part,) = parts_of(stored_campaign(file))
    found = residual_map(part, "prefill")
    assert found is not None
    rows = {context: dict(zip(found.batches, cells, strict=True)) for context, cells in found.rows}
    assert ("−1.0 kB", "low-1") == rows["4,097"][2]
    assert 14 == sum(text == "0" and role.startswith("zero") for row in rows.values() for text, role in row.values())
    assert '<td class="low-1">−1.0 kB</td>' in build([file]).html


def test_an_estimator_that_says_too_much_has_a_positive_residual(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "fitmygpu", _always(200 * 10**9))
    workload, outcome = next(iter(part.ran.items()))
    assert 200 * 10**9 - outcome.warm.requested_bytes == residual(part, workload, outcome, "fitmygpu")


def _always(total_bytes: int) -> Estimator:
    return lambda request: Breakdown(predicts="requested", total_bytes=total_bytes, weights_bytes=total_bytes // 2)


def test_cells_have_their_numbers_and_their_colours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "fitmygpu", _always(400 * 10**9))
    html = build([stored(folder)]).html
    assert '<td class="high-4">+345</td>' in html
    assert 'class="low-4">' not in html


def test_estimators_have_a_line_each_and_stand_as_high_as_what_they_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(SHOWN):
        monkeypatch.setitem(ESTIMATORS, name, _always((60 + 10 * number) * 10**9))
    svg = figure(build([stored(folder)]), "estimators-batch1")
    heights = [lines(svg, role)[0][-1][1] for role, _ in ESTIMATOR_LINES]
    steps = [low - high for low, high in itertools.pairwise(heights)]
    assert [pytest.approx(steps[0], abs=0.1)] * 4 == steps
    assert steps[0] > 5
    assert 5 == len(marks(svg, "blue"))


def test_estimators_that_can_not_tell_are_named_and_have_no_map(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(request: Request) -> Breakdown:
        raise EstimatorError("no such model")

    monkeypatch.setitem(ESTIMATORS, "fitmygpu", silent)
    made = build([stored(folder)])
    assert "fitmygpu can’t tell for this model." in made.html
    assert "fitmygpu − replayed" not in made.html


def test_bars_are_as_wide_as_their_bytes(report: Report, part: Part) -> None:
    svg = figure(report, "breakdown")
    shown = chosen(part, "prefill")
    sizes = [ledger(part.workload("prefill", c, b), part.points("prefill")[c, b]) for c, b in shown]
    unit = (bars(svg, "bar-0")[0][1] - bars(svg, "bar-0")[0][0]) / sizes[0][SEGMENTS[0]]
    for number, segment in enumerate(SEGMENTS):
        widths = [right - left for left, right in bars(svg, f"bar-{number}")]
        assert [pytest.approx(size[segment] * unit, abs=0.05) for size in sizes] == widths


def test_every_counter_of_a_card_is_shown(tmp_path: Path) -> None:
    own = of_a_card()
    made = build([stored(tmp_path, own, calibrated=False)])
    svg = figure(made, "counters")
    assert [1] * 5 == [len(lines(svg, role)) for role in ("blue", "green", "gold", "purple", "orange")]
    heights = [lines(svg, role)[0][-1][1] for role in ("blue", "green", "gold", "purple", "orange")]
    assert sorted(heights, reverse=True) == heights
    names = ["requested", "allocated", "reserved", "process", "device"]
    assert all(f'<th scope="col" class="n">{name}</th>' in made.html for name in names)
    assert all(f'<th scope="col" class="n">{name}, first call</th>' in made.html for name in names)
    first = own.measurements[0].outcome
    assert isinstance(first, Measured)
    assert f'<td class="n">{first.warm.reserved_bytes:,}</td>' in made.html


def test_one_context_has_a_tick_and_estimators_that_can_be_seen(tmp_path: Path) -> None:
    own = campaign(points=points(contexts=1, batches=3))
    one = dataclasses.replace(
        own,
        measurements=tuple(
            dataclasses.replace(m, workload=dataclasses.replace(m.workload, context_tokens=3001))
            for m in own.measurements
        ),
    )
    made = build([stored(tmp_path, one, calibrated=False)])
    assert "3,001" in texts(figure(made, "peaks"))
    assert 1 == len(marks(figure(made, "estimators-batch1"), "orange"))


def test_a_label_for_those_who_can_not_see_survives_quotes() -> None:
    label = '"quoted" & <tagged>'
    drawing = Drawing(name="a", title="", description="", caption="", svg='<svg viewBox="0 0 1 1"/>')
    assert label == ET.fromstring(inline(drawing.svg, drawing.name, label)).get("aria-label")
