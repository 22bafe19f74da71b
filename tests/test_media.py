"""A prompt with images is measured: its inputs, its vision tower, and what both leave behind."""

import pytest

from tests.conftest import BIG, NANO, Ask
from vram_ledger.harness.records import Images, Measured

PAIR = Images(count=2, height_pixels=256, width_pixels=320)  # 80 tokens each, of 4 patches


@pytest.fixture(scope="module")
def seen(ask: Ask) -> Measured:
    """Two images of two sequences, on real tensors."""
    return ask(device="cpu", model=NANO, kernels="torch").measure("prefill", 2, 300, images=PAIR)


def test_tensors_without_memory_take_the_same_bytes_as_real_ones(ask: Ask, seen: Measured) -> None:
    replayed = ask(model=NANO, kernels="torch").measure("prefill", 2, 300, images=PAIR)
    assert (seen.vision, seen.held, seen.warm) == (replayed.vision, replayed.held, replayed.warm)


def test_every_held_byte_has_a_term(seen: Measured) -> None:
    assert seen.held.total_bytes == seen.held_bytes - seen.baseline_bytes


def test_pixel_values_are_float32_and_grids_and_offsets_int64(seen: Measured) -> None:
    patches, images, sequences = 4 * 80 * 4, 4, 2
    assert patches * 3 * 2 * 16 * 16 * 4 + images * 3 * 8 + sequences * 8 == seen.held.media_bytes


def test_every_token_has_an_id_and_a_kind(seen: Measured) -> None:
    assert 2 * 300 * (8 + 8) == seen.held.inputs_bytes


def test_tower_keeps_embeddings_and_the_patches_they_were_merged_from(seen: Measured) -> None:
    assert seen.vision is not None
    tokens, patches, hidden, tower_hidden = 320, 1280, 64, 32
    assert (tokens, patches) == (seen.vision.tokens, seen.vision.patches)
    assert tokens * hidden * 2 == seen.vision.embeddings_bytes
    assert tokens * hidden * 2 + patches * tower_hidden * 2 == seen.vision.kept_bytes


def test_tower_takes_more_than_it_keeps(seen: Measured) -> None:
    assert seen.vision is not None
    assert seen.vision.peak_bytes > seen.vision.kept_bytes


def test_tower_does_not_see_how_long_the_prompt_is(ask: Ask, seen: Measured) -> None:
    longer = ask(device="cpu", model=NANO, kernels="torch").measure("prefill", 2, 600, images=PAIR)
    assert seen.vision == longer.vision


def test_images_leave_nothing_behind_for_the_next_workload(ask: Ask) -> None:
    worker = ask(device="cpu", model=NANO, kernels="torch")
    before = worker.measure("decode", 3, 300)
    worker.measure("prefill", 2, 300, images=PAIR)
    after = worker.measure("decode", 3, 300)
    assert (before.warm, before.baseline_bytes) == (after.warm, after.baseline_bytes)


def test_text_has_no_vision(ask: Ask) -> None:
    text = ask(device="cpu", model=NANO, kernels="torch").measure("prefill", 1, 300)
    assert (None, 0) == (text.vision, text.held.media_bytes)


def test_image_embeddings_of_the_27b_are_as_wide_as_its_text(ask: Ask) -> None:
    square = Images(count=1, height_pixels=1024, width_pixels=1024)
    vision = ask(model=BIG).measure("prefill", 1, 2048, images=square).vision
    assert vision is not None
    assert 1024 * 5120 * 2 == vision.embeddings_bytes
