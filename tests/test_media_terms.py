"""What images take is said by the shapes alone, and a campaign with images is judged by it."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NANO, Ask
from tests.test_planted import SHIPPED, campaign, drifted, nothing
from vram_ledger.analysis.evidence.verdict import Verdict
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.formula.terms import exact_terms
from vram_ledger.harness.records import Images

PAIR = Images(count=2, height_pixels=256, width_pixels=320)
AXES = 'images = ["1x256x256"]\n'


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Verdict, ...]:
    """Of a campaign with an image in every prompt."""
    return campaign(tmp_path_factory.mktemp("media"), nothing, AXES)


def wider_tower(config: dict[str, Any]) -> None:
    """A vision tower half as wide again, with embeddings as wide as before."""
    config["vision_config"]["hidden_size"] = 48


def test_every_exact_term_is_what_real_tensors_take(ask: Ask) -> None:
    worker = ask(device="cpu", model=NANO, kernels="torch")
    workload = worker.workload("prefill", 2, 300, images=PAIR)
    measured, shapes = worker.measure("prefill", 2, 300, images=PAIR), read_shapes(SHIPPED)
    terms = exact_terms(workload.configuration)
    assert {t.name: t.observed(measured) for t in terms} == {t.name: t.bytes(shapes, workload) for t in terms}


def test_unchanged_campaign_with_images_has_nothing_to_flag(verdicts: tuple[Verdict, ...]) -> None:
    assert {} == drifted(verdicts)


def test_images_have_terms_of_their_own(verdicts: tuple[Verdict, ...]) -> None:
    agreed = {v.term for v in verdicts if v.decision == "EQUIVALENT" and v.configuration.images is not None}
    assert {"media", "image_embeddings", "vision_result"} <= agreed


def test_text_has_none_of_them(verdicts: tuple[Verdict, ...]) -> None:
    text = {v.term for v in verdicts if v.configuration.images is None}
    assert not {"media", "image_embeddings", "vision_result", "vision constant"} & text


def test_vision_tower_takes_the_same_for_every_image_at_any_context(verdicts: tuple[Verdict, ...]) -> None:
    (row,) = (v for v in verdicts if v.term == "vision per_sequence")
    assert (True, 4) == (row.exact, row.n)


def test_wider_tower_is_flagged_in_its_weights_and_its_result(tmp_path: Path) -> None:
    assert {"weights", "vision_result"} == set(drifted(campaign(tmp_path, wider_tower, AXES)))
