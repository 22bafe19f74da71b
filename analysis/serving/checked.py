"""What servers printed at their start, against which every formula of this room is held: data, and nothing computed.

``analysis/serving/held.py`` asks each formula the same question, and a test holds every row.
"""

import functools
from dataclasses import dataclass
from typing import Any

KEPT = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A printed figure, and the question that it answers. term: what of the answer it is; unit: as printed.

    pool: as the log printed it, "" where it did not: then only some whole number of blocks has to give the figure.
    address: repository and thread or file, or the page; "" for a public log of which only the figure was kept.
    """

    runtime: str
    term: str
    printed: str
    unit: str
    address: str
    what: str
    model: str = "qwen3.5-27b"
    text: bool = False
    context_tokens: int = 4096
    batch: int = 1
    kv_type: str = ""
    prefix_caching: bool = False
    drafts: int = 0
    cards: int = 1
    pool: str = ""


def _printed(runtime: str, term: str, printed: str, unit: str, address: str, what: str, **asked: Any) -> Check:
    return Check(runtime=runtime, term=term, printed=printed, unit=unit, address=address, what=what, **asked)


_vllm, _sglang = functools.partial(_printed, "vllm"), functools.partial(_printed, "sglang")
_llama = functools.partial(_printed, "llama.cpp")
_LMCACHE = "docs.lmcache.ai/recipes/qwen3_5.html"
_CLUB = "noonghunna/club-3090"
_EDGE = "sergiiob.dev/posts/qwen35-kv-cache-quantization-edge"
_TP2_FP8: dict[str, Any] = {"cards": 2, "kv_type": "fp8", "prefix_caching": True}
_MTP = {**_TP2_FP8, "drafts": 3, "context_tokens": 262_144}

CHECKED: tuple[Check, ...] = (
    # What loading took: weights and the rotary table.
    _vllm("weights", "50.22", "GiB", KEPT, "27B, --language-model-only, three logs", text=True),
    _vllm("weights", "51.1", "GiB", KEPT, "27B with its vision tower"),
    _vllm("weights", "17.66", "GiB", KEPT, "9B with its vision tower", model="qwen3.5-9b"),
    _vllm("weights", "1.72", "GiB", KEPT, "0.8B with its vision tower", model="qwen3.5-0.8b"),
    # "Setting attention block size to … tokens"
    _vllm("block", "784", "tokens", _LMCACHE, "Qwen3.6-27B, one card"),
    _vllm("block", "544", "tokens", _LMCACHE, "Qwen3.5-0.8B, one card", model="qwen3.5-0.8b"),
    _vllm("block", "528", "tokens", KEPT, "9B, 32 GB card", model="qwen3.5-9b"),
    _vllm("block", "1568", "tokens", f"{_CLUB}#1047", "27B in NVFP4, fp8 cache, A6000", kv_type="fp8"),
    _vllm("block", "1568", "tokens", "mitchross/talos-argocd-proxmox#1995", "27B FP8, two 3090", **_TP2_FP8),
    # "Padding mamba page size by …%"
    _vllm("padding", "0.13", "%", f"{_CLUB}#1047", "27B in NVFP4, fp8 cache, A6000", kv_type="fp8"),
    # Pool -> blocks, by the concurrency that they give.
    _vllm(
        "concurrency",
        "6.73",
        "×",
        KEPT,
        "27B, 121 GiB unified memory, vLLM 0.19.1",
        text=True,
        context_tokens=131_072,
        pool="55.08GiB",
    ),
    _vllm(
        "concurrency",
        "8.99",
        "×",
        KEPT,
        "27B, text",
        text=True,
        context_tokens=131_072,
        pool="73.63GiB",
    ),
    _vllm("concurrency", "8.02", "×", KEPT, "27B, A100 80 GB", text=True, context_tokens=32_768),
    _vllm("concurrency", "42.75", "×", KEPT, "27B FP8, H200, aligned", context_tokens=32_768, prefix_caching=True),
    _vllm("concurrency", "36.91", "×", KEPT, "9B, 32 GB card", model="qwen3.5-9b", pool="6.56GiB"),
    _vllm("concurrency", "44.73", "×", KEPT, "0.8B", model="qwen3.5-0.8b", pool="3.06GiB"),
    _vllm(
        "concurrency",
        "2.31",
        "×",
        "mitchross/talos-argocd-proxmox#1995",
        "27B FP8, two 3090",
        context_tokens=131_072,
        pool="4.99GiB",
        **_TP2_FP8,
    ),
    _vllm(
        "concurrency",
        "2.36",
        "×",
        f"{_CLUB}#104",
        "27B in 4 bits, two 3090",
        context_tokens=262_144,
        pool="9.84GiB",
        **_TP2_FP8,
    ),
    _vllm("concurrency", "2.37", "×", f"{_CLUB}#294", "27B in 4 bits, two 3090, MTP", **_MTP),
    _vllm("concurrency", "2.38", "×", f"{_CLUB}#642", "27B in 4 bits, two 3090, MTP", pool="11.05GiB", **_MTP),
    # "GPU KV cache size", to the token: of releases from 0.20 on.
    _vllm("cache size", "262872", "tokens", KEPT, "27B, A100 80 GB", text=True, context_tokens=32_768),
    _vllm("cache size", "1400832", "tokens", KEPT, "27B FP8, H200", context_tokens=32_768, prefix_caching=True),
    _vllm(
        "cache size",
        "302921",
        "tokens",
        "mitchross/talos-argocd-proxmox#1995",
        "27B FP8, two 3090",
        context_tokens=131_072,
        pool="4.99GiB",
        **_TP2_FP8,
    ),
    _vllm(
        "cache size",
        "619202",
        "tokens",
        f"{_CLUB}#104",
        "27B in 4 bits, two 3090",
        context_tokens=262_144,
        pool="9.84GiB",
        **_TP2_FP8,
    ),
    _vllm("cache size", "619479", "tokens", f"{_CLUB}#91", "27B in 4 bits, two 3090, MTP, vLLM 0.20.1", **_MTP),
    _vllm("cache size", "622408", "tokens", f"{_CLUB}#294", "27B in 4 bits, two 3090, MTP", **_MTP),
    _vllm("cache size", "623873", "tokens", f"{_CLUB}#642", "27B in 4 bits, two 3090, MTP", pool="11.05GiB", **_MTP),
    # SGLang: the state pool has a slot more than it says; a request takes 5 of them with the default strategy.
    _sglang("ssm", "27.00", "GiB", "sgl-project/sglang, docs", "27B, 191 slots, RTX PRO 6000", batch=191),
    _sglang("ssm", "50.77", "GiB", KEPT, "27B, 360 slots, GB10", batch=360),
    _sglang("conv", "0.99", "GiB", KEPT, "27B, 360 slots, GB10", batch=360),
    _sglang("KV cache", "3.49", "GiB", KEPT, "27B, 228,520 tokens of fp8, keys", context_tokens=228_520, kv_type="fp8"),
    _sglang(
        "state page",
        "2146304",
        "bytes",
        "ovg-project/kvcached#459",
        "9B, a layer and slot",
        model="qwen3.5-9b",
    ),
    _sglang("running", "72", "", KEPT, "27B, 360 slots, GB10", batch=360),
    _sglang("running", "8", "", "jpezzulli/sglang-rtxpro6000#5", "27B, 40 slots", batch=40),
    _sglang("ssm", "3.05", "GiB", KEPT, "9B, 64 slots", model="qwen3.5-9b", batch=64),
    _sglang("draft ssm", "48.75", "GiB", KEPT, "9B, 64 slots, 16 drafts", model="qwen3.5-9b", batch=64, drafts=16),
    _sglang("draft conv", "0.43", "GiB", KEPT, "9B, 64 slots, 16 drafts", model="qwen3.5-9b", batch=64, drafts=16),
    # llama.cpp: buffers, in MiB.
    _llama("recurrent state", "448.88", "MiB", "ggml-org/llama.cpp#23792", "27B, 3 sequences", batch=3),
    _llama("R", "16.88", "MiB", "ggml-org/llama.cpp#23792", "27B, 3 sequences, float32 columns", batch=3),
    _llama("S", "432.00", "MiB", "ggml-org/llama.cpp#23792", "27B, 3 sequences, float32 matrices", batch=3),
    _llama("recurrent state", "149.62", "MiB", KEPT, "27B, one sequence"),
    _llama("recurrent state", "748.12", "MiB", KEPT, "27B, up to 4 drafts", drafts=4),
    _llama("recurrent state", "598.50", "MiB", KEPT, "27B, up to 3 drafts", drafts=3),
    _llama("recurrent state", "1197.00", "MiB", KEPT, "27B, up to 7 drafts", drafts=7),
    _llama("KV cache", "64", "MiB", _EDGE, "27B, f16", context_tokens=1024),
    _llama("KV cache", "34", "MiB", _EDGE, "27B, q8_0", context_tokens=1024, kv_type="q8_0"),
    _llama("KV cache", "18", "MiB", _EDGE, "27B, q4_0", context_tokens=1024, kv_type="q4_0"),
    _llama("KV cache", "3528.00", "MiB", KEPT, "27B, q4_0, 200,704 cells", context_tokens=200_704, kv_type="q4_0"),
    _llama("KV cache", "16384.00", "MiB", KEPT, "27B, f16, 262,144 cells", context_tokens=262_144),
)


def logs_of(runtime: str, term: str) -> int:
    """How many printed figures a term is held against; the pool's blocks are told by the concurrency that they give."""
    if (runtime, term) == ("vllm", "blocks"):
        return sum(1 for c in CHECKED if c.runtime == runtime and c.pool)
    return sum(1 for c in CHECKED if (c.runtime, c.term) == (runtime, term))
