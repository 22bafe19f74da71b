"""The figure of a recorded run: allocated and reserved over its events."""

from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from vram_ledger.analysis.allocation.history import History
from vram_ledger.analysis.reporting.axes import GB, bytes_axis
from vram_ledger.analysis.reporting.drawing import SMALL, Drawing, End, Heading, Panel, styled
from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.svg import MARK, plain

COLUMNS = 500  # steps that a picture can show
LINES = (("reserved", "orange"), ("allocated", "blue"))


def course(history: History, name: str) -> Drawing:
    """Allocated and reserved bytes after every event, their peaks marked. name: of the recording."""
    with styled():
        panel = Panel(Heading(title="Allocated and reserved, event by event", subject=name, banner="", role="ink"))
        axes, ends, told = panel.axes, [], []
        last = max(history.numbers[-1], 1)
        axes.set_xlim(-1, last)
        top = max(history.reserved) or 1
        bytes_axis(axes, 0, top * 1.12, log=False)
        for line, colour in LINES:
            series: tuple[int, ...] = getattr(history, line)
            points = thinned(history.numbers, series)
            axes.plot(*zip(*points, strict=True), drawstyle="steps-post", linewidth=1.2, color=LIGHT[colour])
            at, peak = history.numbers[series.index(max(series))], max(series)
            axes.plot([at], [peak], "o", markersize=4.5, color=LIGHT[colour], clip_on=False, zorder=5)
            ends.append(End(y=series[-1], text=line, colour=LIGHT[colour]))
            told.append(f"{line} from {series[0] / GB:,.2f} to {series[-1] / GB:,.2f} GB, at most {peak / GB:,.2f}")
            axes.annotate(
                f"{peak / GB:,.2f} GB",
                (at, peak),
                (0, 4 if line == "reserved" else -14),
                textcoords="offset points",
                ha="left" if at < last / 2 else "right",
                fontsize=SMALL,
                bbox={"facecolor": LIGHT["surface"], "edgecolor": "none", "pad": 0.5},
                zorder=4,
            )
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("event")
        panel.label_ends(ends)
        return panel.finished("course", "; ".join(told) + ".", "Dots: the peaks.")


def course_svg(history: History, name: str) -> str:
    """The figure as a file."""
    return course(history, plain(name)).svg.replace(f"{MARK}\n", "")


def thinned(numbers: Sequence[int], values: Sequence[int]) -> list[tuple[int, int]]:
    """A step line with no more points than can be seen: of every column the first, the least, the most and the last."""
    per = max(1, -(-len(values) // COLUMNS))
    kept: set[int] = set()
    for start in range(0, len(values), per):
        column = range(start, min(start + per, len(values)))
        kept |= {column[0], column[-1], min(column, key=values.__getitem__), max(column, key=values.__getitem__)}
    return [(numbers[i], values[i]) for i in sorted(kept)]
