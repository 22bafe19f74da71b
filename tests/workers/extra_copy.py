"""A worker whose decoder layers keep one more copy of their input while they run."""

from typing import Any

import torch

from vram_ledger.harness.runtimes import transformers as runtime
from vram_ledger.harness.worker import main

LOAD = runtime.load


def plant() -> None:
    """Replaces the layer's forward by one that copies first."""
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer

    run = Qwen3_5DecoderLayer.forward

    def copying(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kept = hidden_states.clone()  # the planted line
        out = run(self, hidden_states, *args, **kwargs)
        del kept
        return out

    Qwen3_5DecoderLayer.forward = copying


def load(*given: Any) -> runtime.Loaded:
    """Plants it in the worker: a nursery that imports the model has asked for the card, and can't fork."""
    plant()
    return LOAD(*given)


if __name__ == "__main__":
    runtime.load = load  # type: ignore[assignment]
    main()
