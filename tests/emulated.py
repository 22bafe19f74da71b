"""An emulated card's results, made from a stored replay: what the program asks for, and a card's counters beside it.

The rounding and the context are made up. What a card of 80 GB could not hold is out of memory, as there: the first
workload of its kind has a line, larger ones have none.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from tests.conftest import BIG, ROOT
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import (
    AllocatorProbe,
    Environment,
    GuessedRead,
    Measured,
    Measurement,
    OutOfMemory,
    Peak,
    ResultsFile,
    Standard,
    Workload,
)

MIB = 2**20
WORKSPACE_BYTES, CONTEXT_BYTES, TOTAL_BYTES = 8_519_680, 424 * MIB, 81_153 * MIB
CARD = "a100-80gb"
GUESS = GuessedRead(source="transformers/masking_utils.py:1", bytes=8, count=1)


@functools.cache
def replay(grid: str = "default", model: str = BIG) -> ResultsFile:
    """The stored replay of a grid."""
    return read(next((ROOT / "results" / "fake-h200" / grid).glob(f"{model}.fake.*.jsonl")))


def environment(device: str = "emulated", card: str = CARD) -> Environment:
    """The environment of an emulated card, or of the card itself, with the program of the stored replay."""
    return dataclasses.replace(
        replay().environment,
        device=device,  # type: ignore[arg-type]
        gpu_label=card if device == "cuda" else f"{device}-{card}",
        gpu_name="NVIDIA A100-SXM4-80GB",
        gpu_total_bytes=TOTAL_BYTES,
        gpu_capability="8.0",
        cuda="13.0",
        torch="2.14.1+cu130",
        triton="3.8.0",
        gpu_multiprocessors=108,
        emulation="0123456789ab" if device == "emulated" else None,
        gpu_uuid="0c1e" if device == "cuda" else None,
        driver="580.1" if device == "cuda" else None,
    )


def emulated(
    results: ResultsFile | None = None,
    *,
    total_bytes: int = TOTAL_BYTES,
    device: str = "emulated",
    change: Callable[[Workload, Measured], Measured] = lambda w, m: m,
) -> ResultsFile:
    """A replay's results as a card of so much memory gives them; ``change`` is done to every point that ran."""
    own = results or replay()
    refused: list[Workload] = []
    lines = []
    for line in own.measurements:
        assert isinstance(line.outcome, Measured)
        as_on_card, w = counted(line.outcome), line.workload
        process = as_on_card.warm.process_bytes
        if process is not None and process > total_bytes:
            if not any(_larger(w, other) for other in refused):
                refused.append(w)
                lines.append(dataclasses.replace(line, outcome=out_of_memory(as_on_card)))
        else:
            lines.append(dataclasses.replace(line, outcome=change(w, as_on_card)))
    return ResultsFile(
        path=Path(f"{BIG}.{device}.jsonl"),
        environment=dataclasses.replace(
            environment(device), grid_sha256=own.environment.grid_sha256, config_sha256=own.environment.config_sha256
        ),
        measurements=tuple(lines),
        standards=(standard("start"), standard("end")),
    )


def _larger(w: Workload, other: Workload) -> bool:
    alike = (w.configuration, w.phase) == (other.configuration, other.phase)
    return alike and w.batch >= other.batch and w.context_tokens >= other.context_tokens


def counted(replayed: Measured) -> Measured:
    """A replayed point with a workspace in its baseline, the allocator's rounding, and a context around it."""
    requested = replayed.warm.requested_bytes + WORKSPACE_BYTES
    allocated = -(-requested // 512) * 512
    reserved = -(-allocated // (2 * MIB)) * 2 * MIB + 20 * MIB
    process = reserved + CONTEXT_BYTES
    peak = Peak(
        requested_bytes=requested,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        process_bytes=process,
        device_bytes=process,
    )
    return dataclasses.replace(
        replayed,
        baseline_bytes=replayed.baseline_bytes + WORKSPACE_BYTES,
        held_bytes=replayed.held_bytes + WORKSPACE_BYTES,
        cold=peak,
        warm=peak,
        tuned=False,
        neighbour_bytes=0,
    )


def out_of_memory(point: Measured, during: str = "cold") -> OutOfMemory:
    """What is left of a point on a card that is too small for it."""
    return OutOfMemory(during=during, asked_bytes=2**30, free_bytes=2**20, requested_bytes=point.held_bytes)


def standard(when: str, workspace_bytes: int = WORKSPACE_BYTES) -> Standard:
    """A check standard's reading."""
    probes = (AllocatorProbe(asked_bytes=1, allocated_bytes=512, reserved_bytes=2 * MIB),)
    return Standard(when=when, probes=probes, workspace_bytes=workspace_bytes, context_bytes=CONTEXT_BYTES)  # type: ignore[arg-type]


def changed(line: Measurement, **fields: object) -> Measurement:
    """A line with other fields in what was measured."""
    assert isinstance(line.outcome, Measured)
    return dataclasses.replace(line, outcome=dataclasses.replace(line.outcome, **fields))  # type: ignore[arg-type]
