"""The tables of a campaign's measurements, for people; every byte is in the results file."""

from collections import Counter
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vram_ledger.harness.grid import images_text
from vram_ledger.harness.records import (
    Configuration,
    Failure,
    Measured,
    Measurement,
    Outcome,
    OutOfMemory,
    Peak,
    ResultsFile,
)

GIB = 2**30
Reading = Callable[[Peak], int | None]
READINGS: dict[str, Reading] = {
    "requested": lambda peak: peak.requested_bytes,
    "allocated": lambda peak: peak.allocated_bytes,
    "reserved": lambda peak: peak.reserved_bytes,
}


def measurements_tables(results: ResultsFile) -> RenderableType:
    """For each configuration a heading, and a table for each phase and counter: contexts down, batches across."""
    last = {m.workload: m for m in results.measurements if m.repeat == 0}
    groups: dict[Configuration, dict[str, list[Measurement]]] = {}
    for workload, measurement in last.items():
        groups.setdefault(workload.configuration, {}).setdefault(workload.phase, []).append(measurement)
    fake = results.environment.device == "fake"
    readings = {"requested": READINGS["requested"]} if fake else READINGS
    where = f"{results.environment.gpu_label}{', REPLAYED, not measured on a card' if fake else ''}"
    parts: list[RenderableType] = []
    for configuration, phases in groups.items():
        parts.append(Text(f"\n{configuration_text(configuration)}", style="bold"))
        for phase, measurements in sorted(phases.items(), reverse=True):
            parts += _tables(phase, measurements, readings, where)
    return Group(*parts)


def _tables(
    phase: str, measurements: list[Measurement], readings: dict[str, Reading], where: str
) -> Iterator[RenderableType]:
    batches = sorted({m.workload.batch for m in measurements})
    outcomes = {(m.workload.context_tokens, m.workload.batch): m.outcome for m in measurements}
    for name, reading in readings.items():
        yield Text(f"{phase} peak, {name}, GiB ({where})", style="yellow" if "REPLAYED" in where else "")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("tokens", justify="right", no_wrap=True)
        for batch in batches:
            table.add_column(f"batch {batch}", justify="right", no_wrap=True)
        for context in sorted({context for context, _ in outcomes}):
            table.add_row(f"{context:,}", *(_cell(outcomes.get((context, batch)), reading) for batch in batches))
        yield table
    yield Text(f"at the peak: {_sites(measurements)}\n", style="dim")


def configuration_text(c: Configuration) -> str:
    """A configuration in words, for people."""
    chunk = f", chunks of {c.prefill_chunk_tokens:,}" if c.prefill_chunk_tokens else ""
    images = f", images {images_text(c.images)}" if c.images else ""
    return f"{c.model}, {c.model_class}, {c.dtype}, {c.kernels} kernels, {c.attention}, {c.kept_text}{chunk}{images}"


def _sites(measurements: list[Measurement]) -> str:
    sites = Counter(
        m.outcome.site.stage + (f"/{m.outcome.site.op}" if m.outcome.site.op else "")
        for m in measurements
        if isinstance(m.outcome, Measured)
    )
    return ", ".join(f"{site} ({count} of {len(measurements)})" for site, count in sites.most_common()) or "nothing ran"


def _cell(outcome: Outcome | None, reading: Reading) -> str:
    match outcome:
        case Measured():
            count = reading(outcome.warm)
            return "n/a" if count is None else f"{count / GIB:.3f}"
        case OutOfMemory():
            return "no memory"
        case Failure():
            return outcome.reason
    return "-"
