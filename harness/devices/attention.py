"""Scaled-dot-product attention with the tensors that it makes on the way on a card.

As PyTorch 2.14.1 does it, ``aten/src/ATen/native/transformers/attention.cpp`` (masks), with its CUDA 13 wheel (cuDNN
9.24), at its default settings; which kernel it is, :mod:`harness.attention` says.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from vram_ledger.harness.attention import MASK_ALIGNMENT, kernel_of

aten = torch.ops.aten


def attention_on(capability: tuple[int, int]) -> Callable[..., torch.Tensor]:
    """``scaled_dot_product_attention`` with the allocations that it has on a card of this capability."""

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        dtype = str(query.dtype).removeprefix("torch.")
        kernel = kernel_of(capability, dtype, query.shape[-1], query.shape[-2], key.shape[-2], attn_mask is not None)
        bias = None if attn_mask is None else _bias_of(attn_mask, query.dtype)
        if kernel == "math":
            return aten._scaled_dot_product_attention_math(
                query, key, value, bias, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        if kernel == "flash":
            return _first(
                aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)
            )
        if kernel == "cudnn":
            return _first(
                aten._scaled_dot_product_cudnn_attention(
                    query, key, value, bias, False, dropout_p, is_causal, False, scale=scale
                )
            )
        if bias is not None:
            bias = _aligned(bias).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        return _first(
            aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, False, dropout_p, is_causal, scale=scale
            )
        )

    return attention


def _first(outputs: tuple[Any, ...]) -> torch.Tensor:
    """The first output; the others end in their order, as those of a C++ tuple do, and not from the last one on."""
    first, *others = outputs
    del outputs
    others.reverse()
    while others:
        others.pop()
    return first  # type: ignore[no-any-return]


def _bias_of(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The additive mask: storage of its own if the mask is boolean (``convert_boolean_attn_mask``)."""
    if mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.full((), float("-inf"), dtype=dtype, device=mask.device))


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """The bias with rows as the memory-efficient kernel reads them: copied to rows of whole 8 columns if they are not
    (``preprocess_mask``)."""
    columns = bias.shape[-1]
    if columns % MASK_ALIGNMENT:
        bias = F.pad(bias, (0, MASK_ALIGNMENT - columns % MASK_ALIGNMENT))[..., :columns]
    return bias
