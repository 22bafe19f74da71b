"""The page's claims are settled by stored measurements, and the table is what they give."""

import dataclasses
from pathlib import Path

import pytest

from tests.conftest import BIG, ROOT, Ask
from vram_ledger.analysis.calibrating.claims import CLAIMS, NotThere, claims_markdown, read_campaigns
from vram_ledger.harness.records import Images

FOLDER = ROOT / "results" / "fake-h200"
CAMPAIGNS = read_campaigns(FOLDER)


def verdict(number: int) -> str:
    """The verdict on a claim of the page."""
    return CLAIMS[number - 1](CAMPAIGNS).verdict


def found(number: int) -> str:
    """What was found about a claim."""
    return CLAIMS[number - 1](CAMPAIGNS).found


def test_stored_table_is_the_generated_one() -> None:
    assert (FOLDER / "claims.md").read_text(encoding="utf-8") == "\n".join(claims_markdown(CAMPAIGNS)) + "\n"


def test_every_claim_of_the_page_is_there_in_its_order() -> None:
    numbers = [(claim.__doc__ or "").partition(".")[0] for claim in CLAIMS]
    assert [str(n) for n in range(1, 10)] == numbers


def test_kv_cache_of_a_quarter_of_the_layers_is_a_quarter() -> None:
    assert ("holds", True) == (verdict(1), "65,536 B a token" in found(1) and "262,144" in found(1))


def test_state_is_flat_in_the_context() -> None:
    assert ("holds", True) == (verdict(2), "154,927,104 B a sequence" in found(2))


def test_vision_tower_is_what_the_text_only_class_saves() -> None:
    assert "921,460,192 B apart" in found(3)


def test_memory_never_falls_with_context_or_batch() -> None:
    assert ("holds", True) == (verdict(4), found(4).startswith("0 falls in "))


def test_media_tokens_are_not_settled_without_a_workload() -> None:
    others = {key: points for key, points in CAMPAIGNS.others.items() if key[0] != "media"}
    with pytest.raises(NotThere, match=r"media/qwen3\.5-27b\.calibration\.json is missing"):
        CLAIMS[5](dataclasses.replace(CAMPAIGNS, others=others))


def test_media_tokens_are_a_longer_prompt_pixels_and_a_vision_tower(ask: Ask) -> None:
    worker, square = ask(model=BIG), Images(count=1, height_pixels=1024, width_pixels=1024)
    shapes = ((2048, None), (4096, None), (8192, None), (2048, square))
    media = {worker.workload("prefill", 1, n, images=i): worker.measure("prefill", 1, n, images=i) for n, i in shapes}
    settled = CLAIMS[5](dataclasses.replace(CAMPAIGNS, others={("media", BIG): media}))
    assert "holds" == settled.verdict
    assert "1 of 1024×1024: 1,026 tokens" in settled.found
    assert "pixels 0.025 GB" in settled.found


@pytest.mark.parametrize(("number", "error"), [(7, "+0.907 GB"), (8, "+3.9 MB")])
def test_page_s_figures_do_not_hold(number: int, error: str) -> None:
    assert ("does not hold", True) == (verdict(number), error in found(number))


def test_overhead_holds_for_short_prompts_only() -> None:
    assert verdict(9).startswith("holds only if prompts stay short")


def test_missing_campaign_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"qwen3\.5-27b\.calibration\.json"):
        read_campaigns(tmp_path)
