"""Puts replays through the allocator's rules, at random shapes, and stores what a device must have for each."""

import itertools
from collections.abc import Iterator, Sequence

from vram_ledger.analysis.allocation.rules import SEGMENT_STEP_BYTES, CachingAllocator, Usage
from vram_ledger.analysis.allocation.simulation import log_steps
from vram_ledger.analysis.derivation.derived_files import phases_of
from vram_ledger.analysis.derivation.replays import Replays
from vram_ledger.analysis.derivation.verify import random_shapes
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.predicting import program
from vram_ledger.analysis.predicting.simulated import Simulated, SimulatedPoint
from vram_ledger.harness.events import EventLog, live_bytes
from vram_ledger.harness.records import Configuration, Workload

Program = tuple[tuple[int, ...], tuple[int, ...]]  # see log_steps
MOST_GROWTH_BYTES = 180 * 2**30  # beyond it no card of today has the memory
MOST_BATCH, MOST_CONTEXT_TOKENS, MOST_CALLS = 64, 262_144, 8


def drawn(configuration: Configuration, sizes: Shapes, count: int, seed: int) -> Iterator[Workload]:
    """Random workloads of every phase, log-uniform in batch and context, that a card of today could hold."""
    chunk = configuration.prefill_chunk_tokens
    most = min(MOST_CONTEXT_TOKENS, chunk * MOST_CALLS) if chunk else MOST_CONTEXT_TOKENS
    for phase in phases_of(configuration):
        shapes = random_shapes(8 * count, MOST_BATCH, most, seed, least_context=chunk + 1)
        workloads = (
            Workload(configuration=configuration, phase=phase, context_tokens=s.context_tokens, batch=s.batch)
            for s in shapes
        )
        yield from itertools.islice((w for w in workloads if _held_by_some_card(sizes, w)), count)


def _held_by_some_card(sizes: Shapes, workload: Workload) -> bool:
    known = program.knows(sizes, workload.configuration)
    return not known or program.peak(sizes, workload).bytes <= MOST_GROWTH_BYTES


def simulated(replays: Replays, configuration: Configuration, workloads: Sequence[Workload]) -> Simulated:
    """The workloads of one configuration, each put through the rules."""
    points, resident = [], 0
    for workload in workloads:
        log = replays.log(workload)
        resident = sum(a.bytes for a in log.allocations if a.op == "resident")
        points.append(_point(workload, log))
    return Simulated(
        name="",
        environment=replays.environment,
        configuration=configuration,
        resident_bytes=resident,
        points=tuple(points),
    )


def _point(workload: Workload, log: EventLog) -> SimulatedPoint:
    program = log_steps(log)
    peak = _peak(log, program)
    assert peak is not None, "a device without a limit never fails"
    return SimulatedPoint(
        phase=workload.phase,
        batch=workload.batch,
        context_tokens=workload.context_tokens,
        requested_bytes=peak.requested_bytes,
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
        least_bytes=_least_bytes(log, program, peak.reserved_bytes),
    )


def _peak(log: EventLog, program: Program, capacity_bytes: int | None = None) -> Usage | None:
    """The peaks of a phase by the rules, given its log's steps; ``None`` where the device is too small.

    The harness gives back what is cached before a phase starts, and a serving program can do so, too.
    """
    steps, sizes = program
    allocator = CachingAllocator(capacity_bytes=capacity_bytes)
    if allocator.run(steps[: log.marks["start"]], sizes) is not None:
        return None
    allocator.empty_cache()
    allocator.reset_peak()
    failure = allocator.run(steps[log.marks["start"] : log.marks["end"]], sizes)
    return allocator.peak if failure is None else None


def _least_bytes(log: EventLog, program: Program, enough: int) -> int:
    """The smallest device by halving; whether a larger one also runs is not certain of a greedy allocator."""
    most_alive = max(live_bytes(log)[: log.marks["end"]])
    low, high = most_alive // SEGMENT_STEP_BYTES, -(-enough // SEGMENT_STEP_BYTES)
    while high - low > 1:
        middle = (low + high) // 2
        failed = _peak(log, program, middle * SEGMENT_STEP_BYTES) is None
        low, high = (middle, high) if failed else (low, middle)
    return high * SEGMENT_STEP_BYTES
