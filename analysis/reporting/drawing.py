"""What all figures share: their size and look, and their two forms, a file of its own and a part of the page.

A figure is drawn for a phone's width: text of ten units in 360 is legible there, and columns of figures fill a desk's.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.reporting.palette import LIGHT
from analysis.reporting.svg import plain, standalone

WIDTH = 360
TITLE, TEXT, SMALL = 12.5, 10, 9.5
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
    """What stands above a figure: what it shows, of which model on which card, and the banner of a replay or ""."""

    title: str
    subject: str
    banner: str


class Panel:
    """A figure being drawn: one pair of axes under a heading, with room for labels at the right."""

    def __init__(self, heading: Heading, *, height: int = 300, left: int = 50, right: int = 66, bottom: int = 40):
        self.heading = heading
        self.height = height
        self.figure = Figure(figsize=(WIDTH / 72, height / 72))
        top = 64 if heading.banner else 48
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
        self.axes: Axes = self.figure.add_axes(box)
        self._write(12, 19, heading.title, TITLE, "ink", "bold")
        self._write(12, 34, heading.subject, SMALL, "muted", "normal")
        if heading.banner:
            self._write(12, 48, heading.banner, SMALL, "fake", "bold")

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

    def label_ends(self, ends: Sequence[tuple[float, str, str]], gap: float = 12.5) -> None:
        """Labels at the right of the axes, each (y in data, text, colour), moved apart and tied to its own height."""
        box = self.axes.get_position()
        units = box.height * self.height
        to_axes = self.axes.transData + self.axes.transAxes.inverted()
        wanted = [(float(to_axes.transform((1, y))[1]) * units, text, colour) for y, text, colour in ends]
        wanted.sort(key=lambda end: (end[0], end[1]))
        heights = spread([height for height, _, _ in wanted], gap, units)
        for (own, text, colour), height in zip(wanted, heights, strict=True):
            self.axes.plot(
                [1.005, 1.035, 1.055],
                [own / units, height / units, height / units],
                transform=self.axes.transAxes,
                color=colour,
                linewidth=1.4,
                clip_on=False,
            )
            self.axes.text(
                1.07, height / units, text, transform=self.axes.transAxes, fontsize=SMALL, va="center_baseline"
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
