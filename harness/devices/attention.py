"""Which kernel scaled-dot-product attention takes on a card, and the tensors that it makes on the way.

The rules are those of PyTorch 2.14.1, ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` (``can_use_…``,
``check_prefer_cudnn_attention``) and ``attention.cpp`` (masks), for inference without dropout, with its CUDA 13 wheel
(cuDNN 9.24), at its default settings. Head dimensions are multiples of 8 here: others the flash kernel pads.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F

aten = torch.ops.aten
Kernel = Literal["cudnn", "flash", "efficient", "math"]

_MASK_ALIGNMENT = 8
_MOST_HEAD_DIM = 256  # flash's, and cuDNN's on 9.0 and 10.x
_HALF = (torch.float16, torch.bfloat16)


def kernel_of(
    capability: tuple[int, int],
    dtype: torch.dtype,
    head_dim: int,
    query_tokens: int,
    key_tokens: int,
    masked: bool,
) -> Kernel:
    """The first of cuDNN, flash, memory-efficient and math that takes the call, cuDNN only where it is preferred.

    cuDNN is first on 9.0 and 10.x. It takes masks, but no single key, and on 10.x no single query. Flash takes no mask.
    The memory-efficient kernel wants rows that its matrix instructions can load: 16 bytes from 8.0 on and for 16 bits.
    """
    major, _ = capability
    half = dtype in _HALF if major >= 8 else dtype == torch.float16
    narrow = head_dim <= _MOST_HEAD_DIM and head_dim % _MASK_ALIGNMENT == 0
    single = key_tokens == 1 or (major == 10 and query_tokens == 1)
    preferred = capability == (9, 0) or major == 10
    if preferred and half and narrow and not single:
        return "cudnn"
    if major >= 8 and half and not masked and head_dim <= _MOST_HEAD_DIM:
        return "flash"
    aligned = head_dim * dtype.itemsize % 16 == 0 if major >= 8 or half else True
    return "efficient" if aligned and (half or dtype == torch.float32) else "math"


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
        kernel = kernel_of(
            capability, query.dtype, query.shape[-1], query.shape[-2], key.shape[-2], attn_mask is not None
        )
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
    if columns % _MASK_ALIGNMENT:
        bias = F.pad(bias, (0, _MASK_ALIGNMENT - columns % _MASK_ALIGNMENT))[..., :columns]
    return bias
