"""Every colour of the report, by its role: one for light surfaces, one for dark ones.

Figures are drawn in the light colours. On the page each of them becomes the custom property of its role, so that a
figure follows the reader's scheme; this needs every role to have a light colour of its own.
"""

# role: (light, dark)
COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#f6f7f9", "#0c1015"),
    "surface": ("#ffffff", "#141a21"),
    "ink": ("#1c2128", "#e8edf2"),
    "muted": ("#57606a", "#9fabb7"),
    "line": ("#d5dbe1", "#323b45"),
    "faint": ("#e9ecf0", "#232b34"),
    "shade": ("#b8c0c9", "#3d4753"),
    "accent": ("#0a5bb5", "#7cb8ff"),
    "fake": ("#8a3ffc", "#c4a3ff"),
    "emulated": ("#0b6a78", "#5fcfdf"),
    "measured": ("#1b7f3b", "#74d99f"),
    "good": ("#12703c", "#5fd490"),
    "bad": ("#b42318", "#ff8f85"),
    "card": ("#b0413e", "#ff9c8f"),
    # Kinds of memory, and estimators: told apart by hue, and in every figure by a label or a dash too.
    "grey": ("#8c959f", "#6b7580"),
    "blue": ("#0b66b8", "#62aef7"),
    "orange": ("#cf5a11", "#ff9a5a"),
    "green": ("#017f5f", "#3fcf9f"),
    "purple": ("#95408c", "#e39ad9"),
    "gold": ("#8f6900", "#e2b53e"),
    # Segments of a bar: dark enough in light, light enough in dark, for a label in the surface's colour.
    "bar-0": ("#68727d", "#8b96a2"),
    "bar-1": ("#0a4f94", "#5fa8f0"),
    "bar-2": ("#8a6500", "#e0b33c"),
    "bar-3": ("#5b1f55", "#f3c9ee"),
    "bar-4": ("#c04f0e", "#ff985a"),
    # Batches, small to large: even steps of lightness, so that they are told apart without hue.
    "ramp-0": ("#0d0887", "#a94bd0"),
    "ramp-1": ("#44039e", "#c04fae"),
    "ramp-2": ("#7100a8", "#d04d73"),
    "ramp-3": ("#99159f", "#e26660"),
    "ramp-4": ("#bb3488", "#f1814d"),
    "ramp-5": ("#d5536f", "#fb9f3a"),
    "ramp-6": ("#df5f45", "#fec029"),
    "ramp-7": ("#d9761a", "#f7e425"),
    # Residuals: too high (blue) or too low (orange), with ink legible on all of them; out of memory.
    "high-4": ("#6fa8df", "#1d6bb0"),
    "high-3": ("#9fc5ea", "#1b578c"),
    "high-2": ("#c5dcf3", "#1b4266"),
    "high-1": ("#e0ecf8", "#1b3046"),
    "zero": ("#f1f3f5", "#1d242c"),
    "low-1": ("#fcebdc", "#3d2c1d"),
    "low-2": ("#f9d4b3", "#5f3f1d"),
    "low-3": ("#f4b47f", "#86491a"),
    "low-4": ("#ec9250", "#a34f15"),
    "refused": ("#4a4f57", "#b9c2cc"),
}
LIGHT = {role: light for role, (light, _) in COLOURS.items()}
RAMP = 8


def ramp(number: int, count: int) -> str:
    """The light colour of the ``number``-th of ``count`` batches."""
    return LIGHT[f"ramp-{number * (RAMP - 1) // max(count - 1, 1)}"]


def properties(dark: bool) -> str:
    """The custom properties of one scheme, as CSS."""
    return " ".join(f"--{role}: {colours[dark]};" for role, colours in COLOURS.items())
