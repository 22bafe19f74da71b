"""Holds a formula against replays of random shapes, to the byte."""

from typing import Any

import numpy as np

from vram_ledger.analysis.derivation.derive import Runs
from vram_ledger.analysis.derivation.forms import Shape
from vram_ledger.analysis.derivation.program import Program
from vram_ledger.analysis.ground.files import with_rows
from vram_ledger.errors import InputError
from vram_ledger.harness.events import live_bytes, peak_event


def random_shapes(count: int, most_batch: int, most_context: int, seed: int, least_context: int = 1) -> list[Shape]:
    """Distinct shapes, log-uniform in both axes, so that short contexts are among them; all there are, if fewer.

    :class:`InputError` if the shortest context is longer than the longest.
    """
    if least_context > most_context:
        raise InputError(f"contexts from {least_context:,} to {most_context:,} tokens are none")
    count = min(count, most_batch * (most_context - least_context + 1))
    chance = np.random.default_rng(seed)
    found: dict[Shape, None] = {}
    while len(found) < count:
        low, high = np.log([1, least_context]), np.log([most_batch + 1, most_context + 1])
        b, c = np.exp(chance.uniform(low, high)).astype(int).tolist()
        found[Shape(batch=min(b, most_batch), context_tokens=min(max(c, least_context), most_context))] = None
    return list(found)


def compared(program: Program, runs: Runs, shape: Shape) -> dict[str, int]:
    """One shape: what the replay counted, and the formula less that, in bytes."""
    log, _ = runs.whole(shape)
    _, peak = peak_event(log, log.marks["start"], log.marks["end"])
    held = live_bytes(log)[log.marks["end"] - 1]
    at = shape.batch, shape.context_tokens
    resident = program.derived.build.resident_bytes
    return {
        "batch": at[0],
        "context_tokens": at[1],
        "peak_bytes": peak,
        "held_bytes": held,
        "peak_difference": program.peak_bytes(*at) - resident - peak,
        "held_difference": program.held_bytes(*at) - resident - held,
    }


def check_text(program: Program, rows: list[dict[str, int]], seed: int, wrong: int) -> str:
    """The JSON of a check: what was held against what, a row a shape. ``wrong``: the largest difference in bytes."""
    names = list(rows[0])
    head: dict[str, Any] = {
        "formula": program.derived.name,
        "seed": seed,
        "shapes": len(rows),
        "not_multiples_of_64": sum(r["context_tokens"] % 64 > 0 for r in rows),
        "largest_difference_bytes": wrong,
        "columns": names,
    }
    return with_rows(head, rows=([r[n] for n in names] for r in rows))
