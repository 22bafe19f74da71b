"""A worker whose model is in trouble on long prompts: TROUBLE is "hang", or "unknown" for a call no stub knows."""

import ctypes
import os
import time
from typing import Any

from vram_ledger.harness.runtimes import transformers as runtime
from vram_ledger.harness.worker import main

LONG = 1000
run = runtime.forward


def troubled(loaded: Any, workload: Any, *args: Any) -> None:
    """The forward pass, unless the prompt is long."""
    if workload.context_tokens >= LONG:
        match os.environ["TROUBLE"]:
            case "hang":
                time.sleep(600)
            case "unknown":
                ctypes.CDLL("libcuda.so.1").cuGreenCtxCreate()
    run(loaded, workload, *args)


if __name__ == "__main__":
    runtime.forward = troubled  # type: ignore[assignment]
    main()
