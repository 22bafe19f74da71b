"""The lines of a results file: writing one, and reading them all, checked against each other and their own kind.

A results file is JSON lines: the first line is the :class:`Environment`, every other one a :class:`Measurement`, a
:class:`Standard`, a :class:`Probe` or an :class:`Edge`. One file holds one environment.

Schema history
    1  the first published layout
    2  emulated cards; what was added since has a default, so that lines of schema 1 are still read
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vram_ledger.harness.records import (
    KINDS,
    DeviceKind,
    Edge,
    Environment,
    Fits,
    Measured,
    Measurement,
    OutOfMemory,
    Peak,
    Probe,
    RecordError,
    ResultsFile,
    Standard,
    Workload,
    decode,
    encode,
)

Line = Environment | Measurement | Standard | Probe | Edge
LINES = {"environment", "measurement", "standard", "probe", "edge"}

SCHEMA = 2
READABLE = (1, 2)
MOST = 2**60  # of anything: bytes, tokens, seconds


def to_line(record: Line) -> str:
    """One line of a results file, newline included; the environment's line carries the schema."""
    data = encode(record)
    if isinstance(record, Environment):
        data = {"schema": SCHEMA, **data}
    return json.dumps(data, separators=(",", ":")) + "\n"


def complete_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each finished line. A last line without a newline was being written when its writer died."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith("\n"):
                yield number, line


def from_line(line: str, where: str) -> Line:
    """The record of one line; :class:`RecordError` starts with ``where``."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise RecordError(f"{where}: no record has such numbers or is nested so deep") from error
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in LINES:
        raise RecordError(f"{where}: unknown kind {kind!r}")
    if kind == "environment":
        schema = data.pop("schema", None)
        if schema not in READABLE:
            raise RecordError(f"{where}: schema {schema!r}, but this version reads schema {READABLE[0]} to {SCHEMA}")
    record: Line = decode(KINDS[kind], data, where)
    _in_bounds(data, where)
    return record


def _in_bounds(data: Any, where: str) -> None:
    """Every number is one that there can be: none is negative or absurd, and there is no empty batch or context."""
    if isinstance(data, dict):
        for name, value in data.items():
            _in_bounds(value, f"{where}.{name}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            _in_bounds(value, f"{where}[{number}]")
    elif type(data) in (int, float):
        least = 1 if where.endswith((".batch", ".context_tokens", ".most_tokens")) else 0
        if not least <= data <= MOST:
            raise RecordError(f"{where}: expected {least} to 2^60, got {str(data)[:32]}")


CARDS: tuple[DeviceKind, ...] = ("cuda", "emulated")

# What every environment of a kind has, and what none has.
_HAS: dict[DeviceKind, tuple[str, ...]] = {
    "cuda": ("gpu_name", "gpu_uuid", "gpu_total_bytes", "gpu_capability", "driver", "cuda"),
    "emulated": ("emulation", "gpu_name", "gpu_total_bytes", "gpu_capability"),
    "fake": (),
    "cpu": (),
}
_HAS_NOT: dict[DeviceKind, tuple[str, ...]] = {
    "cuda": ("emulation",),
    "emulated": (),
    "fake": ("emulation", "gpu_uuid", "gpu_total_bytes", "driver"),
    "cpu": ("emulation", "gpu_uuid", "gpu_total_bytes", "driver"),
}


def _check_kind(environment: Environment, where: str) -> None:
    """:class:`RecordError` where an environment contradicts its own kind of device."""
    kind, label = environment.device, environment.gpu_label
    for name in _HAS[kind]:
        if getattr(environment, name) is None:
            raise RecordError(f"{where}.{name}: null, but every {kind} environment has one")
    for name in _HAS_NOT[kind]:
        if (value := getattr(environment, name)) is not None:
            raise RecordError(f"{where}.{name}: {value!r}, but no {kind} environment has one")
    for pretended in ("emulated", "fake"):
        if label.startswith(f"{pretended}-") != (kind == pretended):
            raise RecordError(f"{where}.gpu_label: {label!r}, but the device is {kind!r}")


def _check_bytes(measured: Measured, kind: DeviceKind, where: str) -> None:
    """:class:`RecordError` where bytes contradict each other, or count what this kind of device can't count."""
    m = measured
    _in_order({"weights_bytes + buffers_bytes": m.weights_bytes + m.buffers_bytes, "baseline_bytes": m.baseline_bytes,
               "held_bytes": m.held_bytes}, where)  # fmt: skip
    for name, peak in (("cold", m.cold), ("warm", m.warm)):
        if peak is not None:
            _check_peak(name, peak, {"held_bytes": m.held_bytes}, kind, where)


def _check_peak(name: str, peak: Peak, least: dict[str, int], kind: DeviceKind, where: str) -> None:
    for counter in ("allocated_bytes", "reserved_bytes"):
        if (getattr(peak, counter) is not None) != (kind in CARDS):
            given = "null, but every" if getattr(peak, counter) is None else "given, but no"
            raise RecordError(f"{where}.{name}.{counter}: {given} {kind} measurement has it")
    counters = ("requested_bytes", "allocated_bytes", "reserved_bytes")
    named = {f"{name}.{c}": value for c in counters if (value := getattr(peak, c)) is not None}
    _in_order(least | named, where)


def _check_probes(records: dict[int, Line], kind: DeviceKind, path: Path) -> None:
    """:class:`RecordError` where a probe's bytes contradict each other, or an edge the probes before it."""
    found: dict[tuple[Workload, bool], bool] = {}
    for number, record in records.items():
        where = f"{path}:{number}"
        if isinstance(record, Probe | Edge) and kind not in CARDS:
            raise RecordError(f"{where}: no {kind} device has memory that ends, so there is no boundary to be found")
        if isinstance(record, Probe) and isinstance(record.outcome, Fits):
            _check_peak("peak", record.outcome.peak, {"baseline_bytes": record.outcome.baseline_bytes}, kind, where)
        if isinstance(record, Probe) and isinstance(record.outcome, Fits | OutOfMemory):
            found[record.workload, record.fresh] = isinstance(record.outcome, Fits)
        elif isinstance(record, Edge):
            _check_edge(record, found, where)


def _check_edge(edge: Edge, found: dict[tuple[Workload, bool], bool], where: str) -> None:
    _in_order({"fits_tokens": edge.fits_tokens, "most_tokens": edge.most_tokens}, where)
    fresh = []
    for tokens, fits in edge.beside.items():
        if found.get((edge.at(tokens), False)) is not fits:
            raise RecordError(
                f"{where}.fits_tokens: {edge.fits_tokens:,}, but no probe above it says that {tokens:,} tokens "
                f"{'fit' if fits else 'do not fit'}"
            )
        fresh.append(found.get((edge.at(tokens), True)) is fits)
    if all(fresh) is not edge.confirmed:
        raise RecordError(f"{where}.confirmed: {edge.confirmed}, but the fresh probes above it say otherwise")


def _in_order(rising: dict[str, int], where: str) -> None:
    for (below, less), (above, more) in zip(rising.items(), list(rising.items())[1:], strict=False):
        if more < less:
            raise RecordError(f"{where}.{above}: {more:,}, but it is never less than {below}, which is {less:,}")


def read(path: Path) -> ResultsFile:
    """A results file, its unfinished last line left out; :class:`RecordError` for anything else not as written.

    Its notes say that a line was cut, and which are there twice.
    """
    lines = dict(complete_lines(path))
    records = [from_line(line, f"{path}:{number}") for number, line in lines.items()]
    if not records or not isinstance(records[0], Environment):
        raise RecordError(f"{path}: the first line is not an environment; is this a results file?")
    if extra := [i for i, r in enumerate(records[1:], start=2) if isinstance(r, Environment)]:
        raise RecordError(f"{path}:{extra[0]}: a second environment; one file holds one environment")
    _check_kind(records[0], f"{path}:1")
    _check_probes(dict(zip(lines, records, strict=True)), records[0].device, path)
    for number, record in zip(lines, records, strict=True):
        if isinstance(record, Measurement) and isinstance(record.outcome, Measured):
            _check_bytes(record.outcome, records[0].device, f"{path}:{number}.outcome")
    return ResultsFile(
        path=path,
        environment=records[0],
        measurements=tuple(r for r in records if isinstance(r, Measurement)),
        standards=tuple(r for r in records if isinstance(r, Standard)),
        notes=_notes(path, lines),
        probes=tuple(r for r in records if isinstance(r, Probe)),
        edges=tuple(r for r in records if isinstance(r, Edge)),
    )


def _notes(path: Path, lines: dict[int, str]) -> tuple[str, ...]:
    """What a reader should know of lines that are cut or repeated."""
    notes = []
    if path.stat().st_size > sum(len(line.encode()) for line in lines.values()):
        notes.append(f"{path}: the last line is cut, 1 measurement lost")
    first: dict[str, int] = {}
    twice = [(n, first[line]) for n, line in lines.items() if first.setdefault(line, n) != n and "standard" not in line]
    notes += [f"{path}:{number}: the same measurement as line {earlier}, counted once" for number, earlier in twice]
    return tuple(notes)
