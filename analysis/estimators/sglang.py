"""SGLang's split of what is left beside the weights: a pool of states, and KV for the rest.

It claims nothing about one workload (the pools take the whole card whatever runs), so it is not ranked; what it
answers is how many sequences and tokens the rest can hold.
"""

from vram_ledger.analysis.estimators.vllm_pool import state_page_bytes
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import kv_bytes_per_token

STATE_RATIO = 0.9


def state_bytes(shapes: Shapes) -> int:
    """Bytes of one request's state in all linear layers: float32 matrices, K−1 columns in bf16."""
    return shapes.n_linear * state_page_bytes(shapes)


def slots_and_tokens(shapes: Shapes, rest_bytes: int, ratio: float = STATE_RATIO) -> tuple[int, int]:
    """Requests that the state pool holds, and tokens of KV in the remainder."""
    pool = rest_bytes * ratio / (1 + ratio)
    slots = int(pool // state_bytes(shapes))
    return slots, int((rest_bytes - slots * state_bytes(shapes)) // kv_bytes_per_token(shapes))
