"""vLLM's block pool for a hybrid: every block as large as a group of state pages. Claims: the allocated bytes.

The pool alone and the weights, without the profiled activations: what the requests at hand occupy. A state page is
padded to a whole number of attention blocks of 16 tokens, so KV and state come in the same blocks.
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import Shapes, resident_parameters

BLOCK_TOKENS = 16


def estimate(request: Request) -> Breakdown:
    """Weights with the vision tower, and the blocks of every sequence without prefix caching."""
    shapes, batch = request.shapes, request.batch
    block = block_bytes(shapes)
    return added_up(
        "allocated",
        weights=request.element_bytes * resident_parameters(shapes, "Qwen3_5ForConditionalGeneration"),
        kv_cache=-(-request.context_tokens // attention_block_tokens(shapes)) * block * batch,
        state=state_groups(shapes) * block * batch,
    )


def state_page_bytes(shapes: Shapes) -> int:
    """One layer's state of one sequence: float32 matrices and K−1 columns in bf16."""
    matrices = shapes.linear_value_heads * shapes.linear_value_dim * shapes.linear_key_dim * 4
    return matrices + (shapes.conv_width - 1) * shapes.conv_channels * 2


def attention_block_tokens(shapes: Shapes) -> int:
    """Tokens of an attention block, stretched in steps of 16 until it is no smaller than a state page."""
    return BLOCK_TOKENS * max(1, -(-state_page_bytes(shapes) // (BLOCK_TOKENS * _layer_token_bytes(shapes))))


def block_bytes(shapes: Shapes) -> int:
    """A block of the pool: one page for each layer of a group, which has as many as there are full layers."""
    return shapes.n_full * attention_block_tokens(shapes) * _layer_token_bytes(shapes)


def state_groups(shapes: Shapes) -> int:
    """Groups of linear layers, each of which takes one block a sequence."""
    return -(-shapes.n_linear // shapes.n_full)


def request_blocks(shapes: Shapes, context_tokens: int, prefix_caching: bool = False) -> int:
    """Blocks of one request; with aligned prefix caching the state is kept twice."""
    copies = 2 if prefix_caching else 1
    return -(-context_tokens // attention_block_tokens(shapes)) + state_groups(shapes) * copies


def _layer_token_bytes(shapes: Shapes) -> int:
    return 2 * shapes.kv_heads * shapes.head_dim * 2
