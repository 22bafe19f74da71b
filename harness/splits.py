"""Into how many parts flash attention splits the keys, and what each part takes: PyTorch 2.14.1, ``flash_api.cpp``."""

import math
from ctypes import c_float
from dataclasses import dataclass

FLOAT32_BYTES = 4
SPLITTING = "_scaled_dot_product_flash_attention"
UNSOLVED = f"inside {SPLITTING}"
_MOST_SPLITS = 128
_QUERIES_A_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The attention of a model: heads of queries, heads of keys and values, and their dimension."""

    queries: int
    keys: int
    dim: int


def splits(heads: Heads, batch: int, queries: int, keys: int, causal: bool, multiprocessors: int) -> int:
    """Parts of one call (``set_params_splitkv``); 1 if the keys are not split.

    Where a single query meets grouped keys, the group's heads take the place of queries.
    """
    groups = heads.queries
    if queries == 1 and heads.queries > heads.keys and not causal:
        groups, queries = heads.keys, heads.queries // heads.keys
    blocks = batch * groups * -(-queries // _QUERIES_A_BLOCK)
    return splits_of(blocks, 2 * multiprocessors, -(-keys // _keys_a_block(heads.dim)))


def accumulated_dim(head_dim: int) -> int:
    """Numbers that a part keeps for each row of its output, in float32."""
    return -(-head_dim // 32) * 32 if head_dim <= 192 else 256


def splits_of(blocks: int, multiprocessors: int, key_blocks: int) -> int:
    """Into how many parts flash attention splits the keys so that all multiprocessors have work: the fewest that give
    85 % of the best occupancy (``num_splits_heuristic``; in single precision, as there)."""
    if blocks >= _float32(_float32(0.8) * multiprocessors):
        return 1
    efficiency = {}
    for parts in range(1, min(_MOST_SPLITS, multiprocessors, key_blocks) + 1):
        if parts == 1 or -(-key_blocks // parts) != -(-key_blocks // (parts - 1)):
            waves = _float32(blocks * parts / multiprocessors)
            efficiency[parts] = _float32(waves / math.ceil(waves))
    enough = 0.85 * max(efficiency.values(), default=0.0)
    return next((parts for parts, found in efficiency.items() if found >= enough), 1)


def _keys_a_block(head_dim: int) -> int:
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


def _float32(value: float) -> float:
    return c_float(value).value
