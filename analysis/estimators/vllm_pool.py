"""vLLM's block pool for a hybrid: every block as large as a group of state pages. Claims: the allocated bytes.

The pool alone and the weights, without the profiled activations: what the requests at hand occupy. A state page is
padded to a whole number of attention blocks of 16 tokens, so KV and state come in the same blocks
(:mod:`vram_ledger.analysis.serving.vllm`, which predict and capacity have the formulas from as well).
"""

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.formula.shapes import resident_parameters
from vram_ledger.analysis.serving.model import of_shapes_alone
from vram_ledger.analysis.serving.vllm import blocks_of


def estimate(request: Request) -> Breakdown:
    """Weights with the vision tower, and the blocks of every sequence without prefix caching."""
    blocks = blocks_of(of_shapes_alone(request.shapes))
    states = blocks.each(prefix_caching=False, drafts=0)
    return added_up(
        "allocated",
        weights=request.element_bytes * resident_parameters(request.shapes, "Qwen3_5ForConditionalGeneration"),
        kv_cache=(blocks.request(request.context_tokens) - states) * blocks.bytes * request.batch,
        state=states * blocks.bytes * request.batch,
    )
