"""A figure as somebody's program printed it, and the interval of values that are printed so."""

import re
from dataclasses import dataclass
from fractions import Fraction

from vram_ledger.errors import InputError

BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
NUMBER = re.compile(r"([+\-−]?)\s*(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?\s*([A-Za-z%×].*)?", re.ASCII)
MOST_LENGTH = 100  # of a figure's text
COUNTED = ("B", "B/token", "tokens", "blocks", "slots", "requests")  # whole numbers are exact in these


class FigureError(InputError):
    """A file of figures that can't be read; the message names the file, the figure and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """All values from ``least`` to ``most``."""

    least: Fraction
    most: Fraction

    @property
    def middle(self) -> Fraction:
        """Half way."""
        return (self.least + self.most) / 2

    def meets(self, other: "Range") -> bool:
        """Whether a value lies in both; two ranges that only touch are printed differently."""
        least, most = max(self.least, other.least), min(self.most, other.most)
        return least < most or (least == most and (self.least == self.most or other.least == other.most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A printed figure. value: in bytes, where the unit is one of bytes. half: of the last digit that was printed."""

    text: str
    unit: str
    scale: int
    decimals: int
    value: Fraction
    half: Fraction

    @property
    def range(self) -> Range:
        """The values that are printed so."""
        return Range(least=self.value - self.half, most=self.value + self.half)

    def as_printed(self, value: Fraction, more_digits: int = 0, sign: bool = False) -> str:
        """Another value in the same unit, with as many digits and some more."""
        digits = self.decimals + (more_digits if self.half else 0)
        return f"{float(value / self.scale):{'+' if sign else ''},.{digits}f} {self.unit}".strip()


def read_printed(text: str, unit: str = "", finely: str = "") -> Printed:
    """A figure such as "50.22 GiB", "1,602,327,552 B", "8.02 x", "72 KiB/token".

    unit: what the printed one means, if not what it says ("GB" where the program divides by 2^30). finely: the step
    between two printed values, if it is not one of the last digit. A whole number of bytes, tokens, blocks or slots
    is exact.
    """
    found = NUMBER.fullmatch(text.strip()) if len(text) <= MOST_LENGTH else None
    if not found or not (found[4] or unit):
        raise FigureError(f"{text[:MOST_LENGTH]!r} is no figure with a unit, such as 50.22 GiB, 1,151 blocks or 8.02 x")
    meant = (unit or found[4]).strip()
    scale = BYTES.get(meant.split("/")[0].strip(), 1)
    decimals = len(found[3] or "")
    value = Fraction(f"{found[2].replace(',', '')}.{found[3] or 0}") * (-1 if found[1] in ("-", "−") else 1)
    half = Fraction(0) if meant in COUNTED and not decimals else Fraction(1, 2 * 10**decimals)
    if finely:
        half = read_printed(finely).value / scale / 2
    return Printed(text=text, unit=meant, scale=scale, decimals=decimals, value=value * scale, half=half * scale)
