"""What a server planned on an emulated card: its stored records, and where they differ from our formulas.

The records are written by ``make oracle`` (``harness/oracle``), one file a start. They are emulated: what the program
makes of a card's size and of its own tensors is the real program's, what a card takes beside is not in them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.analysis.ground.markdown import table
from vram_ledger.harness.records import RecordError

SCHEMA = 1
FOLDER = "oracle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers that share blocks. kind: as vLLM names it. page_bytes: of one layer, of a block of so many tokens."""

    kind: str
    layers: int
    tokens: int
    page_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """The figures that the log printed, as it printed them; ``None`` where it did not."""

    weights_gib: str | None
    block_tokens: int | None
    pool_gib: str | None
    cache_tokens: int | None
    longest_request_tokens: int | None
    concurrency: str | None
    graphs_gib: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One start of a server. card: its label; total_bytes: the card's. variant: text or default, with the vision tower.

    version: the server's; versions: all that decide. starts: in a row with one compile cache, of which this is the
    last. weights, activation, graphs_estimated, requested, pool: as the server counted them; ``None``: older releases
    estimate no graphs. longest_request_tokens, most_requests, most_batched_tokens, utilization: what it took, given or
    by default. flashinfer_prefill: whether FlashInfer's kernel runs the delta rule of a prefill. printed: by its log.
    """

    path: Path
    runtime: str
    version: str
    versions: Mapping[str, str]
    card: str
    total_bytes: int
    model: str
    variant: str
    eager: bool
    starts: int
    options: Mapping[str, Any]
    weights_bytes: int
    activation_bytes: int
    graphs_estimated_bytes: int | None
    requested_bytes: int
    pool_bytes: int
    block_tokens: int
    blocks: int
    groups: tuple[Group, ...]
    utilization: float
    prefix_caching: bool
    flashinfer_prefill: bool
    longest_request_tokens: int
    most_requests: int
    most_batched_tokens: int
    printed: Printed

    @property
    def state_groups(self) -> int:
        """Groups of linear layers, each with blocks of its own."""
        return sum(group.kind.startswith("Mamba") for group in self.groups)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block: a page for each layer of the largest group."""
        return max((group.layers * group.page_bytes for group in self.groups), default=0)


def read_records(folder: Path) -> list[Planned]:
    """Every record below a results folder, by path; :class:`RecordError` names the file and the field."""
    return [read_record(path) for path in sorted((folder / FOLDER).glob("*/*.json"))]


def read_record(path: Path) -> Planned:
    """One record."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: no JSON: {error}") from error
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise RecordError(f"{path}: schema is {schema!r}, and {SCHEMA} is read; make oracle writes it anew")
    try:
        return _planned(path, value)
    except KeyError as error:
        raise RecordError(f"{path}: field {error.args[0]} is missing") from error
    except TypeError as error:
        raise RecordError(f"{path}: a field is of another kind than make oracle writes: {error}") from error


def _planned(path: Path, value: dict[str, Any]) -> Planned:
    planned = value["planned"]
    numbers = {
        name: _whole(path, name, planned[name])
        for name in (
            "weights_bytes",
            "activation_bytes",
            "requested_bytes",
            "pool_bytes",
            "block_tokens",
            "blocks",
            "longest_request_tokens",
            "most_requests",
            "most_batched_tokens",
        )
    }
    estimated = planned["graphs_estimated_bytes"]
    return Planned(
        path=path,
        runtime=value["runtime"],
        version=value["versions"][value["runtime"]],
        versions=value["versions"],
        card=value["card"]["label"],
        total_bytes=_whole(path, "card.total_bytes", value["card"]["total_bytes"]),
        model=value["model"],
        variant=value["variant"],
        eager=value["options"]["enforce_eager"],
        starts=_whole(path, "starts", value["starts"]),
        options=value["options"],
        graphs_estimated_bytes=None if estimated is None else _whole(path, "graphs_estimated_bytes", estimated),
        groups=tuple(Group(**group) for group in planned["groups"]),
        utilization=float(planned["utilization"]),
        prefix_caching=bool(planned["prefix_caching"]),
        flashinfer_prefill=any("Using FlashInfer GDN prefill kernel" in line for line in value["log"]),
        printed=printed(value["log"]),
        **numbers,
    )


def _whole(path: Path, name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise RecordError(f"{path}: {name} must be a whole number, got {value!r}")
    return value


# The words are those of vllm/v1/worker/gpu_model_runner.py, vllm/platforms/interface.py, vllm/v1/worker/gpu_worker.py
# and vllm/v1/core/kv_cache_utils.py, release 0.20.1.
_LINES = {
    "weights_gib": r"Model loading took (\d+(?:\.\d+)?) GiB",
    "block_tokens": r"attention block size to (\d+) tokens",
    "pool_gib": r"Available KV cache memory: (-?\d+(?:\.\d+)?) GiB",
    "cache_tokens": r"GPU KV cache size: ([\d,]+) tokens",
    "longest_request_tokens": r"Maximum concurrency for ([\d,]+) tokens per request",
    "concurrency": r"tokens per request: (\d+\.\d+)x",
    "graphs_gib": r"Graph capturing finished in \d+ secs, took (-?\d+\.\d+) GiB",
}


def printed(log: list[str]) -> Printed:
    """The figures of a log's lines; the last that says one counts."""
    found: dict[str, str] = {}
    for line in log:
        for name, pattern in _LINES.items():
            if match := re.search(pattern, line):
                found[name] = match[1]

    def count(name: str) -> int | None:
        return int(found[name].replace(",", "")) if name in found else None

    return Printed(
        weights_gib=found.get("weights_gib"),
        block_tokens=count("block_tokens"),
        pool_gib=found.get("pool_gib"),
        cache_tokens=count("cache_tokens"),
        longest_request_tokens=count("longest_request_tokens"),
        concurrency=found.get("concurrency"),
        graphs_gib=found.get("graphs_gib"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What formulas say of a model in a server: bytes of its weights and tables, and the blocks of its pool.

    weights_room_bytes: by how much the server's figure may be more, for the allocator's rounding. state_copies: that a
    request keeps of each group's states.
    """

    weights_bytes: int
    weights_room_bytes: int
    block_tokens: int
    block_bytes: int
    state_groups: int
    state_copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A quantity as the server has it and as a formula has it. room: by how much they may differ."""

    quantity: str
    server: int
    formula: int
    room: int = 0

    @property
    def agrees(self) -> bool:
        """Whether they are the same, or differ by no more than the room."""
        return abs(self.server - self.formula) <= self.room


def compared(planned: Planned, layout: Layout) -> tuple[Compared, ...]:
    """A record of vLLM beside formulas.

    Blocks are those of the pool that the server itself planned: the formula divides it, and does not foretell it. The
    tokens of the cache are what is printed, concurrency times the longest request (kv_cache_utils.py).
    """
    blocks = planned.pool_bytes // layout.block_bytes
    length = planned.longest_request_tokens
    request = -(-length // layout.block_tokens) + layout.state_groups * layout.state_copies
    found = [
        Compared(
            quantity="weights, bytes",
            server=planned.weights_bytes,
            formula=layout.weights_bytes,
            room=layout.weights_room_bytes,
        ),
        Compared(quantity="block, tokens", server=planned.block_tokens, formula=layout.block_tokens),
        Compared(quantity="block, bytes", server=planned.block_bytes, formula=layout.block_bytes),
        Compared(quantity="groups of states", server=planned.state_groups, formula=layout.state_groups),
        Compared(quantity="blocks", server=planned.blocks, formula=blocks),
    ]
    if planned.printed.cache_tokens is not None:
        tokens = blocks * length // request
        found.append(Compared(quantity="cache, tokens", server=planned.printed.cache_tokens, formula=tokens))
    return tuple(found)


def as_markdown(records: list[Planned]) -> list[str]:
    """The records as a table for people: what was asked, then what was planned, in GiB and counts."""
    head = "card", "model", "vLLM", "how", "weights", "peak", "pool", "block", "blocks", "sequences", "batched"
    rows = [
        (
            one.card,
            f"{one.model}, {one.variant}",
            one.version,
            ", ".join((_how(one), *_asked(one))),
            *(f"{size / 2**30:.2f}" for size in (one.weights_bytes, one.activation_bytes, one.pool_bytes)),
            *(f"{count:,}" for count in (one.block_tokens, one.blocks, one.most_requests, one.most_batched_tokens)),
        )
        for one in records
    ]
    return table(head, rows, words=4)


def _how(planned: Planned) -> str:
    """Eager, or with compiled graphs; of these the first start, which compiles, plans otherwise than a later one."""
    if planned.eager:
        return "eager"
    return "graphs" if planned.starts > 1 else "graphs, first start"


def _asked(planned: Planned) -> tuple[str, ...]:
    """What was asked beside the defaults."""
    words = {"max_model_len": "context {:,}", "gpu_memory_utilization": "utilization {:g}"}
    return tuple(text.format(planned.options[name]) for name, text in words.items() if name in planned.options)
