"""What is on a figure, read back from its SVG: lines, marks, bars and texts, by the role of their colour."""

import re
import xml.etree.ElementTree as ET

from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.svg import SVG

Place = tuple[float, float]


def lines(svg: str, role: str) -> list[list[Place]]:
    """The lines of a colour inside the axes, as the places that they go through."""
    own = (e for e in _clipped(svg, "path") if f"stroke: {LIGHT[role]}" in e.get("style", ""))
    return [places(e) for e in own if "fill: none" in e.get("style", "")]


def leaders(svg: str, role: str) -> list[list[Place]]:
    """The lines of a colour that lead to labels, outside the axes."""
    paths = (e for e in ET.fromstring(svg).iter(f"{{{SVG}}}path") if "clip-path" not in e.attrib)
    own = (e for e in paths if f"stroke: {LIGHT[role]}" in e.get("style", ""))
    return [places(e) for e in own if "fill: none" in e.get("style", "")]


def marks(svg: str, role: str) -> list[Place]:
    """The middles of the marks of a colour, crosses among them."""
    uses = ET.fromstring(svg).iter(f"{{{SVG}}}use")
    own = [e for e in uses if f"stroke: {LIGHT[role]}" in e.get("style", "")]
    return [(float(e.get("x", "")), float(e.get("y", ""))) for e in own]


def bars(svg: str, role: str) -> list[tuple[float, float]]:
    """The filled shapes of a colour inside the axes, each by its left and its right side."""
    own = [places(e) for e in _clipped(svg, "path") if f"fill: {LIGHT[role]}" in e.get("style", "")]
    return [(min(x for x, _ in shape), max(x for x, _ in shape)) for shape in own]


def texts(svg: str) -> dict[str, list[Place]]:
    """Every text, and where it stands."""
    found: dict[str, list[Place]] = {}
    for element in ET.fromstring(svg).iter(f"{{{SVG}}}text"):
        if "x" in element.attrib:
            place = float(element.get("x", "")), float(element.get("y", ""))
        else:
            numbers = re.findall(r"-?[\d.]+", element.get("transform", ""))
            place = float(numbers[0]), float(numbers[1])
        found.setdefault(element.text or "", []).append(place)
    return found


def places(path: ET.Element) -> list[Place]:
    """The places of a path that has straight sides only."""
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _clipped(svg: str, tag: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter(f"{{{SVG}}}{tag}") if "clip-path" in e.attrib]
