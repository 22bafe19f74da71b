"""The figures of one configuration, one function each: peaks, estimators, breakdown."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.estimators.catalogue import ESTIMATORS
from analysis.reporting.drawing import SMALL, Drawing, Heading, Panel
from analysis.reporting.palette import LIGHT, ramp
from analysis.reporting.part import SEGMENTS, Part, chosen, ledger
from harness.records import Phase, Workload

GB = 10**9
SHOWN = ("fitmygpu", "hf-mem", "accelerate-inference", "nyxkrage", "canitrun")
ESTIMATOR_LINES = (("orange", "-"), ("green", "--"), ("purple", "-."), ("gold", (0, (1, 1.2))), ("grey", "--"))
SEGMENT_COLOURS = ("grey", "blue", "green", "gold", "purple", "orange")
DENSE = 65  # points of a formula's line
MOST_LINES = 8  # batches in one picture
KINDS = {"prefill": "Prefill", "decode": "Decode step"}


def heading(part: Part, title: str) -> Heading:
    """What stands above a figure of a part."""
    return Heading(title=title, subject=part.subject, banner=part.banner)


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


def context_axis(axes: Axes, contexts: Sequence[int]) -> None:
    """Contexts on a logarithmic axis, with ticks at powers of two."""
    axes.set_xscale("log", base=2)
    low, high = contexts[0] / 1.3, contexts[-1] * 1.3
    ticks = [float(2**n) for n in range(31) if low <= 2**n <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: -max(1, -(-len(ticks) // 5))]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
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


def some(batches: Sequence[int], most: int = MOST_LINES) -> list[int]:
    """All batches, or as many as a picture can tell apart, the smallest and the largest among them."""
    if len(batches) <= most:
        return list(batches)
    return [batches[round(i * (len(batches) - 1) / (most - 1))] for i in range(most)]


def dense(contexts: Sequence[int]) -> list[int]:
    """Contexts that make a line look smooth."""
    return sorted({round(c) for c in np.geomspace(contexts[0], contexts[-1], DENSE)})


def line(part: Part, phase: Phase, batch: int, peak: Callable[[Workload], int | None]) -> tuple[list[int], list[int]]:
    """Contexts and bytes of a formula, without the shapes that it does not answer."""
    answers = [(c, peak(part.workload(phase, c, batch))) for c in dense(part.contexts(phase))]
    known = [(c, value) for c, value in answers if value is not None]
    return [c for c, _ in known], [value for _, value in known]


def beyond(part: Part, phase: Phase) -> int:
    """How many points of a phase were replayed that the card could not hold."""
    return sum(not part.fits(m.warm.requested_bytes) for m in part.points(phase).values())


def card_line(panel: Panel, part: Part, low: float, high: float) -> list[tuple[float, str, str]]:
    """The card's nominal memory, where the axis reaches it, as a line; its label is for the line's end."""
    nominal = part.campaign.gpu_bytes
    if nominal is None or not low <= nominal <= high:
        return []
    panel.axes.axhline(nominal, color=LIGHT["card"], linewidth=1.1, linestyle=(0, (5, 2.5)))
    return [(nominal, f"{nominal / 2**30:.0f} GiB", LIGHT["card"])]


def peaks(part: Part, phase: Phase) -> Drawing:
    """Peak against context: a colour a batch, measured points as dots, the formula as lines."""
    panel = Panel(heading(part, f"{KINDS[phase]}: peak against context"), right=66)
    points, batches = part.points(phase), some(part.batches(phase))
    formula = part.formulas.get(phase)
    ends = []
    for i, batch in enumerate(batches):
        colour = ramp(i, len(batches))
        own = [(c, m.warm.requested_bytes) for (c, b), m in points.items() if b == batch]
        if formula is not None:
            panel.axes.plot(*line(part, phase, batch, formula.peak), color=colour, linewidth=1.3, zorder=3)
        for fits in (True, False):
            shown = [p for p in own if part.fits(p[1]) == fits]
            panel.axes.plot(
                [c for c, _ in shown],
                [size for _, size in shown],
                linestyle="none",
                marker="o",
                markersize=4.2,
                markeredgewidth=1.2,
                markeredgecolor=colour,
                markerfacecolor=colour if fits else LIGHT["surface"],
                zorder=4,
            )
        ends.append((own[-1][1], f"B = {batch}", colour))
    sizes = [m.warm.requested_bytes for m in points.values()]
    low, high = min(sizes) * 0.85, max(*sizes, (part.campaign.gpu_bytes or 0)) * 1.25
    bytes_axis(panel.axes, low, high, log=True)
    context_axis(panel.axes, part.contexts(phase))
    panel.label_ends([*ends, *card_line(panel, part, low, high)])
    too_large = beyond(part, phase)
    return panel.finished(
        f"{part.name}.{phase}.peaks",
        f"{len(sizes)} points of batches {', '.join(map(str, part.batches(phase)))}, from {min(sizes):,} B at the "
        f"smallest to {max(sizes):,} B at the largest.",
        f"Dots: requested bytes at the peak, from {part.campaign.results.path.name}. "
        + (f"Lines: {formula.name}. " if formula else "No formula is stored, so there are no lines. ")
        + (f"Hollow: more than the card holds ({too_large} of {len(sizes)}). " if too_large else "")
        + (
            f"Shown: {len(batches)} of {len(part.batches(phase))} batches."
            if len(part.batches(phase)) > MOST_LINES
            else ""
        ),
    )


def estimators(part: Part, phase: Phase) -> Drawing:
    """The same measured points at the smallest batch, with what public estimators say."""
    panel = Panel(heading(part, f"{KINDS[phase]}: what estimators say"), right=104)
    batch = part.batches(phase)[0]
    own = [(c, m.warm.requested_bytes) for (c, b), m in part.points(phase).items() if b == batch]
    ends, sizes = [], [size for _, size in own]
    formula = part.formulas.get(phase)
    if formula is not None:
        contexts, values = line(part, phase, batch, formula.peak)
        panel.axes.plot(contexts, values, color=LIGHT["blue"], linewidth=1.8, zorder=4)
    panel.axes.plot(
        [c for c, _ in own], sizes, linestyle="none", marker="o", markersize=4.6, color=LIGHT["blue"], zorder=5
    )
    ends.append((own[-1][1], "replayed" if part.banner else "measured", LIGHT["blue"]))
    for name, (role, dashes) in zip(SHOWN, ESTIMATOR_LINES, strict=True):
        contexts, values = line(part, phase, batch, lambda w, e=ESTIMATORS[name]: part.ask(e, w))  # type: ignore[misc]
        if values:
            panel.axes.plot(contexts, values, color=LIGHT[role], linewidth=1.5, linestyle=dashes)
            ends.append((values[-1], name.removesuffix("-inference"), LIGHT[role]))
            sizes += values
    margin = (max(sizes) - min(sizes)) * 0.06 or max(sizes) * 0.06
    low, high = max(0.0, min(sizes) - margin), max(sizes) + margin
    bytes_axis(panel.axes, low, high, log=False)
    context_axis(panel.axes, part.contexts(phase))
    panel.label_ends([*ends, *card_line(panel, part, low, high)])
    worst = max(abs(end[0] - own[-1][1]) for end in ends)
    return panel.finished(
        f"{part.name}.{phase}.estimators",
        f"At batch {batch} and {own[-1][0]:,} tokens the estimators are up to {worst:,.0f} B from {own[-1][1]:,} B.",
        f"Batch {batch}. Dots: {part.campaign.results.path.name}"
        + (f"; blue line: {formula.name}. " if formula else ". ")
        + "Other lines: what each estimator answers for the same workload; what it claims to count is in the "
        "scoreboard. accelerate is its estimate for inference. The axis does not start at 0.",
    )


def breakdown(part: Part, phase: Phase) -> Drawing:
    """What the peak is made of at chosen points, as stacked bars."""
    points = [(c, b, ledger(part.workload(phase, c, b), part.points(phase)[c, b])) for c, b in chosen(part, phase)]
    panel = Panel(
        heading(part, f"{KINDS[phase]}: what the peak is made of"),
        height=154 + 27 * len(points),
        left=82,
        right=54,
        bottom=76,
    )
    axes = panel.axes
    for row, (_, _, sizes) in enumerate(points):
        left = 0
        for segment, role in zip(SEGMENTS, SEGMENT_COLOURS, strict=True):
            width = max(sizes[segment], 0)
            axes.barh(row, width, 0.62, left=left, color=LIGHT[role], edgecolor=LIGHT["surface"], linewidth=0.5)
            left += width
        axes.annotate(
            f"{sum(sizes.values()) / GB:.1f} GB",
            (left, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=SMALL,
        )
    axes.set_yticks(range(len(points)), [f"B={b}, {tokens_text(c)}" for c, b, _ in points])
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
    axes.invert_yaxis()
    axes.tick_params(length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / GB:g}"))
    axes.set_xlim(0, max(sum(max(v, 0) for v in sizes.values()) for _, _, sizes in points) * 1.02)
    axes.set_xlabel("GB (10⁹ bytes)")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    _segments_key(panel)
    return panel.finished(
        f"{part.name}.{phase}.breakdown",
        "; ".join(f"batch {b}, {c:,} tokens: {sum(sizes.values()):,} B" for c, b, sizes in points),
        f"Bytes alive at the peak, from {part.campaign.results.path.name}: cache and states as read off the live "
        "tensors, the transient is what is alive beside them. The table below has every byte.",
    )


def _segments_key(panel: Panel) -> None:
    for i, (segment, role) in enumerate(zip(SEGMENTS, SEGMENT_COLOURS, strict=True)):
        x, y = 12 + 118 * (i % 3), 26 - 15 * (i // 3)
        size = (9 / 360, 8 / panel.height)
        panel.figure.add_artist(
            Rectangle(
                (x / 360, y / panel.height), *size, transform=panel.figure.transFigure, color=LIGHT[role], linewidth=0
            )
        )
        panel.figure.text((x + 14) / 360, (y + 1) / panel.height, segment, fontsize=SMALL, color=LIGHT["ink"])
