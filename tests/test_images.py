"""What the processor makes of an image is known without it, and is what it makes."""

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vram_ledger.harness.records import (
    CHANNELS,
    LEAST_PIXELS,
    MERGED_PIXELS,
    MOST_PIXELS,
    PATCH_FRAMES,
    PATCH_PIXELS,
    Images,
)

SIZES = [
    (1024, 1024),
    (1920, 1080),
    (1080, 1920),
    (4096, 4096),
    (5000, 3000),
    (16, 16),
    (100, 4000),
    (255, 257),
    (1, 1),
]


def images(width: int, height: int, count: int = 1) -> Images:
    """Images of a size."""
    return Images(count=count, height_pixels=height, width_pixels=width)


@pytest.fixture(scope="module")
def processor() -> Qwen2VLImageProcessorPil:
    """Transformers' own, with the values of a Qwen3.5 checkpoint. Its other back end needs torchvision."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": LEAST_PIXELS, "longest_edge": MOST_PIXELS},
        patch_size=PATCH_PIXELS,
        temporal_patch_size=PATCH_FRAMES,
        merge_size=MERGED_PIXELS // PATCH_PIXELS,
    )


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_patches_are_as_many_as_the_processor_says(
    processor: Qwen2VLImageProcessorPil, width: int, height: int
) -> None:
    assert processor.get_number_of_image_patches(height, width) == images(width, height).patches


def test_pixel_values_and_grid_have_the_processor_s_shape(processor: Qwen2VLImageProcessorPil) -> None:
    made = processor(images=[np.zeros((300, 500, 3), dtype=np.uint8)] * 2, return_tensors="pt")
    pair = images(500, 300, count=2)
    assert (pair.patches, CHANNELS * PATCH_FRAMES * PATCH_PIXELS**2) == tuple(made["pixel_values"].shape)
    assert [[1, *pair.grid]] * 2 == made["image_grid_thw"].tolist()
    assert ("torch.float32", "torch.int64") == (str(made["pixel_values"].dtype), str(made["image_grid_thw"].dtype))


def test_image_of_a_megapixel_is_1024_tokens_and_two_markers() -> None:
    assert (4096, 1024, 1026) == tuple(getattr(images(1024, 1024), n) for n in ("patches", "tokens", "prompt_tokens"))


def test_several_images_take_several_times_as_much() -> None:
    assert (4 * 1024, 4 * 1026) == (images(1024, 1024, 4).tokens, images(1024, 1024, 4).prompt_tokens)


def test_image_is_no_larger_than_the_processor_lets_it_be() -> None:
    assert images(4096, 4096).tokens == images(8192, 8192).tokens == 16_384


def test_shape_that_the_processor_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 200 times as long"):
        images(4020, 20).patches  # noqa: B018
