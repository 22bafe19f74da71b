"""A campaign of any size to report on, and the report of it."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from tests.synthetic import SHAPES, campaign, on_card, workload, write
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
    own = campaign(environment=on_card(campaign()).environment)
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


def rooms_of_all_kinds() -> tuple[Frontier, ...]:
    """Frontiers of a prefill, one in chunks, and a decode: of cards that hold it whole, in chunks, perhaps, or not."""
    ends = {
        "h200": ((300_000, 300_000), (300_000, 300_000), (300_000, 300_000)),
        "h100": ((70_000, 70_000), (200_000, 280_000), (300_000, 300_000)),
        "a100-40gb": ((40_000, 40_000), (200_000, 200_000), (20_000, 20_000)),
        "rtx-4090": ((0, 0), (0, 0), (0, 0)),
    }
    kinds: tuple[tuple[Phase, int], ...] = (("prefill", 0), ("prefill", 2048), ("decode", 0))
    return tuple(
        frontier_of(gpu, phase, chunk, (Largest(at=1, certain=certain, possible=possible, most=300_000),))
        for gpu, own in ends.items()
        for (phase, chunk), (certain, possible) in zip(kinds, own, strict=True)
    )


def frontier_of(gpu: str, phase: Phase, chunk_tokens: int, contexts: tuple[Largest, ...]) -> Frontier:
    """A frontier that was made up, of replays."""
    return Frontier(gpu=gpu, phase=phase, chunk_tokens=chunk_tokens, contexts=contexts, batches=(), words=("replayed",))


def frontiers(phase: Phase = "prefill") -> tuple[Frontier, ...]:
    """Frontiers that were made up: two cards alike, a larger one, one that holds nothing."""

    def of(gpu: str, certain: tuple[int, ...], possible: tuple[int, ...]) -> Frontier:
        ends = zip(BATCHES, certain, possible, strict=True)
        contexts = tuple(Largest(at=b, certain=c, possible=p, most=300_000) for b, c, p in ends)
        return frontier_of(gpu, phase, 0, contexts)

    small = ((40_000, 20_000, 9_000, 0), (44_000, 22_000, 11_000, 900))
    return (
        of("h100", *small),
        of("a100-80gb", *small),
        of("h200", (300_000, 150_000, 75_000, 36_000), (300_000, 150_000, 75_000, 36_000)),
        of("l4", (0, 0, 0, 0), (0, 0, 0, 0)),
    )
