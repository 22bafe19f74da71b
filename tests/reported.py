"""A campaign of any size to report on, and the report of it."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from tests.synthetic import ENVIRONMENT, SHAPES, campaign, workload, write
from vram_ledger.analysis.calibrating.calibration import make_calibration, write_calibration
from vram_ledger.analysis.estimating.breakdown import QUANTITIES
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.analysis.predicting.capacity import Frontier, Largest
from vram_ledger.harness.records import PHASES, Measured, Outcome, OutOfMemory, Peak, Phase, ResultsFile, Workload

BATCHES = (1, 2, 4, 8)
OOM = OutOfMemory(during="warm", asked_bytes=10**9, free_bytes=0, requested_bytes=84 * 10**9)


def points(contexts: int, batches: int) -> list[Workload]:
    """Both phases over so many contexts and batches."""
    return [
        workload(phase, batch, 512 + 3001 * i)
        for phase in PHASES
        for i in range(contexts)
        for batch in range(1, batches + 1)
    ]


def stored(folder: Path, results: ResultsFile | None = None, calibrated: bool = True) -> Path:
    """A results file of the synthetic campaign in a folder, with its calibration beside it."""
    own = results or campaign()
    if calibrated:
        made = make_calibration(own, all_fitted_terms(own), judge(own, SHAPES), "qwen3.5-27b.calibration.json")
        write_calibration(made, folder / made.name)
    return write(own, folder / "qwen3.5-27b.jsonl")


def of_a_card(refused: Collection[tuple[int, int]] = ()) -> ResultsFile:
    """The synthetic campaign as a card has it: all five counters, a GiB apart, and these (batch, context) refused."""
    own = campaign(environment=dataclasses.replace(ENVIRONMENT, device="cuda", gpu_label="h100"))
    lines = tuple(
        dataclasses.replace(
            m, outcome=OOM if (m.workload.batch, m.workload.context_tokens) in refused else _counted(m.outcome)
        )
        for m in own.measurements
    )
    return dataclasses.replace(own, measurements=lines)


def _counted(outcome: Outcome) -> Measured:
    assert isinstance(outcome, Measured)
    warm, cold = (
        Peak(
            **{f"{name}_bytes": outcome.warm.requested_bytes + (more + n) * 2**30 for n, name in enumerate(QUANTITIES)}
        )
        for more in (0, 7)
    )
    return dataclasses.replace(outcome, warm=warm, cold=cold)


def frontiers(phase: Phase = "prefill") -> tuple[Frontier, ...]:
    """Frontiers that were made up: two cards alike, a larger one, one that holds nothing."""

    def of(gpu: str, certain: tuple[int, ...], possible: tuple[int, ...]) -> Frontier:
        ends = zip(BATCHES, certain, possible, strict=True)
        contexts = tuple(Largest(at=b, certain=c, possible=p, most=300_000) for b, c, p in ends)
        return Frontier(gpu=gpu, phase=phase, chunk_tokens=0, contexts=contexts, batches=(), words=("replayed",))

    small = ((40_000, 20_000, 9_000, 0), (44_000, 22_000, 11_000, 900))
    return (
        of("h100", *small),
        of("a100-80gb", *small),
        of("h200", (300_000, 150_000, 75_000, 36_000), (300_000, 150_000, 75_000, 36_000)),
        of("l4", (0, 0, 0, 0), (0, 0, 0, 0)),
    )
