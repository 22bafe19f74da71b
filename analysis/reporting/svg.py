"""A figure's two forms as SVG: a file of its own, and a part of the page. Attributes are changed, text never is."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from vram_ledger.analysis.reporting.palette import COLOURS

MARK = "<!-- made by `make report`; not edited -->"
FONTS = "'DejaVu Sans', Verdana, sans-serif"
SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # no XML, and no HTML, may have these

ET.register_namespace("", SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def plain(text: str) -> str:
    """Text that every format can hold: control characters and lone surrogates become U+FFFD."""
    return NO_TEXT.sub("\ufffd", text)


def standalone(drawn: str, title: str, description: str) -> str:
    """The file: only ids that are used, one font for everybody, and words for those who can't see it."""
    root = ET.fromstring(drawn)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if "d" in element.attrib:
            element.set("d", " ".join(element.get("d", "").split()))
        _restyle(element, "font-family: [^;]*", f"font-family: {FONTS}")
    for child in [c for c in root if c.tag == f"{{{SVG}}}metadata"]:
        root.remove(child)
    _sized(root)
    root.set("role", "img")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        words = ET.Element(f"{{{SVG}}}{tag}")
        words.text, words.tail = text, "\n"
        root.insert(place, words)
    return f'<?xml version="1.0" encoding="utf-8" standalone="no"?>\n{MARK}\n{_text(root)}\n'


def inline(svg: str, name: str, label: str) -> str:
    """The figure as a part of the page: its ids its own, its colours the page's, its font and its size the page's."""
    root = ET.fromstring(svg)
    own = own_id(name)
    variables = {light: f"var(--{role})" for role, (light, _) in COLOURS.items()}
    for child in [c for c in root if c.tag.rpartition("}")[2] in ("title", "desc")]:
        root.remove(child)
    for parent in root.iter():
        for style in [c for c in parent if c.tag == f"{{{SVG}}}style"]:
            parent.remove(style)
    for element in root.iter():
        for attribute in ("id", HREF, "clip-path"):
            if attribute in element.attrib:
                before = element.get(attribute, "")
                element.set(attribute, re.sub(r"^(url\(#|#|)", rf"\g<1>{own}-", before, count=1))
        _restyle(element, f"font-family: {re.escape(FONTS)}(; )?", "")
        _restyle(element, "#[0-9a-f]{6}", lambda found: variables[found[0]])
    for attribute in ("width", "height"):
        root.attrib.pop(attribute, None)
    root.set("aria-label", label)
    return _text(root)


def own_id(name: str) -> str:
    """A name as an id that no other name has: letters and digits as they are, the rest by number."""
    return re.sub(r"[^A-Za-z0-9]", lambda found: f"-{ord(found[0]):x}-", name)


def _references(element: ET.Element) -> Iterator[str]:
    for value in (element.get(HREF, ""), element.get("clip-path", "")):
        if found := re.match(r"(?:url\()?#([^)]*)", value):
            yield found[1]


def _restyle(element: ET.Element, pattern: str, new: object) -> None:
    """Changes what stands in the style, and in the colours that stand beside it."""
    for name in ("style", "fill", "stroke"):
        if name in element.attrib:
            element.set(name, re.sub(pattern, new, element.get(name, "")).removesuffix("; "))  # type: ignore[call-overload]


def _sized(root: ET.Element) -> None:
    """A size in pixels, so that a file that is looked at on its own is not as wide as the window."""
    _, _, width, height = root.get("viewBox", "0 0 0 0").split()
    root.set("width", width)
    root.set("height", height)


def _text(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode")
