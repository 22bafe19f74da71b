"""Which kernel scaled-dot-product attention takes on a card.

The rules are those of PyTorch 2.14.1, ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` (``can_use_…``,
``check_prefer_cudnn_attention``), for inference without dropout. Head dimensions are multiples of 8 here: others the
flash kernel pads.
"""

from typing import Literal

Kernel = Literal["cudnn", "flash", "efficient", "math"]

MASK_ALIGNMENT = 8
_MOST_HEAD_DIM = 256  # flash's, and cuDNN's on 9.0 and 10.x
_HALF = ("float16", "bfloat16")
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
PREFERRED_CUDNN = 91501  # cuDNN's number from which on it comes first: above 9.15.0


def kernel_of(
    capability: tuple[int, int],
    dtype: str,
    head_dim: int,
    query_tokens: int,
    key_tokens: int,
    masked: bool,
    cudnn: bool = True,
) -> Kernel:
    """The first of cuDNN, flash, memory-efficient and math that takes the call, cuDNN only where it is preferred.

    cuDNN is first on 9.0 and 10.x. It takes masks, but no single key, and on 10.x no single query. Flash takes no mask.
    The memory-efficient kernel wants rows that its matrix instructions can load: 16 bytes from 8.0 on and for 16 bits.
    cudnn: whether it is new enough to be preferred, as it is in the wheels from PyTorch 2.11 on, and not told to stand
    back (``TORCH_CUDNN_SDPA_DEPRIORITIZED=1``).
    """
    major, _ = capability
    half = dtype in _HALF if major >= 8 else dtype == "float16"
    narrow = head_dim <= _MOST_HEAD_DIM and head_dim % MASK_ALIGNMENT == 0
    single = key_tokens == 1 or (major == 10 and query_tokens == 1)
    preferred = cudnn and (capability == (9, 0) or major == 10)
    if preferred and half and narrow and not single:
        return "cudnn"
    if major >= 8 and half and not masked and head_dim <= _MOST_HEAD_DIM:
        return "flash"
    aligned = head_dim * _BYTES[dtype] % 16 == 0 if major >= 8 or half else True
    return "efficient" if aligned and (half or dtype == "float32") else "math"
