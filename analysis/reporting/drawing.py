"""What all figures share: their size and look, and their two forms, a file of its own and a part of the page.

A figure is drawn for a phone's width: text of 10.5 units in 360 is legible there, and columns of figures fill a desk's.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.svg import plain, standalone

WIDTH = 360
TITLE, TEXT, SMALL = 12.5, 10.5, 10.5
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vram-ledger",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.facecolor": "none",
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "grid.color": LIGHT["faint"],
    "grid.linewidth": 0.8,
    "figure.facecolor": LIGHT["surface"],
    "savefig.facecolor": LIGHT["surface"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A finished figure. name: of its file, without the suffix. svg: of the file. caption: where its numbers are from.

    description: what there is to see, for those who can't.
    """

    name: str
    title: str
    description: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What stands above a figure: what it shows, of which model on which card, and the banner if no card was measured.

    role: the banner's colour.
    """

    title: str
    subject: str
    banner: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where a line ends, in data, and what it is called at the right of the axes. x: none if it is the right side."""

    y: float
    text: str
    colour: str
    x: float | None = None


class Panel:
    """A figure being drawn: one pair of axes under a heading, with room for labels at the right."""

    def __init__(self, heading: Heading, *, height: int = 300, left: int = 58, right: int = 66, bottom: int = 40):
        self.heading = heading
        self.height = height
        self.figure = Figure(figsize=(WIDTH / 72, height / 72))
        top = 64 if heading.banner else 48
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
        self.axes: Axes = self.figure.add_axes(box)
        self._write(12, 19, heading.title, TITLE, "ink", "bold")
        self._write(12, 34, heading.subject, SMALL, "muted", "normal")
        if heading.banner:
            self._write(12, 48, heading.banner, SMALL, heading.role, "bold")

    def _write(self, x: float, down: float, text: str, size: float, role: str, weight: str) -> None:
        self.figure.text(
            x / WIDTH,
            1 - down / self.height,
            one_line(text),
            fontsize=size,
            color=LIGHT[role],
            fontweight=weight,
            va="baseline",
        )

    def label_ends(self, ends: Sequence[End], gap: float = 13.5) -> None:
        """Labels at the right of the axes, moved apart, each tied to the very place where its line ends."""
        units = self.axes.get_position().height * self.height
        to_axes = self.axes.transData + self.axes.transAxes.inverted()
        right = self.axes.get_xlim()[1]
        at: list[tuple[float, float, End]] = []
        for end in ends:
            x, y = to_axes.transform((right if end.x is None else end.x, end.y))
            at.append((float(x), float(y), end))
        at.sort(key=lambda own: (own[1], own[2].text))
        for (x, y, end), height in zip(at, spread([y * units for _, y, _ in at], gap, units), strict=True):
            self._leader(x, y, height / units, end)

    def _leader(self, x: float, y: float, height: float, end: End) -> None:
        """A thin line from a line's end to the side, an elbow from there to the label, and the label."""
        frame: dict[str, Any] = {"transform": self.axes.transAxes, "color": end.colour, "clip_on": False}
        if x < 0.98:
            self.axes.plot([x + 0.02, 1.005], [y, y], linewidth=0.8, linestyle=(0, (1, 2)), **frame)
        self.axes.plot([1.005, 1.035, 1.055], [y, height, height], linewidth=1.4, **frame)
        self.axes.text(
            1.07, height, one_line(end.text), transform=self.axes.transAxes, fontsize=SMALL, va="center_baseline"
        )

    def finished(self, name: str, description: str, caption: str) -> Drawing:
        """The drawing."""
        out = io.StringIO()
        self.figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        words = (self.heading.title, self.heading.subject, self.heading.banner)
        title, description = one_line(" — ".join(filter(None, words))), plain(description)
        svg = standalone(out.getvalue(), title, description)
        return Drawing(name=name, title=title, description=description, caption=plain(caption), svg=svg)


def one_line(text: str) -> str:
    """Text for a figure, where nothing breaks a line."""
    return plain(" ".join(text.split()))


def spread(wanted: Sequence[float], gap: float, room: float) -> list[float]:
    """Heights in ascending order, moved as little as keeps them ``gap`` apart, and inside the room if it is enough."""
    groups: list[list[float]] = []
    for height in wanted:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap, room) < _high(groups[-2], gap, room) + gap:
            last = groups.pop()
            groups[-1] += last
    return [_low(group, gap, room) + gap * i for group in groups for i in range(len(group))]


def _low(group: Sequence[float], gap: float, room: float) -> float:
    length = gap * (len(group) - 1)
    return max(0.0, min(sum(group) / len(group) - length / 2, room - length))


def _high(group: Sequence[float], gap: float, room: float) -> float:
    return _low(group, gap, room) + gap * (len(group) - 1)


@contextmanager
def styled() -> Iterator[None]:
    """The one look, whatever the reader's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
