"""The images of a prompt, as the processor hands them to a model: made on the host, then moved to the device.

``Qwen3VLProcessor`` (transformers 5.24.0, models/qwen3_vl/processing_qwen3_vl.py; the one of Qwen3.5) gives float32
pixel values, an int64 grid an image, and an int64 kind for each token; a program moves them all to its card.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from vram_ledger.harness.devices import Device
from vram_ledger.harness.devices.known import VALUELESS, KnownValues
from vram_ledger.harness.records import CHANNELS, MERGED_PIXELS, PATCH_FRAMES, PATCH_PIXELS, Images

IMAGE_KIND = 1  # of mm_token_type_ids; 0 is text


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What goes to the model beside the token ids; the fields are the model's own names."""

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    mm_token_type_ids: torch.Tensor

    def arguments(self) -> dict[str, torch.Tensor]:
        """The model's keyword arguments."""
        return {name: getattr(self, name) for name in Media.__slots__}


def known_values(device: Device, asked: bool) -> AbstractContextManager[Any]:
    """Inside, a device without values answers what the program asks of it, if anything is ``asked``.

    Of images it is their sizes; without a cache, whether the positions are those of one text or of several packed into
    one (``find_packed_sequence_indices``, transformers 5.24.0, masking_utils.py).
    """
    if not asked or device.kind not in VALUELESS:
        return nullcontext()
    return KnownValues(torch.device(device.name).type)


def prompt_with(
    images: Images, batch: int, context_tokens: int, config: Any, device: Device
) -> tuple[torch.Tensor, Media]:
    """Token ids and media of a batch of prompts, each beginning with its images; the rest are text tokens.

    :class:`ValueError` if the model cuts images otherwise than the processor, or the prompt can't hold them.
    """
    _check(images, context_tokens, config.vision_config)
    rows, columns = images.grid
    length = images.tokens // images.count
    kinds = torch.zeros(batch, context_tokens, dtype=torch.long)
    for number in range(images.count):
        begin = number * images.prompt_tokens // images.count + 1  # past the marker, which is a text token
        kinds[:, begin : begin + length] = IMAGE_KIND
    ids = kinds * config.image_token_id
    pixels = torch.zeros(batch * images.patches, CHANNELS * PATCH_FRAMES * PATCH_PIXELS**2, dtype=torch.float32)
    grid = torch.tensor([[1, rows, columns]] * (batch * images.count), dtype=torch.long)
    with KnownValues(torch.device(device.name).type) if device.kind in VALUELESS else nullcontext():
        media = Media(
            pixel_values=pixels.to(device.name),
            image_grid_thw=grid.to(device.name),
            mm_token_type_ids=kinds.to(device.name),
        )
        return ids.to(device.name), media


def _check(images: Images, context_tokens: int, vision: Any) -> None:
    cut = (vision.patch_size, vision.patch_size * vision.spatial_merge_size, vision.temporal_patch_size)
    if cut != (PATCH_PIXELS, MERGED_PIXELS, PATCH_FRAMES) or vision.in_channels != CHANNELS:
        raise ValueError(
            f"vision_config cuts images into {cut} (patch, merged patch, frames) of {vision.in_channels} channels; "
            f"the processor gives {(PATCH_PIXELS, MERGED_PIXELS, PATCH_FRAMES)} of {CHANNELS}"
        )
    if images.prompt_tokens > context_tokens:
        raise ValueError(f"the images take {images.prompt_tokens:,} tokens, the prompt has {context_tokens:,}")
