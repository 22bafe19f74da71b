"""accelerate ``estimate-memory``: what the library answered, as stored. Claims: the allocated bytes.

The library needs torch, so it is asked as a command, :mod:`harness.runtimes.accelerate_estimate`. It counts the bare
``AutoModel``, which has no ``lm_head``. Its documentation says "up to 20 %" more for inference than for loading.
"""

import functools

from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimating.predictions import Predictions, read_predictions
from vram_ledger.home import RESULTS

STORED = RESULTS / "estimates" / "accelerate.csv"
INFERENCE = 0.20


def estimate(request: Request) -> Breakdown:
    """The memory to load the model."""
    return _stored().estimate(request)


def estimate_inference(request: Request) -> Breakdown:
    """The memory to load the model, and the documented 20 % for inference."""
    weights = _stored().estimate(request).weights_bytes
    return added_up("allocated", weights=weights, overhead=INFERENCE * weights)


@functools.cache
def _stored() -> Predictions:
    return read_predictions(STORED)
