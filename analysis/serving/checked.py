"""What servers printed at their start, against which every formula of this room is held: data, and nothing computed.

``analysis/serving/held.py`` asks each formula the same question, and a test holds every row.
"""

import functools
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A printed figure, and the question that it answers. term: what of the answer it is; unit: as printed.

    pool: as the log printed it, "" where it did not: then only some whole number of blocks has to give the figure.
    address: repository and thread or file, or the page; for a log whose address was not kept, words of it to look for.
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
_CLUB = "noonghunna/club-3090"
_EDGE = "sergiiob.dev/posts/qwen35-kv-cache-quantization-edge"
_GB10, _WINDOWS = "kosh7707/smartcar services/llm-gateway", "CelestNya/Aplus_task2 docs/vLLM-Qwen3.5-0.8b.md"
_PROBE, _TALOS = "GuoYibo233/probe-agent", "mitchross/talos-argocd-proxmox#1995"
_ROCM = "AIwork4me/Qwen3.8-27B-ROCm docs/results/rocm-7.14/vllm-validation.md"
_PEEPHOLE = "at0rp1d0i-cell/peephole reports/p0-model/model-report.md"
_LMCACHE = "LMCache/LMCache docs/source/recipes/qwen3_5.rst"
# Where no address was kept, what to look for.
_A100 = '"Maximum concurrency for 32,768 tokens per request: 8.02x"'
_H200 = '"GPU KV cache size: 1,400,832 tokens, Maximum concurrency for 32,768 tokens per request: 42.75x"'
_RENTED = '"281,804 KV-cache tokens and reported maximum concurrency 8.60x at 32,768 tokens"'
_NINE, _NINE_L40S = '"4,096 tokens per request: 36.91x"', '"GPU KV cache size: 165,792 tokens"'
_SMALL = '"Maximum concurrency for 4,096 tokens per request: 44.73x"'
_GB10_SGLANG = '"conv_state size: 0.99GB, ssm_state size: 50.77GB"'
_CELLS = '"size = 3072.00 MiB (262144 cells"'
_SGLANG_9B = '"intermediate_ssm_state_cache size: 48.75GB intermediate_conv_window_cache size: 0.43GB"'
_ALIGNED: dict[str, Any] = {"prefix_caching": True}
_TP2_FP8: dict[str, Any] = {"cards": 2, "kv_type": "fp8", "prefix_caching": True}
_LONG: dict[str, Any] = {**_TP2_FP8, "context_tokens": 262_144}
_MTP: dict[str, Any] = {**_LONG, "drafts": 3}
_S, _M = "qwen3.5-0.8b", "qwen3.5-9b"

CHECKED: tuple[Check, ...] = (
    # "Model loading took": weights, the rotary table, the allocator's rounding.
    _vllm("weights", "50.22", "GiB", _GB10, "27B, text, GB10, 0.19.1", text=True),
    _vllm("weights", "50.22", "GiB", _PROBE, "27B, text", text=True),
    _vllm("weights", "50.22", "GiB", _A100, "27B, text, A100 80 GB", text=True),
    _vllm("weights", "51.1", "GiB", _ROCM, "27B"),
    _vllm("weights", "51.1", "GiB", _PEEPHOLE, "27B, RTX PRO 6000, 0.29.0"),
    _vllm("weights", "17.66", "GiB", "jadeezomg/flake docs/hosts/mini-vllm-xpu.md", "9B", model=_M),
    _vllm("weights", "17.66", "GiB", _NINE, "9B, 32 GB card", model=_M),
    _vllm("weights", "18.12", "GiB", _NINE, "9B, one draft", model=_M, drafts=1),
    _vllm("weights", "1.72", "GiB", _WINDOWS, "0.8B, 0.19", model=_S),
    _vllm("weights", "1.72", "GiB", _SMALL, "0.8B, 0.23", model=_S),
    # "Setting attention block size to … tokens", "Padding mamba page size by …%"
    _vllm("block", "784", "tokens", _LMCACHE, "Qwen3.6-27B"),
    _vllm("block", "784", "tokens", _PEEPHOLE, "27B, RTX PRO 6000, 0.29.0"),
    _vllm("block", "544", "tokens", _LMCACHE, "0.8B", model=_S),
    _vllm("block", "544", "tokens", _WINDOWS, "0.8B, 0.19", model=_S),
    _vllm("block", "528", "tokens", _NINE, "9B, 32 GB card", model=_M),
    _vllm("block", "1568", "tokens", f"{_CLUB}#1047", "27B in NVFP4, fp8 cache, A6000", kv_type="fp8"),
    _vllm("block", "1568", "tokens", _TALOS, "27B FP8, two 3090", **_TP2_FP8),
    _vllm("block", "1616", "tokens", f"{_CLUB}#1170", "27B in 4 bits, two 3090, MTP", **_TP2_FP8, drafts=4),
    _vllm("padding", "0.13", "%", f"{_CLUB}#1047", "27B in NVFP4, fp8 cache, A6000", kv_type="fp8"),
    _vllm("padding", "2.64", "%", _WINDOWS, "0.8B, 0.19", model=_S),
    _vllm("padding", "0.76", "%", _NINE_L40S, "9B, L40S, 0.19.0", model=_M),
    # "Maximum concurrency", most of a pool that was printed as well.
    _vllm("blocks", "652", "", _PEEPHOLE, "27B, RTX PRO 6000, 0.29.0", pool="31.24GiB"),
    _vllm("concurrency", "6.73", "×", _GB10, "27B, GB10, 0.19.1", context_tokens=131_072, pool="55.08GiB"),
    _vllm("concurrency", "8.99", "×", _PROBE, "27B", context_tokens=131_072, pool="73.63GiB"),
    _vllm("concurrency", "8.60", "×", _RENTED, "27B, A100 80 GB", context_tokens=32_768, pool="18.56GiB"),
    _vllm("concurrency", "8.02", "×", _A100, "27B, A100 80 GB", context_tokens=32_768),
    _vllm("concurrency", "42.75", "×", _H200, "27B FP8, aligned", context_tokens=32_768, **_ALIGNED),
    _vllm("concurrency", "1.20", "×", _ROCM, "27B", context_tokens=262_144, **_ALIGNED, pool="19.54GiB"),
    _vllm("concurrency", "38.35", "×", _PEEPHOLE, "27B", context_tokens=8192, **_ALIGNED, pool="31.24GiB"),
    _vllm("concurrency", "36.91", "×", _NINE, "9B, 32 GB card", model=_M, pool="6.56GiB"),
    _vllm("concurrency", "169.82", "×", _NINE, "9B, two cards", model=_M, cards=2, pool="15.06GiB"),
    _vllm("concurrency", "2.52", "×", _NINE_L40S, "9B, L40S", model=_M, context_tokens=262_144, pool="20.27GiB"),
    _vllm("concurrency", "44.73", "×", _SMALL, "0.8B, 0.23", model=_S, pool="3.06GiB"),
    _vllm("concurrency", "73.36", "×", _WINDOWS, "0.8B, 0.19", model=_S, pool="5.03GiB"),
    _vllm("concurrency", "2.31", "×", _TALOS, "27B FP8", context_tokens=131_072, pool="4.99GiB", **_TP2_FP8),
    _vllm("concurrency", "2.36", "×", f"{_CLUB}#104", "27B in 4 bits, two 3090", pool="9.84GiB", **_LONG),
    _vllm("concurrency", "2.37", "×", f"{_CLUB}#294", "27B in 4 bits, two 3090, MTP", **_MTP),
    _vllm("concurrency", "2.38", "×", f"{_CLUB}#642", "27B in 4 bits, two 3090, MTP", pool="11.05GiB", **_MTP),
    # "GPU KV cache size", to the token: of releases from 0.20 on.
    _vllm("cache size", "262872", "tokens", _A100, "27B, A100 80 GB", context_tokens=32_768),
    _vllm("cache size", "281804", "tokens", _RENTED, "27B, A100 80 GB", context_tokens=32_768, pool="18.56GiB"),
    _vllm("cache size", "1400832", "tokens", _H200, "27B FP8", context_tokens=32_768, **_ALIGNED),
    _vllm("cache size", "313650", "tokens", _ROCM, "27B", context_tokens=262_144, **_ALIGNED, pool="19.54GiB"),
    _vllm("cache size", "314187", "tokens", _PEEPHOLE, "27B", context_tokens=8192, **_ALIGNED, pool="31.24GiB"),
    _vllm("cache size", "183202", "tokens", _SMALL, "0.8B, 0.23", model=_S, pool="3.06GiB"),
    _vllm("cache size", "302921", "tokens", _TALOS, "27B FP8", context_tokens=131_072, pool="4.99GiB", **_TP2_FP8),
    _vllm("cache size", "619202", "tokens", f"{_CLUB}#104", "27B in 4 bits, two 3090", pool="9.84GiB", **_LONG),
    _vllm("cache size", "652346", "tokens", f"{_CLUB}#1170", "27B in 4 bits, two 3090", **_LONG),
    _vllm("cache size", "619479", "tokens", f"{_CLUB}#91", "27B in 4 bits, two 3090, MTP, 0.20.1", **_MTP),
    _vllm("cache size", "620944", "tokens", f"{_CLUB}#295", "27B in 4 bits, two 3090, MTP", **_MTP),
    _vllm("cache size", "622408", "tokens", f"{_CLUB}#294", "27B in 4 bits, two 3090, MTP", **_MTP),
    _vllm("cache size", "623873", "tokens", f"{_CLUB}#642", "27B in 4 bits, two 3090, MTP", pool="11.05GiB", **_MTP),
    _vllm("cache size", "530081", "tokens", f"{_CLUB}#1170", "27B in 4 bits, two 3090, MTP", **_LONG, drafts=4),
    _vllm("cache size", "567737", "tokens", f"{_CLUB}#1170", "27B in 4 bits, two 3090, MTP", **_LONG, drafts=4),
    # The same line of releases up to 0.19.
    _vllm("cache size to 0.19", "225008", "tokens", _GB10, "27B, GB10", pool="55.08GiB"),
    _vllm("cache size to 0.19", "109344", "tokens", _WINDOWS, "0.8B", model=_S, pool="5.03GiB"),
    _vllm("cache size to 0.19", "53328", "tokens", _NINE, "9B, 32 GB card", model=_M, pool="6.56GiB"),
    _vllm("cache size to 0.19", "246576", "tokens", _NINE, "9B, two cards", model=_M, cards=2, pool="15.06GiB"),
    _vllm("cache size to 0.19", "165792", "tokens", _NINE_L40S, "9B, L40S", model=_M, pool="20.27GiB"),
    # SGLang: the state pool has a slot more than it says; a request takes 5 of them with the default strategy.
    _sglang("ssm", "27.00", "GiB", '"27.00GB\\" at max_mamba_cache_size 191"', "27B, 191 slots", batch=191),
    _sglang("ssm", "50.77", "GiB", _GB10_SGLANG, "27B, 360 slots, GB10", batch=360),
    _sglang("ssm", "3.05", "GiB", _SGLANG_9B, "9B, 64 slots", model=_M, batch=64),
    _sglang("conv", "0.99", "GiB", _GB10_SGLANG, "27B, 360 slots, GB10", batch=360),
    _sglang("KV cache", "3.49", "GiB", _GB10_SGLANG, "27B, keys in fp8", context_tokens=228_520, kv_type="fp8"),
    _sglang("state page", "2146304", "bytes", "ovg-project/kvcached#459", "9B, a layer and slot", model=_M),
    _sglang("running", "72", "", _GB10_SGLANG, "27B, 360 slots, GB10", batch=360),
    _sglang("running", "8", "", "jpezzulli/sglang-rtxpro6000#5", "27B, 40 slots", batch=40),
    _sglang("draft ssm", "48.75", "GiB", _SGLANG_9B, "9B, 64 slots, 16 drafts", model=_M, batch=64, drafts=16),
    _sglang("draft conv", "0.43", "GiB", _SGLANG_9B, "9B, 64 slots, 16 drafts", model=_M, batch=64, drafts=16),
    # llama.cpp: buffers, in MiB.
    _llama("recurrent state", "448.88", "MiB", "ggml-org/llama.cpp#23792", "27B, 3 sequences", batch=3),
    _llama("recurrent state", "299.25", "MiB", "ggml-org/llama.cpp#23792", "27B, 2 sequences", batch=2),
    _llama("R", "16.88", "MiB", "ggml-org/llama.cpp#23792", "27B, 3 sequences, float32 columns", batch=3),
    _llama("R", "11.25", "MiB", "ggml-org/llama.cpp#23792", "27B, 2 sequences, float32 columns", batch=2),
    _llama("S", "432.00", "MiB", "ggml-org/llama.cpp#23792", "27B, 3 sequences, float32 matrices", batch=3),
    _llama("S", "288.00", "MiB", "ggml-org/llama.cpp#23792", "27B, 2 sequences, float32 matrices", batch=2),
    _llama("recurrent state", "149.62", "MiB", '"RS buffer size =   149.62 MiB"', "27B, one sequence"),
    _llama("recurrent state", "748.12", "MiB", '"748.12 MiB (     1 cells,  64 layers"', "27B, 4 drafts", drafts=4),
    _llama("recurrent state", "1197.00", "MiB", '"7 (the clamp) | 1197.00 MiB"', "27B, 7 drafts", drafts=7),
    _llama("recurrent state", "77.06", "MiB", _CELLS, "0.8B", model=_S, batch=4),
    _llama("KV cache", "64", "MiB", _EDGE, "27B, f16", context_tokens=1024),
    _llama("KV cache", "34", "MiB", _EDGE, "27B, q8_0", context_tokens=1024, kv_type="q8_0"),
    _llama("KV cache", "18", "MiB", _EDGE, "27B, q4_0", context_tokens=1024, kv_type="q4_0"),
    _llama("KV cache", "3072.00", "MiB", _CELLS, "0.8B", model=_S, context_tokens=262_144),
    _llama(
        "KV cache", "4352.00", "MiB", '"4352.00 MiB (131072 cells"', "27B, q8_0", context_tokens=131_072, kv_type="q8_0"
    ),
    _llama(
        "KV cache", "3528.00", "MiB", '"3528.00 MiB (200704 cells"', "27B, q4_0", context_tokens=200_704, kv_type="q4_0"
    ),
)


def logs_of(runtime: str, term: str) -> int:
    """How many logs a term is held against, each counted once; all that is printed of a pool tells its blocks."""
    own = (c for c in CHECKED if c.runtime == runtime)
    return len({c.address for c in own if c.term == term or (term == "blocks" and c.pool)})
