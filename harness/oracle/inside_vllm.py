"""Runs in the interpreter that has vLLM, on an emulated card: starts the stock engine and writes down what it planned.

The engine is given the defaults of ``vllm serve``; those of the class ``LLM`` are others.

``python inside_vllm.py ORDER ANSWER``: two JSON files. It is started by its path and imports nothing of this package:
that interpreter need not have it. The log goes to standard error as vLLM prints it.
"""

import importlib
import json
import logging
import sys
from typing import Any

GUESSES = "vram_ledger.harness.emulation.program"  # loaded into every process on an emulated card
TALKATIVE = "vllm.v1.worker.gpu_worker", "vllm.engine.arg_utils"
WORKER_FIELDS = {
    "weights_bytes": "model_runner.model_memory_usage",
    "activation_bytes": "peak_activation_memory",
    "outside_torch_bytes": "non_torch_memory",
    "graphs_estimated_bytes": "cudagraph_memory_estimate",
    "requested_bytes": "requested_memory",
    "pool_bytes": "available_kv_cache_memory_bytes",
    "free_at_start_bytes": "init_snapshot.free_memory",
    "total_bytes": "init_snapshot.total_memory",
}
CONFIG_FIELDS = {
    "block_tokens": "cache_config.block_size",
    "blocks": "cache_config.num_gpu_blocks",
    "utilization": "cache_config.gpu_memory_utilization",
    "cache_type": "cache_config.cache_dtype",
    "state_type": "cache_config.mamba_ssm_cache_dtype",
    "state_mode": "cache_config.mamba_cache_mode",
    "prefix_caching": "cache_config.enable_prefix_caching",
    "longest_request_tokens": "model_config.max_model_len",
    "most_requests": "scheduler_config.max_num_seqs",
    "most_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "eager": "model_config.enforce_eager",
}


def main(order_file: str, answer_file: str) -> None:
    """Starts the engine and writes the answer."""
    with open(order_file, encoding="utf-8") as file:
        order = json.load(file)
    replaced = replace_compiled_at_run_time()
    vllm = importlib.import_module("vllm")
    as_server = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
    log_debug(TALKATIVE)
    engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**order), usage_context=as_server)
    answer = {"planned": planned(engine), "replaced": sorted(replaced), "guessed": guessed()}
    with open(answer_file, "w", encoding="utf-8") as file:
        json.dump(answer, file)


def log_debug(modules: tuple[str, ...]) -> None:
    """These modules log all that they say; not the rest, since some of it looks at tensors, as no usual start does."""
    for handler in logging.getLogger("vllm").handlers:
        handler.setLevel(logging.DEBUG)
    for module in modules:
        logging.getLogger(module).setLevel(logging.DEBUG)


def replace_compiled_at_run_time() -> set[str]:
    """FlashInfer's kernels that are compiled at first use do nothing, as Triton's do; which were asked for is noted."""
    asked_for: set[str] = set()
    try:
        core = importlib.import_module("flashinfer.jit.core")
    except ImportError:
        return asked_for

    class Kernels:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    def nothing(spec: Any, *args: Any, **kwargs: Any) -> Kernels:
        asked_for.add(spec.name)
        return Kernels()

    core.JitSpec.build_and_load = nothing
    return asked_for


def planned(engine: Any) -> dict[str, Any]:
    """What the engine made of the card, as its own objects say it; ``None`` where this version has no such field."""
    worker: dict[str, Any] = engine.collective_rpc(of_worker)[0]
    return worker | {name: at(engine.vllm_config, place) for name, place in CONFIG_FIELDS.items()}


def of_worker(worker: Any) -> dict[str, Any]:
    """The worker's share: bytes, and the groups of layers that share blocks."""
    found: dict[str, Any] = {}
    for name, place in WORKER_FIELDS.items():
        value = at(worker, place)
        found[name] = value if value is None else int(value)
    groups = at(worker, "model_runner.kv_cache_config.kv_cache_groups") or []
    found["groups"] = [
        {
            "kind": type(group.kv_cache_spec).__name__,
            "layers": len(group.layer_names),
            "tokens": int(group.kv_cache_spec.block_size),
            "page_bytes": int(group.kv_cache_spec.page_size_bytes),
        }
        for group in groups
    ]
    return found


def at(value: Any, place: str) -> Any:
    """A value by the names of fields joined by dots; ``None`` if there is no such field."""
    for name in place.split("."):
        value = getattr(value, name, None)
    return value


def guessed() -> list[dict[str, Any]]:
    """Every line of Python that read a value off the card which nobody had put there."""
    program = sys.modules.get(GUESSES)
    return [] if program is None else list(program.guesses())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
