"""What is answered from an emulated card's results: by estimators, by predictions, on the page; never as measured."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, ROOT
from tests.emulated import CARD, CONTEXT_BYTES, GUESS, WORKSPACE_BYTES, changed, emulated, out_of_memory, replay
from tests.reported import frontiers
from tests.synthetic import write
from tests.test_emulated import SHAPES, filed, guessing
from vram_ledger.analysis.calibrating.calibration import make_calibration, write_calibration
from vram_ledger.analysis.ground.cards import card_of
from vram_ledger.analysis.ground.kinds import PREDICTED
from vram_ledger.analysis.judging.campaign import main_campaigns
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.analysis.predicting.capacity import frontier
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.predicting.prediction import (
    DOES_NOT_FIT,
    FITS,
    WORKSPACE,
    PredictedTerm,
    Prediction,
)
from vram_ledger.analysis.predicting.workspace import LARGE_BYTES, SMALL_BYTES
from vram_ledger.analysis.refereeing.campaign import campaigns_of, read_campaign, stored_campaign
from vram_ledger.analysis.refereeing.referee import score_all
from vram_ledger.analysis.refereeing.score import compared
from vram_ledger.analysis.refereeing.scoreboard import scoreboard
from vram_ledger.analysis.refereeing.validation import validation_markdown
from vram_ledger.analysis.reporting import capacity
from vram_ledger.analysis.reporting.capacity import card_frontiers
from vram_ledger.analysis.reporting.part import parts_of
from vram_ledger.analysis.reporting.report import build
from vram_ledger.analysis.reporting.residuals import residuals_of
from vram_ledger.analysis.reporting.tabular import frontier_table, point_table
from vram_ledger.harness.records import Measured, ResultsFile

GPUS = CONFIGS / "gpus.toml"
EMULATED_BANNER, FAKE_BANNER = "EMULATED CARD — no kernels, not measured", "FAKE DEVICE — replayed, not measured"


def placed(folder: Path, results: ResultsFile) -> Path:
    """The results with their calibration, where the harness and ``make calibrate`` would put them."""
    file = filed(folder, results)
    name = f"{BIG}.calibration.json"
    write_calibration(
        make_calibration(results, all_fitted_terms(results), judge(results, SHAPES), name), file.parent / name
    )
    return file


def predicted(
    folder: Path, phase: str = "prefill", batch: int = 1, context: int = 32_768, gpu: str = CARD
) -> Prediction:
    """An answer from what is stored in a folder."""
    ready = Library.of(folder).predictor(BIG, "default", card_of(gpu, GPUS))
    return ready.predict(phase, batch, context)  # type: ignore[arg-type]


def requested_term(found: Prediction, name: str) -> PredictedTerm:
    """One term of what is requested."""
    return next(t for t in found.terms if t.name == name)


def point_of(results: ResultsFile, phase: str, batch: int, context: int) -> Measured:
    """What ran at a shape."""
    shape = phase, batch, context
    outcome = next(
        m.outcome
        for m in results.measurements
        if (m.workload.phase, m.workload.batch, m.workload.context_tokens) == shape
    )
    assert isinstance(outcome, Measured)
    return outcome


def without_process(results: ResultsFile, count: int) -> ResultsFile:
    """A file in which segments were given back at the first points, so that the process's peak is not known."""
    lines = [
        changed(m, warm=dataclasses.replace(m.outcome.warm, process_bytes=None))
        if i < count and isinstance(m.outcome, Measured)
        else m
        for i, m in enumerate(results.measurements)
    ]
    return dataclasses.replace(results, measurements=tuple(lines))


def test_an_estimator_is_never_held_against_another_quantity_in_silence(tmp_path: Path) -> None:
    campaign = read_campaign(filed(tmp_path, without_process(emulated(), 3)))
    scores = score_all("fitmygpu", [campaign])
    (own,) = scores.scored
    assert ("process", 3, 46) == (own.against, own.left_out, len(own.totals))
    assert "process, context typed in (emulated; unknown at 3 of 49 points)" == own.compared_with
    assert own.compared_with in "\n".join(validation_markdown(scores, None, points=True))


def test_where_no_point_has_a_quantity_requested_bytes_serve_for_all() -> None:
    outcomes = [m.outcome for m in replay().measurements if isinstance(m.outcome, Measured)]
    assert "requested" == compared("process", outcomes)


def test_the_residual_map_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    (part,) = parts_of(read_campaign(filed(tmp_path, without_process(emulated(), 3))))
    found = sum(len(residuals_of(part, phase, "fitmygpu")) for phase in part.phases)
    assert (46, 49) == (found, len(part.ran))


def test_points_with_invented_reads_are_in_no_score_and_their_number_is_said(tmp_path: Path) -> None:
    campaign = read_campaign(filed(tmp_path, guessing(emulated(), range(1, 4))))
    scores = score_all("kvanta", [campaign])
    (own,) = scores.scored
    assert (46, 3, 0) == (len(own.totals), campaign.invented, campaign.left_out)
    assert "; 3 more read values that nothing had written, and are left out" in "\n".join(
        validation_markdown(scores, None, points=True)
    )


def test_the_page_marks_points_with_invented_reads(tmp_path: Path) -> None:
    file = filed(tmp_path, guessing(emulated(), range(1, 4)))
    (part,) = parts_of(read_campaign(file))
    rows = [row for row in point_table(part).rows if "invented reads" in row]
    assert (3, True) == (len(rows), all(GUESS.source in row[-1] for row in rows))
    assert "3 read what nothing had written and count nowhere" in build([file]).html


def test_a_page_of_what_did_not_fit_or_does_not_count_says_so(tmp_path: Path) -> None:
    own = emulated()
    first = own.measurements[0]
    assert isinstance(first.outcome, Measured)
    lost = dataclasses.replace(first, outcome=out_of_memory(first.outcome, "build"))
    refused = build([filed(tmp_path, dataclasses.replace(own, measurements=(lost,)))]).html
    invented = build([filed(tmp_path, guessing(own, range(10**6)))]).html
    assert "no drift; does not fit: build" in refused
    assert "There is no peak to show: nothing ran." in refused
    assert "There is no peak to show: every point read what nothing had written." in invented


def test_ours_is_left_out_of_a_scoreboard_where_a_full_card_left_it_no_form(tmp_path: Path) -> None:
    own = emulated()
    few = [m for m in own.measurements if m.workload.phase == "prefill" and m.repeat == 0][:3]
    lost = [m for m in own.measurements if not isinstance(m.outcome, Measured) and m.workload.phase == "prefill"]
    board = scoreboard(read_campaign(placed(tmp_path, dataclasses.replace(own, measurements=(*few, *lost)))))
    assert {"ours", "ours-held-out"} == set(board.silent)
    assert "exact-terms" in {scored.estimator for scored in board.ranked}


def test_a_campaign_of_which_nothing_ran_is_not_among_the_main_ones() -> None:
    assert all(campaign.points for campaign in campaigns_of(main_campaigns()))


def counters(found: Prediction) -> tuple[int | None, ...]:
    """What an answer says of the allocator and the process."""
    return found.requested_bytes, found.allocated_bytes, found.reserved_bytes, found.least_bytes, found.most_bytes


@pytest.mark.parametrize(
    ("device", "basis", "outside"),
    [("emulated", "emulated here", "emulated here: context typed in"), ("cuda", "measured here", "measured here")],
)
def test_a_counted_point_is_answered_with_its_own_counters(
    tmp_path: Path, device: str, basis: str, outside: str
) -> None:
    results = emulated(device=device)
    filed(tmp_path, results)
    found, warm = predicted(tmp_path), point_of(results, "prefill", 1, 32_768).warm
    assert basis == found.basis
    counted = warm.requested_bytes, warm.allocated_bytes, warm.reserved_bytes, warm.process_bytes, warm.process_bytes
    assert counted == counters(found)
    assert (CONTEXT_BYTES, CONTEXT_BYTES, outside) == (
        found.outside.least_bytes,
        found.outside.most_bytes,
        found.outside.source,
    )
    assert WORKSPACE_BYTES == requested_term(found, WORKSPACE).least_bytes


def test_what_the_user_keeps_free_is_not_overruled_by_a_counted_context(tmp_path: Path) -> None:
    filed(tmp_path, emulated())
    library = Library.of(tmp_path)
    found = library.predictor(BIG, "default", card_of(CARD, GPUS), outside_bytes=7).predict("prefill", 1, 32_768)
    assert (7, 7, "as given") == (found.outside.least_bytes, found.outside.most_bytes, found.outside.source)


def test_measured_comes_before_emulated_emulated_before_the_program_and_the_program_before_symbols(
    tmp_path: Path,
) -> None:
    bases = []
    for step in (
        lambda: placed(tmp_path, dataclasses.replace(replay(), path=Path("x"))),
        lambda: shutil.copytree(ROOT / "results" / f"emulated-{CARD}" / "derived", tmp_path / "any" / "derived"),
        lambda: placed(tmp_path, emulated()),
        lambda: placed(tmp_path, emulated(device="cuda")),
    ):
        step()
        bases.append((predicted(tmp_path).basis, predicted(tmp_path, context=30_000).basis))
    assert [
        ("formula only", "formula only"),
        ("derived from the program", "derived from the program"),
        ("emulated here", "derived from the program"),
        ("measured here", "derived from the program"),
    ] == bases


def test_an_emulated_card_says_nothing_of_a_real_one_s_memory_or_context(tmp_path: Path) -> None:
    filed(tmp_path, emulated())
    found = Library.of(tmp_path).predictor(BIG, "default", card_of(CARD, GPUS))
    assert card_of(CARD, GPUS) == found.card
    assert "assumed: not measured on this GPU" == found.outside.source


def test_only_a_real_card_was_seen_to_hold_a_workload_or_not_to(tmp_path: Path) -> None:
    results = emulated()
    lost = next(m.workload for m in results.measurements if not isinstance(m.outcome, Measured))
    for own, expected in ((results, (None, None)), (emulated(device="cuda"), (FITS, DOES_NOT_FIT))):
        filed(tmp_path, own)
        held, refused = predicted(tmp_path), predicted(tmp_path, lost.phase, lost.batch, lost.context_tokens)
        assert expected == tuple(one.seen and one.seen.fit for one in (held, refused))
        assert FITS == held.verdict
    assert (DOES_NOT_FIT, ("replayed", "measured")) == (refused.verdict, refused.words)


@pytest.mark.parametrize(
    ("gpu", "size"),
    [("a100-40gb", SMALL_BYTES), ("rtx-3090", SMALL_BYTES), ("gh200", LARGE_BYTES), ("b200", LARGE_BYTES)],
)
def test_workspace_is_by_capability_where_nothing_was_counted(gpu: str, size: int) -> None:
    own = requested_term(predicted(ROOT / "results", gpu=gpu), WORKSPACE)
    assert (size, size) == (own.least_bytes, own.most_bytes)


def test_workspace_of_no_card_in_particular_is_that_of_the_card_on_which_the_program_was_derived() -> None:
    found = Library.of(ROOT / "results").predictor(BIG, "default").predict("prefill", 1, 4096)
    assert "derived from the program" == found.basis
    assert SMALL_BYTES == requested_term(found, WORKSPACE).least_bytes


def test_workspace_is_the_check_standard_s_off_the_measured_points(tmp_path: Path) -> None:
    results = emulated()
    odd = tuple(dataclasses.replace(s, workspace_bytes=12_345) for s in results.standards)
    filed(tmp_path, dataclasses.replace(results, standards=odd))
    assert 12_345 == requested_term(predicted(tmp_path, context=30_001), WORKSPACE).least_bytes


def test_another_card_s_workspace_is_not_carried_over(tmp_path: Path) -> None:
    placed(tmp_path, emulated(device="cuda"))
    here, there = predicted(tmp_path, context=30_000), predicted(tmp_path, context=30_000, gpu="h200")
    workspaces = tuple(requested_term(found, WORKSPACE).least_bytes for found in (here, there))
    assert (WORKSPACE_BYTES, LARGE_BYTES) == workspaces
    assert LARGE_BYTES - WORKSPACE_BYTES == there.requested_bytes - here.requested_bytes


def test_a_frontier_knows_the_kinds_of_its_sources(tmp_path: Path) -> None:
    copied = tmp_path / "any" / "derived"
    copied.mkdir(parents=True)
    shutil.copy(next((ROOT / "results" / f"emulated-{CARD}" / "derived").glob(f"{BIG}.default.prefill.*")), copied)
    found = {
        gpu: frontier(
            Library.of(tmp_path).predictor(BIG, "default", card_of(gpu, GPUS)), "prefill", batches=(8,), contexts=()
        )
        for gpu in (CARD, "h200")
    }
    assert {CARD: ("emulated",), "h200": ("replayed",)} == {gpu: f.words for gpu, f in found.items()}
    table, _ = frontier_table(list(found.values()))
    assert "from what was" == table.header[-1]
    assert {row[0]: row[-1] for row in table.rows} == {gpu: " + ".join(f.words) for gpu, f in found.items()}


def test_a_frontier_made_of_replays_keeps_its_banner_whatever_the_chapter_is(tmp_path: Path) -> None:
    made = build([filed(tmp_path, emulated())], lambda part: frontiers())
    fits = made.html.partition("What fits which GPU</h3>")[2].partition("<h3")[0]
    assert (PREDICTED in fits, EMULATED_BANNER in fits) == (True, False)
    assert {(False, True)} == {(PREDICTED in d.svg, EMULATED_BANNER in d.svg) for d in made.drawings}


def test_a_frontier_made_of_emulated_points_says_so(tmp_path: Path) -> None:
    own = tuple(dataclasses.replace(f, words=("emulated", "replayed")) for f in frontiers())
    made = build([filed(tmp_path, emulated())], lambda part: own)
    assert "PREDICTED — emulated, replayed, not measured" in made.html
    assert PREDICTED not in made.html


def test_every_chapter_has_the_banner_of_its_own_kind(tmp_path: Path) -> None:
    files = [
        filed(tmp_path, emulated()),
        filed(tmp_path, emulated(device="cuda")),
        write(replay(), tmp_path / f"{BIG}.jsonl"),
    ]
    html = build(files).html
    lead, *chapters = html.split('<section class="chapter"')
    assert [EMULATED_BANNER in lead, FAKE_BANNER in lead] == [True, True]
    assert [(True, False), (False, False), (False, True)] == [
        (f'<strong class="banner emulated">{EMULATED_BANNER}' in c, f'<strong class="banner fake">{FAKE_BANNER}' in c)
        for c in chapters
    ]
    assert "FAKE" not in chapters[0].partition("make measure")[0]
    assert f"EMULATE={CARD}" in chapters[0]


def test_figures_and_tables_of_an_emulated_card_have_its_counters_and_say_what_was_typed_in(tmp_path: Path) -> None:
    file = filed(tmp_path, emulated())
    made = build([file])
    assert all(f"{EMULATED_BANNER}</text>" in d.svg for d in made.drawings)
    (counters, _) = [d for d in made.drawings if d.name.endswith("counters")]
    assert ("process*" in counters.svg, "*context typed in." in counters.caption) == (True, True)
    (part,) = parts_of(read_campaign(file))
    header = point_table(part).header
    assert {"allocated", "reserved", "process, context typed in"} <= set(header)


def test_the_formula_of_a_card_has_its_workspace_and_meets_every_point(tmp_path: Path) -> None:
    (part,) = parts_of(read_campaign(filed(tmp_path, emulated())))
    assert f"a workspace of {WORKSPACE_BYTES:,} bytes" in part.formulas["prefill"].name
    assert {0} == {value for phase in part.phases for value in residuals_of(part, phase).values()}


def test_frontiers_of_the_stored_results_are_made_of_programs_and_where_there_is_none_of_replays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = {label: card_of(label, GPUS) for label in ("a40", "t4")}
    monkeypatch.setattr(capacity, "read_cards", lambda path: cards)
    file = next((ROOT / "results" / "fake-h200" / "default").glob("qwen3.5-27b.fake.*.jsonl"))
    (part,) = parts_of(stored_campaign(file))
    words = {(f.gpu, f.phase, f.chunk_tokens): f.words for f in card_frontiers()(part)}
    kinds = ("prefill", 0), ("prefill", capacity.CHUNK_TOKENS), ("decode", 0)
    expected = {(gpu, *kind): (word,) for gpu, word in (("a40", "emulated"), ("t4", "replayed")) for kind in kinds}
    assert expected == words
