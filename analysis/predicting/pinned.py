"""The case in which a decode step needs nearly its whole cache once more, by the caching allocator's rules.

Growing the cache by a token takes a new block for a layer's keys or values and frees the old one, whose segment is
given back when memory runs short. It can't be given back while something else lives in it: a block of 10 MiB or more
has a segment of its own, rounded up to 2 MiB, and a rest of more than 1 MiB is split off and given to what fits into
it. A layer's convolution state of more than 1 MiB that fits into that rest stays there for good.

Found by :mod:`analysis.predicting.simulate` (27B, B = 13, L = 116,446: 96 GB beyond the requested bytes); the rules are
those of :mod:`analysis.allocation.rules`.
"""

from vram_ledger.analysis.allocation.rules import MIB, OWN_SEGMENT_BYTES, SEGMENT_STEP_BYTES, block_bytes
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import conv_bytes_per_sequence, element_bytes, kv_bytes_per_token
from vram_ledger.harness.records import Configuration, Workload


def pins(shapes: Shapes, configuration: Configuration, batch: int) -> bool:
    """Whether there are contexts at which a decode step of that batch can have its old cache pinned."""
    return configuration.cache == "dynamic" and MIB < _state_bytes(shapes, configuration, batch) <= SEGMENT_STEP_BYTES


def pinned_bytes(shapes: Shapes, workload: Workload) -> int:
    """Bytes of old keys and values that a decode step may be unable to give back: all of them, or none."""
    configuration, batch = workload.configuration, workload.batch
    if workload.phase != "decode" or not shapes.n_full or not pins(shapes, configuration, batch):
        return 0
    cache = kv_bytes_per_token(shapes, element_bytes(configuration)) * batch * workload.context_tokens
    keys = block_bytes(cache // (2 * shapes.n_full))
    rest = -keys % SEGMENT_STEP_BYTES
    fits = _state_bytes(shapes, configuration, batch) <= rest
    return cache if keys >= OWN_SEGMENT_BYTES and fits else 0


def _state_bytes(shapes: Shapes, configuration: Configuration, batch: int) -> int:
    """The block of one layer's convolution state; 0 without linear layers."""
    state = conv_bytes_per_sequence(shapes, element_bytes(configuration)) * batch
    return block_bytes(state // shapes.n_linear) if shapes.n_linear else 0
