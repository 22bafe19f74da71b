"""Why a server did not start: what vLLM and SGLang say when their pool does not come out, read into figures.

The words are those of ``vllm/v1/core/kv_cache_utils.py`` (``_check_enough_kv_cache_memory``),
``vllm/v1/worker/utils.py`` (``request_memory``), ``vllm/v1/worker/gpu_model_runner.py`` (the state blocks of hybrids)
and ``sglang/srt/model_executor/pool_configurator.py``, in releases from vLLM 0.8 and SGLang 0.4 on.
"""

import re
from dataclasses import dataclass

from vram_ledger.analysis.messages.message import LONGEST, Printed, printed
from vram_ledger.errors import InputError

NUMBER = r"(\d{1,12}(?:\.\d{1,9})?)"
GIB = rf"{NUMBER} (GiB)"
TOO_LONG = re.compile(
    rf"max seq len \((\d{{1,12}})\), \(?{GIB} KV cache is needed, which is larger than the available KV cache memory "
    rf"\({GIB}\)"
)
NOT_FREE = re.compile(
    rf"Free memory on device(?: \S+)? \({NUMBER}/{NUMBER} GiB\) on startup is less than desired GPU memory utilization "
    rf"\((\d?\.?\d{{1,9}}), {NUMBER} GiB\)"
)
FEW_STATES = re.compile(
    r"max_num_seqs \((\d{1,12})\) exceeds (?:the number of )?available Mamba cache blocks \((\d{1,12})\)"
)
NO_BLOCKS = "No available memory for the cache blocks"
NO_STATIC = re.compile(r"Not enough memory\.? Please try to increase --mem-fraction-static")
FRACTION = re.compile(r"mem_fraction_static=(\d?\.\d+)")
LOADED = re.compile(rf"(?:Model loading took|model weights take) {GIB}")
AFTER_LOADING = re.compile(rf"Load weight end.*?avail mem={NUMBER} GB, mem usage={NUMBER} GB")


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLong:
    """vLLM: one request of the longest context needs more than the pool has."""

    context_tokens: int
    needed: Printed
    available: Printed


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFree:
    """vLLM: less of the card is free than the utilization asks for."""

    free: Printed
    total: Printed
    utilization: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStates:
    """vLLM, hybrids: fewer blocks than sequences that may decode at a time, each of which has a state in one."""

    sequences: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPool:
    """Nothing is left for the pool beside the weights. share: vLLM's or SGLang's, where the log says it.

    loaded: the weights, as printed; after: what was free of the card after loading, as SGLang prints it.
    """

    runtime: str
    share: float | None
    loaded: Printed | None
    after: Printed | None


Failed = TooLong | NotFree | FewStates | NoPool


def read_startup(text: str) -> Failed | None:
    """The first failure of a server's start in a log; ``None`` if there is none."""
    if len(text) > LONGEST:
        raise InputError(f"MESSAGE has {len(text):,} characters; give the message, or the last lines of the log")
    said = " ".join(text.split())
    if found := TOO_LONG.search(said):
        return TooLong(
            context_tokens=int(found[1]), needed=printed(found[2], found[3]), available=printed(found[4], found[5])
        )
    if found := NOT_FREE.search(said):
        return NotFree(free=printed(found[1], "GiB"), total=printed(found[2], "GiB"), utilization=float(found[3]))
    if found := FEW_STATES.search(said):
        return FewStates(sequences=int(found[1]), blocks=int(found[2]))
    if NO_BLOCKS in said:
        loaded = LOADED.search(said)
        return NoPool(
            runtime="vllm", share=None, loaded=None if loaded is None else printed(loaded[1], "GiB"), after=None
        )
    if NO_STATIC.search(said):
        share, after = FRACTION.search(said), AFTER_LOADING.search(said)
        return NoPool(
            runtime="sglang",
            share=None if share is None else float(share[1]),
            loaded=None if after is None else printed(after[2], "GiB"),  # its GB are of 2^30 bytes
            after=None if after is None else printed(after[1], "GiB"),
        )
    return None
