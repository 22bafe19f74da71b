"""Memory snapshots as ``torch.cuda.memory._dump_snapshot`` writes them, or as JSON: read, checked, of one device.

A snapshot has the segments and blocks at its end, and of every device the events before it. The keys are those of
``torch/csrc/cuda/memory_snapshot.cpp`` and ``torch/csrc/cuda/Module.cpp`` (torch 2.1 to 2.14).
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vram_ledger.analysis.allocation.frames import source_of
from vram_ledger.analysis.allocation.plain import HOW_TO_RECORD, SnapshotError, plain_values
from vram_ledger.analysis.allocation.rules import ADDRESSES, MIN_BLOCK_BYTES, SegmentAction
from vram_ledger.analysis.allocation.settings import BETWEEN_OPTIONS, NEUTRAL

Action = Literal["alloc", "free_requested", "free_completed", "oom", SegmentAction]
ACTIONS: tuple[str, ...] = get_args(Action)
SILENT_ACTIONS = ("snapshot", "annotate", "user_defined")  # they move no memory
MAPPING = ("segment_map", "segment_unmap")  # what expandable segments do instead of alloc and free
DEFAULT_POOL = (0, 0)

# Settings of the allocator by what they change. Others are refused where they are not at a neutral value.
NEUTRAL_KEYS = re.compile(r"pinned_\w+|release_lock_on_\w+|graph_capture_record_stream_reuse|expandable_segments")
CHOICE_KEYS = ("garbage_collection_threshold", "max_round_threshold", "max_cached_size")
OFF = (None, False, 0, -1, "", "N/A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event. number: its place in the device's events, from 0. size_bytes: as asked for, not rounded.

    address: of "oom" the bytes that the driver had free. time_us: microseconds of the recording's clock, if it has one.
    frame: the innermost Python frame outside torch as "folder/file.py:line function", "" where there is none.
    """

    number: int
    action: Action
    address: int
    size_bytes: int
    stream: int
    pool: tuple[int, ...]
    time_us: int | None
    frame: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBlock:
    """A block at the end. requested_bytes: ``None`` of a free one. pending: freed, but another stream may use it."""

    address: int
    bytes: int
    requested_bytes: int | None
    pending: bool
    frame: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSegment:
    """A segment at the end, and its blocks in order, without gaps."""

    address: int
    bytes: int
    small: bool
    stream: int
    pool: tuple[int, ...]
    blocks: tuple[RecordedBlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a file says of one device. events: how many it has, those that move no memory included.

    expandable: whether its segments are expandable ones, which are recorded as stretches of mapped memory. choices:
    settings by which the allocator chooses blocks in another way than the rules here, as "name=value".
    """

    device: int
    segments: tuple[RecordedSegment, ...]
    entries: tuple[Entry, ...]
    events: int
    expandable: bool
    choices: tuple[str, ...]


def read_snapshot(path: Path, device: int | None = None) -> Snapshot:
    """The snapshot in a file: pickle or JSON, packed by gzip or not; :class:`SnapshotError` if not whole.

    device: which one's events; needed where several have some.
    """
    return snapshot_of(plain_values(path), str(path), device)


def snapshot_of(data: Any, name: str, device: int | None = None) -> Snapshot:
    """The snapshot that plain values are; ``name`` is what errors call it."""
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("segments", "device_traces")):
        raise SnapshotError(f'{name}: no snapshot: it has no lists "segments" and "device_traces"; {HOW_TO_RECORD}')
    settings = data.get("allocator_settings") or {}
    choices = _choices(settings, name)
    segments = [_Fields(value, f"{name}: segments[{i}]") for i, value in enumerate(data["segments"])]
    chosen = _device(segments, data["device_traces"], device, name)
    own = sorted((s for s in segments if s.number("device", 0) == chosen), key=lambda s: s.number("address"))
    trace = data["device_traces"][chosen] if chosen < len(data["device_traces"]) else []
    at = f"{name}: device_traces[{chosen}]"
    read = (_entry(_Fields(value, f"{at}[{i}]"), i) for i, value in enumerate(trace))
    entries = tuple(entry for entry in read if entry is not None)
    return Snapshot(
        device=chosen,
        segments=tuple(_apart([_segment(fields) for fields in own], name)),
        entries=entries,
        events=len(trace),
        expandable=_is_expandable(settings.get("expandable_segments"), own, entries, name),
        choices=choices,
    )


# ---- what is in it ----


class _Fields:
    """One dictionary of the file. at: where it stands, for errors."""

    __slots__ = ("at", "values")

    def __init__(self, values: Any, at: str) -> None:
        if not isinstance(values, dict):
            raise SnapshotError(f"{at}: not a dictionary")
        self.values: dict[str, Any] = values
        self.at = at

    def number(self, name: str, default: int | None = None, most: int = ADDRESSES) -> int:
        """A whole number from 0 to ``most``."""
        value = self.values.get(name, default)
        if type(value) is not int or not 0 <= value <= most:
            raise SnapshotError(f"{self.at}: {name} is {_short(value)}, not a whole number from 0 to {most:,}")
        return value

    def word(self, name: str, words: tuple[str, ...]) -> str:
        """One of these words."""
        if (value := self.values.get(name)) not in words:
            raise SnapshotError(f"{self.at}: {name} is {_short(value)}, not one of {', '.join(words)}")
        return str(value)

    def pool(self, name: str) -> tuple[int, ...]:
        """The id of a memory pool; the default one's where there is none."""
        value = self.values.get(name) or DEFAULT_POOL
        if not isinstance(value, list | tuple) or any(type(part) is not int for part in value):
            raise SnapshotError(f"{self.at}: {name} is {_short(value)}, not the id of a pool")
        return tuple(value)

    def children(self, name: str) -> "Iterator[_Fields]":
        """The dictionaries of a list."""
        value = self.values.get(name)
        if not isinstance(value, list):
            raise SnapshotError(f"{self.at}: {name} is {_short(value)}, not a list")
        return (_Fields(child, f"{self.at}.{name}[{i}]") for i, child in enumerate(value))


def _short(value: Any) -> str:
    return (
        repr(value) if isinstance(value, int | float | str | None) and len(repr(value)) < 60 else type(value).__name__
    )


def _device(segments: list[_Fields], traces: list[Any], asked: int | None, name: str) -> int:
    """Which device it is about: the one that is asked for, else the only one with events, else with segments."""
    if bad := [i for i, trace in enumerate(traces) if not isinstance(trace, list)]:
        raise SnapshotError(f"{name}: device_traces[{bad[0]}] is not a list")
    traced = {i for i, trace in enumerate(traces) if trace}
    there = traced | {fields.number("device", 0) for fields in segments}
    if asked is not None:
        if asked not in there:
            listed = ", ".join(map(str, sorted(there))) or "none"
            raise SnapshotError(f"{name}: nothing of device {asked} in it; it has device {listed}")
        return asked
    among = traced or there
    if len(among) > 1:
        raise SnapshotError(
            f"{name}: it has devices {', '.join(map(str, sorted(among)))}; choose one: DEVICE=0, --device 0"
        )
    return next(iter(among), 0)


def _entry(fields: _Fields, number: int) -> Entry | None:
    """An event; ``None`` of one that moves no memory."""
    values = fields.values
    action = values.get("action")
    if action in SILENT_ACTIONS:
        return None
    time = values.get("time_us")
    entry = Entry(
        number=number,
        action=cast(Action, fields.word("action", ACTIONS)),
        address=fields.number("device_free" if action == "oom" and "device_free" in values else "addr"),
        size_bytes=fields.number("size"),
        stream=fields.number("stream", 0, 2**64),
        pool=fields.pool("pool_id"),
        time_us=time if type(time) is int else None,
        frame=source_of(values.get("frames")),
    )
    if entry.size_bytes == 0 and action != "oom":
        raise SnapshotError(f"{fields.at}: {action} of 0 bytes")
    return entry


def _segment(fields: _Fields) -> RecordedSegment:
    start = fields.number("address")
    blocks, at = [], start
    for child in fields.children("blocks"):
        if child.number("address", at) != at:
            raise SnapshotError(
                f"{child.at}: begins at {child.values['address']:#x}, and the one before ends at {at:#x}"
            )
        blocks.append(_block(child, at))
        at += blocks[-1].bytes
    segment = RecordedSegment(
        address=start,
        bytes=fields.number("total_size"),
        small=fields.word("segment_type", ("small", "large")) == "small",
        stream=fields.number("stream", 0, 2**64),
        pool=fields.pool("segment_pool_id"),
        blocks=tuple(blocks),
    )
    given = sum(b.bytes for b in blocks if b.requested_bytes is not None and not b.pending)
    if at - start != segment.bytes or given != fields.number("allocated_size", given):
        raise SnapshotError(f"{fields.at}: its blocks do not add up to total_size and allocated_size")
    return segment


def _block(fields: _Fields, address: int) -> RecordedBlock:
    state = fields.word("state", ("active_allocated", "active_pending_free", "active_awaiting_free", "inactive"))
    block = RecordedBlock(
        address=address,
        bytes=fields.number("size"),
        requested_bytes=None if state == "inactive" else fields.number("requested_size"),
        pending=state not in ("inactive", "active_allocated"),
        frame=source_of(fields.values.get("frames")),
    )
    if block.bytes == 0 or block.bytes % MIN_BLOCK_BYTES or (block.requested_bytes or 0) > block.bytes:
        raise SnapshotError(f"{fields.at}: {block.bytes} bytes, and {block.requested_bytes} of them requested")
    return block


def _apart(segments: list[RecordedSegment], name: str) -> list[RecordedSegment]:
    for before, after in pairwise(segments):
        if before.address + before.bytes > after.address:
            raise SnapshotError(f"{name}: the segments at {before.address:#x} and {after.address:#x} overlap")
    return segments


def _is_expandable(setting: Any, segments: list[_Fields], entries: tuple[Entry, ...], name: str) -> bool:
    """Whether a recording is one of expandable segments; refused where some are and some are not."""
    told = {bool(fields.values.get("is_expandable")) for fields in segments}
    told |= {entry.action in MAPPING for entry in entries if entry.action.startswith("segment")}
    told |= {bool(setting)} if setting is not None and told else set()
    if len(told) > 1:
        raise SnapshotError(f"{name}: expandable_segments was switched on or off on its way, or not for all segments")
    return True in told


def _choices(settings: Any, name: str) -> tuple[str, ...]:
    """Settings that change which block is chosen; those that change the size of blocks are refused."""
    if not isinstance(settings, Mapping):
        raise SnapshotError(f"{name}: allocator_settings is not a dictionary")
    found = []
    for key, value in settings.items():
        if str(key).endswith("ALLOC_CONF"):
            refused = [s for s in BETWEEN_OPTIONS.split(str(value)) if not _known_setting(s)]
        elif key == "roundup_power2_divisions":
            refused = [] if _all_off(value) else [f"{key}={_short(value)}"]
        else:
            neutral = value in OFF or NEUTRAL_KEYS.fullmatch(str(key)) or key in CHOICE_KEYS
            refused = [] if neutral else [f"{key}={_short(value)}"]
        if refused:
            raise SnapshotError(f"{name}: the allocator's setting {refused[0]} is not modelled")
        if key in CHOICE_KEYS and value not in OFF:
            found.append(f"{key}={value}")
    return tuple(found)


def _known_setting(text: str) -> bool:
    """Whether a "name:value" of the environment's variable changes nothing, or stands among the other settings too."""
    return bool(NEUTRAL.fullmatch(text)) or text.partition(":")[0] in ("expandable_segments", *CHOICE_KEYS)


def _all_off(value: Any) -> bool:
    """Whether a table of settings is 0 throughout; JSON has it as the text of a dictionary at times."""
    if isinstance(value, str) and value:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return False
    return all(own in OFF for own in value.values()) if isinstance(value, dict) else value in OFF
