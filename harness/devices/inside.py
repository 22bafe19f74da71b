"""What ops allocate inside themselves on a card, which no program of Python sees: PyTorch 2.14.1.

Found by holding the fake device's log against the allocator's own trace on an emulated card, event for event; a test
does so again. What is not here:

- the workspace of cuDNN's plans (attention on 9.0 and 10.x): cuDNN alone knows it, and an emulated card has none;
- ``_safe_softmax`` of the math attention (bfloat16 on 7.5): a byte for each product and each row, and 4;
- ``linalg_solve_triangular`` of the torch reference: twice 8 bytes a matrix, the pointers for cuBLAS; and its
  ``cumsum``, which in later chunks has the bytes of its output once more.
"""

import math
from collections.abc import Callable, Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import Any

import torch

aten = torch.ops.aten

INSIDE = "inside "  # before the name of the op, for what it allocates and frees again
FLOAT32_BYTES = 4
_KEPT_IN_REGISTERS = 128  # head dimension up to which the memory-efficient kernel needs no accumulator
_MOST_SPLITS = 128
_QUERIES_A_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Temporary:
    """Bytes that an op allocates, and frees when it is done."""

    bytes: int


Step = int | Temporary  # the number of an output, among those that are tensors, or a temporary


class Insides:
    """What an op allocates in a call on a card with so many multiprocessors: its outputs and temporaries in order."""

    def __init__(self, multiprocessors: int) -> None:
        self._multiprocessors = multiprocessors
        self._of: dict[Any, Callable[..., Sequence[Step] | None]] = {
            aten.convolution.default: _convolution,
            aten.embedding.default: _embedding,
            aten._scaled_dot_product_flash_attention.default: self._flash,
            aten._scaled_dot_product_efficient_attention.default: _efficient,
            aten._scaled_dot_product_cudnn_attention.default: _cudnn,
        }

    def __call__(self, func: Any, args: Sequence[Any]) -> Sequence[Step] | None:
        """``None``: the outputs in their order and nothing else."""
        steps = self._of.get(func)
        return None if steps is None else steps(*args)

    def _flash(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _dropout: float = 0,
        causal: bool = False,
        *_: Any,
    ) -> Sequence[Step]:
        """The accumulators of each split of the keys: log-sum-exp and output in float32 (``flash_api.cpp``,
        ``set_params_splitkv``). Where a single query meets grouped keys, the group's heads take the place of queries.
        """
        batch, heads, queries, head_dim = query.shape
        key_heads, keys = key.shape[1], key.shape[2]
        rows = batch * heads * queries
        if queries == 1 and heads > key_heads and not causal:
            heads, queries = key_heads, heads // key_heads
        blocks = batch * heads * -(-queries // _QUERIES_A_BLOCK)
        splits = splits_of(blocks, 2 * self._multiprocessors, -(-keys // _keys_a_block(head_dim)))
        if splits == 1:
            return 0, 1, 2, 3
        rounded = -(-head_dim // 32) * 32 if head_dim <= 192 else 256
        sums = FLOAT32_BYTES * splits * rows
        return 0, 1, Temporary(bytes=sums), Temporary(bytes=sums * rounded), 2, 3


def _convolution(sequence: torch.Tensor, *_: Any) -> Sequence[Step] | None:
    """A copy of a one-dimensional convolution's input if it is not contiguous (``Convolution.cpp``, ``_convolution``:
    before it is seen as two-dimensional)."""
    if sequence.dim() != 3 or sequence.is_contiguous():
        return None
    return Temporary(bytes=sequence.numel() * sequence.element_size()), 0


def _embedding(weight: torch.Tensor, indices: torch.Tensor, *_: Any) -> Sequence[Step] | None:
    """The flat indices where they are no view of the given ones: a chunk of several prompts (``Embedding.cpp``)."""
    flat = indices.reshape(-1)
    if flat.untyped_storage()._cdata == indices.untyped_storage()._cdata:
        return None
    return Temporary(bytes=indices.numel() * indices.element_size()), 0


def _efficient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> Sequence[Step]:
    """The output in float32 where it is not kept in registers (``kernel_forward.h``, ``kKeepOutputInRF``:
    head dimensions above 128) and has another type."""
    batch, heads, queries, _dim = query.shape
    width = value.shape[-1]
    if width <= _KEPT_IN_REGISTERS or query.dtype == torch.float32:
        return 2, 3, 0
    return 2, 3, 0, Temporary(bytes=FLOAT32_BYTES * batch * heads * queries * width)


def _cudnn(*_: Any) -> Sequence[Step]:
    """Seed and offset before the output; in inference no log-sum-exp, which the op's meta implementation makes."""
    return 2, 3, 0


def _keys_a_block(head_dim: int) -> int:
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


def splits_of(blocks: int, multiprocessors: int, key_blocks: int) -> int:
    """Into how many parts flash attention splits the keys so that all multiprocessors have work: the fewest that give
    85 % of the best occupancy (``flash_api.cpp``, ``num_splits_heuristic``; in single precision, as there)."""
    if blocks >= _float32(_float32(0.8) * multiprocessors):
        return 1
    efficiency = {}
    for splits in range(1, min(_MOST_SPLITS, multiprocessors, key_blocks) + 1):
        if splits == 1 or -(-key_blocks // splits) != -(-key_blocks // (splits - 1)):
            waves = _float32(blocks * splits / multiprocessors)
            efficiency[splits] = _float32(waves / math.ceil(waves))
    enough = 0.85 * max(efficiency.values(), default=0.0)
    return next((splits for splits, found in efficiency.items() if found >= enough), 1)


def _float32(value: float) -> float:
    return c_float(value).value
