"""The colours of the report: told apart from what they stand on, in both schemes."""

import pytest

from vram_ledger.analysis.reporting.palette import COLOURS

SCHEMES = pytest.mark.parametrize("dark", [False, True])


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str, dark: bool) -> float:
    """The contrast of two roles, as WCAG 2 defines it."""
    high, low = sorted((luminance(COLOURS[one][dark]), luminance(COLOURS[other][dark])), reverse=True)
    return (high + 0.05) / (low + 0.05)


@SCHEMES
@pytest.mark.parametrize("role", ["ink", "muted", "accent", "fake", "emulated", "measured", "good", "bad", "refused"])
def test_text_is_legible_on_a_card(role: str, dark: bool) -> None:
    assert contrast(role, "surface", dark) >= 4.5


@SCHEMES
@pytest.mark.parametrize("role", [role for role in COLOURS if role.startswith(("high", "low", "zero"))])
def test_numbers_are_legible_on_every_cell(role: str, dark: bool) -> None:
    assert contrast("ink", role, dark) >= 4.5


@SCHEMES
@pytest.mark.parametrize("role", [role for role in COLOURS if role.startswith("bar")])
def test_names_are_legible_on_every_bar(role: str, dark: bool) -> None:
    assert contrast("surface", role, dark) >= 4.5


@SCHEMES
@pytest.mark.parametrize("role", [*(r for r in COLOURS if r.startswith("ramp")), "blue", "orange", "green", "purple"])
def test_lines_are_seen_on_a_card(role: str, dark: bool) -> None:
    assert contrast(role, "surface", dark) >= 3
