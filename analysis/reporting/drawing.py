"""What all figures share: their size and look, and their two forms, a file of its own and a part of the page.

A figure is drawn for a phone's width: text of ten units in 360 is legible there, and columns of figures fill a desk's.
"""

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.reporting.palette import COLOURS, LIGHT

WIDTH = 360
TITLE, TEXT, SMALL = 12.5, 10, 9.5
MARK = "<!-- made by `make report`; not edited -->"
FONTS = "'DejaVu Sans', Verdana, sans-serif"
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
            x / WIDTH, 1 - down / self.height, text, fontsize=size, color=LIGHT[role], fontweight=weight, va="baseline"
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
        title = f"{self.heading.title} — {self.heading.subject}"
        title += f" — {self.heading.banner}" if self.heading.banner else ""
        svg = _standalone(out.getvalue(), title, description)
        return Drawing(name=name, title=title, description=description, caption=caption, svg=svg)


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


def _standalone(svg: str, title: str, description: str) -> str:
    """The file: only ids that are used, one font for everybody, and words for those who can't see it."""
    used = set(re.findall(r"#(\w+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"font-family: [^;\"]*", f"font-family: {FONTS}", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = svg.replace(" \n", " ").replace("\nL ", " L ").replace("\nz\n", " z").replace('\n"', '"')
    head, body = svg[: svg.index("<svg")], svg[svg.index("<svg") :]
    body = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", body, count=1)
    words = f"<title>{html.escape(title)}</title>\n<desc>{html.escape(description)}</desc>"
    return f"{head.splitlines()[0]}\n{MARK}\n" + body.replace(">", f' role="img">\n{words}', 1)


def inline(drawing: Drawing) -> str:
    """The figure as a part of the page: its ids its own, its colours the page's, its font the page's."""
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    own = re.sub(r"\W", "-", drawing.name)
    svg = re.sub(r' id="([^"]*)"', rf' id="{own}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{own}-", svg)
    svg = svg.replace(f"font-family: {FONTS}; ", "").replace(f"; font-family: {FONTS}", "")
    for role, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{role})")
    return re.sub(r"<title>.*?</desc>", "", svg, count=1, flags=re.DOTALL).replace(
        'role="img"', f'role="img" aria-label="{html.escape(drawing.title)}. {html.escape(drawing.description)}"', 1
    )
