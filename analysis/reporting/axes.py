"""What the axes of all figures share: ticks and how their numbers read, and the lines that are drawn over contexts."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from vram_ledger.analysis.reporting.drawing import End, Heading
from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.harness.records import Phase, Workload

GB = 10**9
DENSE = 65  # points of a formula's line
MOST_LINES = 8  # batches in one picture
KINDS = {"prefill": "Prefill", "decode": "Decode step"}


def heading(part: Part, title: str) -> Heading:
    """What stands above a figure of a part."""
    return Heading(title=title, subject=part.subject, banner=part.kind.banner, role=part.kind.role)


def tokens_text(tokens: float) -> str:
    """Tokens as people say them: 512, 4K, 256K, 1M where these are exact, 100,001 otherwise."""
    whole = int(tokens)
    for size, unit in ((2**20, "M"), (2**10, "K")):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole:,}"


def gb_text(size: float) -> str:
    """Bytes as GB or TB with as many digits as an axis needs: 0.5 GB, 60 GB, 2 TB."""
    return f"{size / 1000 / GB:g} TB" if size >= 1000 * GB else f"{size / GB:g} GB"


def range_text(name: str, ends: Sequence[tuple[int, float]]) -> str:
    """A line in words, by its first and its last point: "batch 1: 55.0 GB at 512 tokens to 72.3 GB at 262,144"."""
    (first, low), (last, high) = ends[0], ends[-1]
    start = f"{name}: {low / GB:,.1f} GB at {first:,} tokens"
    return start if first == last else f"{start} to {high / GB:,.1f} GB at {last:,}"


def context_axis(axes: Axes, contexts: Sequence[int]) -> None:
    """Contexts on a logarithmic axis, with ticks at powers of two, or at the contexts where there are none near."""
    axes.set_xscale("log", base=2)
    low, high = contexts[0] / 1.3, contexts[-1] * 1.3
    powers = [float(2**n) for n in range(31) if low <= 2**n <= high]
    ticks = powers[:: -max(1, -(-len(powers) // 5))] if len(powers) > 1 else [float(c) for c in some(contexts, 3)]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(round(value))))
    axes.set_xlabel("context, tokens (K = 1,024)")


def bytes_axis(axes: Axes, low: float, high: float, log: bool) -> None:
    """Bytes upwards, in GB; logarithmic ticks at 1, 2 and 5."""
    if log:
        axes.set_yscale("log")
        ticks = [m * 10.0**e for e in range(6, 16) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: gb_text(value)))
    axes.set_ylim(low, high)
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=5)


def some(values: Sequence[int], most: int = MOST_LINES) -> list[int]:
    """All of them, or as many as a picture can tell apart, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def answers(
    part: Part, phase: Phase, batch: int, peak: Callable[[Workload], int | None], contexts: Sequence[int]
) -> list[tuple[int, int]]:
    """Contexts and bytes of a smooth line, without the shapes that a formula does not answer."""
    dense = sorted({round(c) for c in np.geomspace(contexts[0], contexts[-1], DENSE)})
    found = [(c, peak(part.workload(phase, c, batch))) for c in dense]
    return [(c, value) for c, value in found if value is not None]


def draw_line(axes: Axes, points: Sequence[tuple[int, float]], **look: object) -> None:
    """A line through points; where there is one point only, a dash at it."""
    alone = {"marker": "_", "markersize": 14, "markeredgewidth": 1.8} if len(points) == 1 else {}
    axes.plot([x for x, _ in points], [y for _, y in points], **look, **alone)  # type: ignore[arg-type]


def card_line(axes: Axes, part: Part, low: float, high: float) -> list[End]:
    """The card's memory, where the axis reaches it, as a line; its label is for the line's end."""
    memory = part.campaign.gpu_bytes
    if memory is None or not low <= memory <= high:
        return []
    axes.axhline(memory, color=LIGHT["card"], linewidth=1.1, linestyle=(0, (5, 2.5)))
    return [End(y=memory, text=f"card, {memory / GB:.0f} GB", colour=LIGHT["card"])]


def card_caption(part: Part, drawn: Sequence[End]) -> str:
    """What the card's line is, where it is drawn."""
    memory = part.campaign.gpu_bytes
    return f"Dashed: the card's memory, {memory / 2**30:.0f} GiB. " if drawn and memory else ""
