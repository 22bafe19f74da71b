"""A worker whose transformers keeps the recurrent state in the activations' 16 bits."""

from typing import Any

import torch

from vram_ledger.harness.worker import main


def plant() -> None:
    """Replaces the cache's update by one that rounds the state first."""
    from transformers.cache_utils import LinearAttentionLayer

    keep = LinearAttentionLayer.update_recurrent_state

    def rounded(self: Any, recurrent_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return keep(self, recurrent_states.to(torch.bfloat16), *args, **kwargs)

    LinearAttentionLayer.update_recurrent_state = rounded


if __name__ == "__main__":
    plant()
    main()
