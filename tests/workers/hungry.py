"""A worker whose memory is not as it was: HUNGER is "first" for a process whose first run takes more, or "keep".

"first" is what tuning does on a card; "keep" is a program that holds on to what it had when it ran out of memory.
"""

import os
from typing import Any

import torch

from vram_ledger.harness.runtimes import transformers as runtime
from vram_ledger.harness.worker import main

MORE_BYTES, KEPT_BYTES = 64 * 2**20, 2**20
run = runtime.forward
kept: list[torch.Tensor] = []
ran: list[bool] = []


def hungry(loaded: Any, *args: Any) -> None:
    """The forward pass, beside what it should not have."""
    first, hunger = not ran, os.environ["HUNGER"]
    ran.append(True)
    more = torch.empty(MORE_BYTES if hunger == "first" and first else 0, dtype=torch.uint8, device=loaded.device.name)
    try:
        run(loaded, *args)
    except torch.OutOfMemoryError:
        if hunger == "keep":
            torch.cuda.empty_cache()
            kept.append(torch.empty(KEPT_BYTES, dtype=torch.uint8, device=loaded.device.name))
        raise
    del more


if __name__ == "__main__":
    runtime.forward = hungry  # type: ignore[assignment]
    main()
