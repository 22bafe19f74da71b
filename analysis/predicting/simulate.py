"""Puts replays through the allocator's rules, at random shapes, and stores what a device must have for each."""

from collections.abc import Iterator
from typing import Annotated

import typer

from analysis.allocation.rules import AllocationFailure
from analysis.allocation.simulation import simulate
from analysis.derivation.derive_cli import FakeOption, ModelOption, ResultsOption, random_shapes
from analysis.derivation.derived_files import configuration_of, phases_of, variant_of
from analysis.derivation.replays import ROOT, Replays, model_name, replaying
from analysis.predicting.simulated import Simulated, SimulatedPoint, write_simulated
from harness.events import EventLog, live_bytes
from harness.records import Configuration, Phase, Workload

STEP_BYTES = 2 * 2**20  # a segment is a whole number of these
MOST_TOKENS = 2**20  # of all sequences together: beyond it no card of today holds the smallest model's prefill
MOST_BATCH, MOST_CONTEXT_TOKENS, MOST_CALLS = 64, 262_144, 16


def simulate_allocator(
    model: ModelOption = "qwen3.5-27b",
    variant: Annotated[list[str] | None, typer.Option(help='Such as "text-chunk8192"; else default.')] = None,
    fake: FakeOption = "h200",
    shapes: Annotated[int, typer.Option(help="Random shapes a phase.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the shapes.")] = 5,
    results: ResultsOption = ROOT / "results",
) -> None:
    """Store what a device must have for random shapes of a model, by the caching allocator's rules."""
    for name in variant or ("default",):
        configuration = configuration_of(model_name(model), name)
        with replaying(model, fake, configuration.model_class) as replays:
            found = simulated(replays, configuration, shapes, seed)
        path = results / found.environment.gpu_label / "simulated" / f"{configuration.model}.{name}.json"
        write_simulated(found, path)
        typer.echo(f"wrote {path} ({len(found.points)} points of {variant_of(configuration)})")


def simulated(replays: Replays, configuration: Configuration, shapes: int, seed: int) -> Simulated:
    """Random shapes of every phase of a configuration, each put through the rules."""
    logs = [
        (phase, workload, replays.log(workload))
        for phase in phases_of(configuration)
        for workload in _workloads(configuration, phase, shapes, seed)
    ]
    return Simulated(
        name="",
        environment=replays.environment,
        configuration=configuration,
        resident_bytes=sum(a.bytes for a in logs[0][2].allocations if a.op == "resident"),
        points=tuple(_point(phase, workload, log) for phase, workload, log in logs),
    )


def _workloads(configuration: Configuration, phase: Phase, count: int, seed: int) -> Iterator[Workload]:
    chunk = configuration.prefill_chunk_tokens
    most = min(MOST_CONTEXT_TOKENS, chunk * MOST_CALLS) if chunk else MOST_CONTEXT_TOKENS
    drawn = random_shapes(8 * count, MOST_BATCH, most, seed, least_context=chunk + 1)
    few = [s for s in drawn if s.batch * s.context_tokens <= MOST_TOKENS]
    for shape in few[:count]:
        yield Workload(configuration=configuration, phase=phase, context_tokens=shape.context_tokens, batch=shape.batch)


def _point(phase: Phase, workload: Workload, log: EventLog) -> SimulatedPoint:
    start, end = log.marks["start"], log.marks["end"]
    whole = simulate(log, start, end)
    assert not isinstance(whole, AllocationFailure), "a device without a limit never fails"
    peak = whole.peak
    return SimulatedPoint(
        phase=phase,
        batch=workload.batch,
        context_tokens=workload.context_tokens,
        requested_bytes=peak.requested_bytes,
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
        least_bytes=_least_bytes(log, max(live_bytes(log)[:end]), whole.peak.reserved_bytes),
    )


def _least_bytes(log: EventLog, too_few: int, enough: int) -> int:
    """The smallest device by halving; whether a larger one also runs is not certain of a greedy allocator."""
    start, end = log.marks["start"], log.marks["end"]
    low, high = too_few // STEP_BYTES, -(-enough // STEP_BYTES)
    while high - low > 1:
        middle = (low + high) // 2
        failed = isinstance(simulate(log, start, end, capacity_bytes=middle * STEP_BYTES), AllocationFailure)
        low, high = (middle, high) if failed else (low, middle)
    return high * STEP_BYTES
