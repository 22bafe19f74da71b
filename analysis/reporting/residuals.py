"""The residual map: predicted minus counted over context and batch, of our formula and of an estimator."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter

from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.refereeing.score import compared
from vram_ledger.analysis.reporting.axes import GB, KINDS, heading, tokens_text
from vram_ledger.analysis.reporting.drawing import SMALL, WIDTH, Drawing, Panel
from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.analysis.reporting.peaks import count, counted
from vram_ledger.harness.records import Measured, Phase, Workload

STEPS_BYTES = (GB // 10, GB, 10 * GB)  # where a residual's colour changes
MOST_ROWS, MOST_COLUMNS = 14, 7  # cells that have room for a number
Shape = tuple[int, int]  # (context, batch)


def residual_text(residual_bytes: int) -> str:
    """A residual in a cell: "0" only if exact, GB to three figures, and smaller ones with their unit."""
    size = abs(residual_bytes)
    if not size:
        return "0"
    units = ((GB // 100, GB, ""), (100_000, 10**6, " MB"), (1_000, 1_000, " kB"), (0, 1, " B"))
    unit, name = next((unit, name) for least, unit, name in units if size >= least)
    value = size / unit
    digits = 2 if value < 10 and unit == GB else 1 if value < 100 and unit > 1 else 0
    return f"{'+' if residual_bytes > 0 else '−'}{value:,.{digits}f}{name}"


def bytes_text(difference: int) -> str:
    """A difference to the byte, with its sign: "0 B", "−1,024 B"."""
    sign = "+" if difference > 0 else "−" if difference else ""
    return f"{sign}{abs(difference):,} B"


def residual_role(residual_bytes: int) -> str:
    """The colour's role: by the sign, and by the power of ten of GB."""
    if not residual_bytes:
        return "zero"
    level = 1 + sum(abs(residual_bytes) >= step for step in STEPS_BYTES)
    return f"{'high' if residual_bytes > 0 else 'low'}-{level}"


def residual(part: Part, workload: Workload, outcome: Measured, name: str) -> int | None:
    """What is said, by the formula ("") or by an estimator, minus what was counted of the quantity that it claims.

    ``None`` where there is no answer, or where that quantity is not known.
    """
    if not name:
        formula = part.formulas.get(workload.phase)
        said = formula.peak(workload) if formula else None
        return None if said is None else said - outcome.warm.requested_bytes
    answer = part.answer(ESTIMATORS[name], workload)
    if answer is None:
        return None
    measured = count(outcome, compared(answer.predicts, part.ran.values()))
    return None if measured is None else answer.total_bytes - measured


def residuals_of(part: Part, phase: Phase, name: str = "") -> dict[Shape, int]:
    """The residuals of a phase, by (context, batch); without the points for which there is no answer."""
    found = {
        shape: residual(part, part.workload(phase, *shape), outcome, name)
        for shape, outcome in part.points(phase).items()
    }
    return {shape: value for shape, value in found.items() if value is not None}


def residual_map(part: Part, phase: Phase, name: str = "") -> Drawing | None:
    """Predicted minus counted over context and batch, a cell a point; ``None`` where all is exact, or nothing known."""
    found = residuals_of(part, phase, name)
    if not any(found.values()):
        return None
    contexts, batches = part.contexts(phase), part.batches(phase)
    numbers = len(contexts) <= MOST_ROWS and len(batches) <= MOST_COLUMNS
    rows = max(len(contexts) * 25, 90) if numbers else 300
    title = f"{KINDS[phase]}: {name or 'our formula'} − {part.kind.word}"
    panel = Panel(heading(part, title), height=130 + rows, left=68, right=12, bottom=70)
    places = {(c, b): (batches.index(b), contexts.index(c)) for c in contexts for b in batches}
    _cells(panel.axes, {places[shape]: residual_role(value) for shape, value in found.items()}, numbers)
    refused = [places[shape] for shape in part.out_of_memory(phase)]
    _cells(panel.axes, dict.fromkeys(refused, "refused"), numbers)
    within = {shape for shape, m in part.points(phase).items() if part.fits(m.warm.requested_bytes)}
    if numbers:
        for shape, value in found.items():
            style = "normal" if shape in within else "italic"
            _number(panel.axes, places[shape], residual_text(value), "ink", style)
        for place in refused:
            _number(panel.axes, place, "OOM", "surface")
    _map_axes(panel.axes, contexts, batches)
    _residual_key(panel)
    return panel.finished(
        f"{part.name}.{phase}.residuals-{name or 'ours'}",
        _description(part, phase, found),
        _caption(part, phase, name, found, within, numbers),
    )


def _description(part: Part, phase: Phase, found: dict[Shape, int]) -> str:
    told = []
    for batch in part.batches(phase):
        own = [(c, value) for (c, b), value in found.items() if b == batch]
        if own:
            ends = (
                f"{residual_text(own[0][1])} at {own[0][0]:,} tokens to {residual_text(own[-1][1])} at {own[-1][0]:,}"
            )
            told.append(f"batch {batch}: {ends}")
    return f"{_exact(found)} In GB: {'; '.join(told)}."


def _exact(found: dict[Shape, int]) -> str:
    return f"{sum(value == 0 for value in found.values())} of {counted(len(found))} exact."


def _caption(
    part: Part, phase: Phase, name: str, found: dict[Shape, int], within: Collection[Shape], numbers: bool
) -> str:
    points, missing = part.points(phase), 0
    if name:
        answers = [part.answer(ESTIMATORS[name], part.workload(phase, *shape)) for shape in found]
        claims = dict.fromkeys(a.predicts for a in answers if a)
        against = dict.fromkeys(part.kind.counter(compared(c, part.ran.values())) for c in claims)
        said = f"{name} claims the {' and '.join(claims)} bytes; held against {' and '.join(against)} bytes"
        missing = len(points) - len(found)
    else:
        said = f"Our formula is {part.formulas[phase].name}; held against requested bytes"
    held = [value for shape, value in found.items() if shape in within]
    worst = bytes_text(max(held, key=abs)) if held else "none"
    texts = [residual_text(value) for value in found.values()]
    sentences = [
        f"{said}. {_exact(found)}",
        f"The largest difference within the card's memory: {worst}." if any(found.values()) else "",
        "GB where no unit is given." if numbers and any("." in t and " " not in t for t in texts) else "",
        "In italics: more than the card's memory." if numbers and len(held) < len(found) else "",
        f"Empty: not known ({missing})." if missing else "",
        f"{'OOM' if numbers else 'Grey'}: out of memory." if part.out_of_memory(phase) else "",
    ]
    return " ".join(filter(None, sentences))


def _cells(axes: Axes, roles: dict[tuple[int, int], str], numbers: bool) -> None:
    """The cells of each colour as one shape; without gaps, and without hairlines, where there are too many."""
    inset = 0.03 if numbers else 0.0
    for role in sorted(set(roles.values())):
        squares = [_square(place, inset) for place, own in roles.items() if own == role]
        codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(squares)
        shape = Path(np.concatenate(squares), codes)
        axes.add_patch(PathPatch(shape, color=LIGHT[role], linewidth=0, antialiased=numbers))


def _square(place: tuple[int, int], inset: float) -> list[tuple[float, float]]:
    (x, y), half = place, 0.5 - inset
    return [(x + dx * half, y + dy * half) for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]


def _number(axes: Axes, place: tuple[int, int], text: str, role: str, style: str = "normal") -> None:
    axes.text(*place, text, ha="center", va="center_baseline", fontsize=SMALL, fontstyle=style, color=LIGHT[role])


def _map_axes(axes: Axes, contexts: Sequence[int], batches: Sequence[int]) -> None:
    axes.set_xlim(-0.5, len(batches) - 0.5)
    axes.set_ylim(-0.5, len(contexts) - 0.5)
    for axis, values, text in ((axes.xaxis, batches, str), (axes.yaxis, contexts, tokens_text)):
        every = max(1, -(-len(values) // 12))
        axis.set_major_locator(FixedLocator([float(p) for p in range(0, len(values), every)]))
        axis.set_major_formatter(FuncFormatter(lambda p, _, v=values, t=text: t(v[int(p)])))
    axes.tick_params(length=0, pad=4, labelcolor=LIGHT["ink"])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("batch, sequences", labelpad=2)
    axes.set_ylabel("context, tokens", labelpad=2)


def _residual_key(panel: Panel) -> None:
    """Nine swatches from "predicts too little" to "too much", with the steps between them."""
    roles = [*(f"low-{n}" for n in (4, 3, 2, 1)), "zero", *(f"high-{n}" for n in (1, 2, 3, 4))]
    steps = ["", "−10", "−1", "−.1", "", "", "+.1", "+1", "+10"]
    width, height, left, up = 25, 9, 66, 18
    for i, (role, step) in enumerate(zip(roles, steps, strict=True)):
        panel.figure.add_artist(
            Rectangle(
                ((left + width * i) / WIDTH, up / panel.height),
                width / WIDTH,
                height / panel.height,
                transform=panel.figure.transFigure,
                color=LIGHT[role],
                linewidth=0,
            )
        )
        _key_text(panel, left + width * i, 6, step, "center")
    end = left + 9 * width + 5
    places: Iterable[tuple[float, float, str, str]] = (
        (left + width * 4.5, 6, "0", "center"),
        (left - 5, up + 1, "too low", "right"),
        (end, up + 1, "too high", "left"),
        (end, 6, "GB", "left"),
    )
    for x, y, text, side in places:
        _key_text(panel, x, y, text, side)


def _key_text(panel: Panel, x: float, y: float, text: str, side: str) -> None:
    panel.figure.text(x / WIDTH, y / panel.height, text, ha=side, fontsize=SMALL, color=LIGHT["muted"])
