"""Held-out points are scored with the share inside the stated interval, and a wrong answer is not inside."""

import dataclasses

from tests.conftest import BIG, ROOT
from tests.refereed import campaign
from tests.synthetic import SHAPES
from vram_ledger.analysis.ground.kinds import REPLAYED
from vram_ledger.analysis.predicting.held_out import (
    HeldOut,
    Interval,
    held_out_markdown,
    other_grid,
    other_models,
    other_points,
)
from vram_ledger.analysis.predicting.simulated import read_simulated

OWN = read_simulated(ROOT / "results" / "fake-h200" / "simulated" / f"{BIG}.default.json")


def answer(middle: int, half: int) -> Interval:
    return Interval(bytes=middle, least_bytes=middle - half, most_bytes=middle + half)


def test_share_counts_only_what_was_answered() -> None:
    score = HeldOut(source="a", asked="b", kind=REPLAYED, pairs=((answer(10, 2), 12), (answer(10, 2), 13), (None, 5)))
    assert (2, 1) == (len(score.answered), score.inside)
    assert " 50.0 % " in "\n".join(held_out_markdown([score]))


def test_source_without_an_answer_has_no_share() -> None:
    last = list(held_out_markdown([HeldOut(source="a", asked="b", kind=REPLAYED, pairs=((None, 5),))]))[-1]
    assert "–" in last


def test_other_batches_are_met_to_the_byte() -> None:
    score = other_points(campaign(), "batches", lambda m: m.workload.batch)
    assert score.answered
    assert len(score.answered) == score.inside


def test_other_grid_is_met_to_the_byte_where_it_is_answered() -> None:
    score = other_grid(campaign(), OWN)
    assert 0 < len(score.answered) < len(score.pairs)
    assert len(score.answered) == score.inside


def test_program_of_another_model_is_not_inside() -> None:
    wrong = dataclasses.replace(SHAPES, n_full=SHAPES.n_full * 2, n_linear=SHAPES.n_linear * 2)
    assert 0 == other_models(OWN, wrong).inside
    assert len(OWN.points) == other_models(OWN, SHAPES).inside
