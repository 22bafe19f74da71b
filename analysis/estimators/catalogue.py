"""Every third-party estimator by the name it is ranked under."""

from vram_ledger.analysis.estimating.breakdown import Estimator
from vram_ledger.analysis.estimators import (
    accelerate,
    canitrun,
    fitmygpu,
    gguf_parser,
    gpu_poor,
    hf_mem,
    kvanta,
    llama_cpp_fit,
    llm_analysis,
    llmfit,
    nyxkrage,
    vllm_pool,
)

ESTIMATORS: dict[str, Estimator] = {
    "fitmygpu": fitmygpu.estimate,
    "fitmygpu-transformers": fitmygpu.estimate_transformers,
    "accelerate": accelerate.estimate,
    "accelerate-inference": accelerate.estimate_inference,
    "hf-mem": hf_mem.estimate,
    "hf-mem-warm-up": hf_mem.estimate_warm_up,
    "kvanta": kvanta.estimate,
    "nyxkrage": nyxkrage.estimate,
    "gpu-poor": gpu_poor.estimate,
    "llm-analysis": llm_analysis.estimate,
    "canitrun": canitrun.estimate,
    "llmfit": llmfit.estimate,
    "gguf-parser-old": gguf_parser.estimate_old,
    "gguf-parser": gguf_parser.estimate,
    "llama.cpp-fit": llama_cpp_fit.estimate,
    "vllm-pool": vllm_pool.estimate,
}
