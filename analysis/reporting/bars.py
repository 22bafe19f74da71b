"""The figure of what a peak is made of, as stacked bars."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vram_ledger.analysis.reporting.axes import GB, KINDS, heading, tokens_text
from vram_ledger.analysis.reporting.drawing import SMALL, WIDTH, Drawing, Panel
from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.part import SEGMENTS, Part, chosen, ledger
from vram_ledger.harness.records import Phase, Workload

LEFT, RIGHT = 96, 58
IN_BAR = ("weights", "KV", "states", "inputs", "transient")  # a segment's name where it is wide enough for it
LETTER = 6.6  # units of width that a letter takes


TOLD = 131_072  # tokens of the picture on top: the longest that people ask for as a rule


def breakdown(part: Part, phase: Phase) -> Drawing:
    """What the peak is made of at chosen points, as stacked bars."""
    points = [(f"B={b}, {tokens_text(c)}", part.workload(phase, c, b)) for c, b in chosen(part, phase)]
    return _bars(part, f"{KINDS[phase]}: what the peak is made of", f"{part.name}.{phase}.breakdown", points)


def made_of(part: Part) -> Drawing | None:
    """What the peaks of one sequence are made of, short and long, in both phases; ``None`` where none ran."""
    shapes = [(phase, c) for phase in part.phases for (c, b) in part.points(phase) if b == 1]
    longest = max((c for _, c in shapes if c <= TOLD), default=0)
    points = [
        (f"{phase}, {tokens_text(c)}", part.workload(phase, c, 1))
        for phase, c in shapes
        if c == longest or (c == 4096 and phase == "prefill")
    ]
    title = "One sequence: what the peak is made of"
    return _bars(part, title, f"{part.name}.made-of", points) if points else None


def _bars(part: Part, title: str, name: str, workloads: Sequence[tuple[str, Workload]]) -> Drawing:
    points = [(label, ledger(workload, part.ran[workload])) for label, workload in workloads]
    panel = Panel(
        heading(part, title),
        height=154 + 27 * len(points),
        left=LEFT,
        right=RIGHT,
        bottom=76,
    )
    widest = max(sum(max(v, 0) for v in sizes.values()) for _, sizes in points) * 1.02
    for row, (_, sizes) in enumerate(points):
        _bar(panel.axes, row, sizes, widest)
    _bar_axes(panel.axes, [label for label, _ in points], widest)
    _segments_key(panel)
    return panel.finished(
        name,
        "; ".join(
            f"{label} tokens: {sum(sizes.values()) / GB:,.1f} GB, of them "
            + ", ".join(f"{size / GB:,.1f} {name}" for name, size in sizes.items())
            for label, sizes in points
        )
        + ".",
        f"Requested bytes alive at the peak, {part.kind.word}: cache and states as read off the live tensors; the "
        "transient is what is alive beside them, and only while it runs.",
    )


def _bar(axes: Axes, row: int, sizes: dict[str, int], widest: float) -> None:
    left = 0
    for number, (segment, name) in enumerate(zip(SEGMENTS, IN_BAR, strict=True)):
        width = max(sizes[segment], 0)
        axes.barh(row, width, 0.66, left=left, color=LIGHT[f"bar-{number}"], edgecolor=LIGHT["surface"], linewidth=0.6)
        if width / widest * (WIDTH - LEFT - RIGHT) > LETTER * len(name) + 4:
            place = (left + width / 2, row)
            axes.text(*place, name, ha="center", va="center_baseline", fontsize=SMALL, color=LIGHT["surface"])
        left += width
    axes.annotate(
        f"{sum(sizes.values()) / GB:.1f} GB",
        (left, row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=SMALL,
    )


def _bar_axes(axes: Axes, names: list[str], widest: float) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
    axes.invert_yaxis()
    axes.tick_params(length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / GB:g}"))
    axes.set_xlim(0, widest)
    axes.set_xlabel("GB (10⁹ bytes)")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _segments_key(panel: Panel) -> None:
    for number, segment in enumerate(SEGMENTS):
        x, y = 12 + 124 * (number % 3), 26 - 15 * (number // 3)
        size = (9 / WIDTH, 8 / panel.height)
        panel.figure.add_artist(
            Rectangle(
                (x / WIDTH, y / panel.height),
                *size,
                transform=panel.figure.transFigure,
                color=LIGHT[f"bar-{number}"],
                linewidth=0,
            )
        )
        panel.figure.text((x + 14) / WIDTH, (y + 1) / panel.height, segment, fontsize=SMALL, color=LIGHT["ink"])
