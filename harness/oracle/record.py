"""The record of one start of a server: what was asked, planned and printed; written whole or not at all."""

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError

SCHEMA = 1
NOT_EMULATED = (
    "No card has measured this. vLLM, PyTorch and its allocator are the real ones; kernels do nothing. Not "
    "emulated are the growth of the CUDA context, loaded modules, and what a driver takes for each CUDA graph. On"
    " a card vLLM leaves room for these beside its pool, so the pool here is too large: by about 1.1 GiB in the "
    "one comparison there is."
)
DATE = re.compile(r"^(?:\(.*? pid=\d+\) )?([A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d ")
# What a line that belongs to the plan says, in the words of vLLM's sources from 0.11 to 0.20.
OF_THE_PLAN = (
    "Model loading took",
    "attention block size to",
    "Padding mamba page size",
    "Available KV cache memory",
    "GPU KV cache size",
    "Maximum concurrency for",
    "Free memory on device",
    "Memory profiling takes",
    "Initial free memory",
    "Free memory after profiling",
    "Peak GPU memory after loading",
    "Defaulting max_num",
    "Chunked prefill is enabled",
    "prefix caching",
    "Encoder cache will be initialized",
    "CUDA graph memory",
    "CUDA graph pool memory",
    "Graph capturing finished",
    "torch.compile took",
    "from the cache",
    "attention backend",
    "FlashAttention version",
    "GDN prefill kernel",
    "IR op priority after",
    "Using max model len",
    "text-only mode",
    "Resolved architecture",
)
REPEATED = "GDN prefill kernel warmup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A server's start. options: as the server was given them. versions: of the packages that decide its plan.

    emulation: of the card, as in Environment. variables: that were set for it. planned: by its own objects; bytes.
    replaced: kernels that would have been compiled at run time. guessed: lines that read a value that nobody computed.
    log: the lines that are about the plan, without their dates. starts: in a row with one compile cache, of which the
    last is told; a first that compiles plans a smaller pool. seconds: from that start to its plan.
    """

    runtime: str
    versions: dict[str, str]
    card: dict[str, Any]
    emulation: str
    model: str
    config_sha256: str
    variant: str
    options: dict[str, Any]
    variables: dict[str, str]
    planned: dict[str, Any]
    replaced: tuple[str, ...]
    guessed: tuple[dict[str, Any], ...]
    log: tuple[str, ...]
    starts: int
    seconds: int


def relevant(log: str) -> tuple[str, ...]:
    """The log's lines about the plan, each once, without dates and without the places of this machine."""
    lines: list[str] = []
    for line in log.splitlines():
        plain = DATE.sub(r"\1 ", line.strip())
        if any(words in plain for words in OF_THE_PLAN) and REPEATED not in plain and plain not in lines:
            lines.append(plain)
    return tuple(lines)


def file_of(results: Path, start: Start) -> Path:
    """Where a start is stored: one file a version, card, model and what was asked beside the defaults."""
    asked = [
        f"{name}-{start.options[option]}"
        for name, option in (("context", "max_model_len"), ("utilization", "gpu_memory_utilization"))
        if option in start.options
    ]
    how = "eager" if start.options["enforce_eager"] else "graphs" if start.starts > 1 else "graphs-first"
    name = ".".join((start.card["label"], start.model, start.variant, how, *asked))
    return results / "oracle" / f"{start.runtime}-{start.versions[start.runtime]}" / f"{name}.json"


def store(path: Path, start: Start) -> None:
    """Writes the record; another one of the same question takes its place only when it is whole."""
    value = {"schema": SCHEMA, "kind": "emulated", "not_emulated": NOT_EMULATED, **asdict(start)}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it is not there: in place, or never begun
            part.unlink()
