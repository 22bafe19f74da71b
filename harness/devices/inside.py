"""What ops allocate inside themselves on a card, which no program of Python sees: PyTorch 2.14.1.

Found by holding the fake device's log against the allocator's own trace on an emulated card, event for event; a test
does so again. What is not here:

- the workspace of cuDNN's plans (attention on 9.0 and 10.x): cuDNN alone knows it, and an emulated card has none;
- ``_safe_softmax`` of the math attention (bfloat16 on 7.5): a byte for each product and each row, and 4;
- ``linalg_solve_triangular`` of the torch reference: twice 8 bytes a matrix, the pointers for cuBLAS; and its
  ``cumsum``, which in later chunks has the bytes of its output once more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vram_ledger.harness.splits import FLOAT32_BYTES, Heads, accumulated_dim, splits

aten = torch.ops.aten

INSIDE = "inside "  # before the name of the op, for what it allocates and frees again
_KEPT_IN_REGISTERS = 128  # head dimension up to which the memory-efficient kernel needs no accumulator


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
        """The accumulators of each split of the keys: log-sum-exp and output in float32."""
        batch, heads, queries, head_dim = query.shape
        group = Heads(queries=heads, keys=key.shape[1], dim=head_dim)
        parts = splits(group, batch, queries, key.shape[2], causal, self._multiprocessors)
        if parts == 1:
            return 0, 1, 2, 3
        sums = FLOAT32_BYTES * parts * batch * heads * queries
        return 0, 1, Temporary(bytes=sums), Temporary(bytes=sums * accumulated_dim(head_dim)), 2, 3


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
