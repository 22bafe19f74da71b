"""The residual map: measured minus predicted over context and batch, of our formula and of an estimator."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis.estimators.catalogue import ESTIMATORS
from analysis.refereeing.score import compared
from analysis.reporting.drawing import SMALL, Drawing, Panel
from analysis.reporting.figures import GB, KINDS, beyond, heading, tokens_text
from analysis.reporting.palette import LIGHT
from analysis.reporting.part import Part
from harness.records import Measured, Phase, Workload

KEY = 9  # size of a colour key's text
STEPS_BYTES = (GB // 10, GB, 10 * GB)  # where a residual's colour changes
MOST_ROWS, MOST_COLUMNS = 14, 7  # cells that have room for a number


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
    return f"{'low' if residual_bytes > 0 else 'high'}-{level}"


def residual_of(part: Part, phase: Phase, name: str) -> Callable[[Workload, Measured], int | None]:
    """Measured minus what is said, by the formula ("") or by an estimator, in the quantity that it claims."""

    def residual(workload: Workload, outcome: Measured) -> int | None:
        if not name:
            said = part.formulas[phase].peak(workload)
            return None if said is None else outcome.warm.requested_bytes - said
        answer = ESTIMATORS[name](part.request(workload))
        measured: int = getattr(outcome.warm, f"{compared(answer.predicts, outcome)}_bytes")
        return measured - answer.total_bytes

    return residual


def residuals(part: Part, phase: Phase, name: str = "") -> Drawing:
    """Measured minus predicted over context and batch: the formula's ("") or an estimator's, a number a cell."""
    contexts, batches = part.contexts(phase), part.batches(phase)
    numbers = len(contexts) <= MOST_ROWS and len(batches) <= MOST_COLUMNS
    rows = len(contexts) * 25 if numbers else 300
    title = f"{KINDS[phase]}: {'measured' if not part.banner else 'replayed'} − {name or 'our formula'}"
    panel = Panel(heading(part, title), height=128 + rows, left=62, right=12, bottom=68)
    difference = residual_of(part, phase, name)
    found = {}
    for (context, batch), outcome in part.points(phase).items():
        value = difference(part.workload(phase, context, batch), outcome)
        if value is not None:
            found[context, batch] = value
            _cell(panel.axes, contexts.index(context), batches.index(batch), value, numbers, outcome, part)
    _map_axes(panel.axes, contexts, batches)
    _residual_key(panel)
    exact = sum(value == 0 for value in found.values())
    worst = max(found.values(), key=abs, default=0)
    said = ESTIMATORS[name](part.request(next(w for w in part.ran if w.phase == phase))).predicts if name else ""
    claim = f"{name} claims the {said} bytes" if name else f"Against {part.formulas[phase].name}"
    quantity = compared(said, next(iter(part.points(phase).values()))) if said else "requested"
    return panel.finished(
        f"{part.name}.{phase}.residuals-{name or 'ours'}",
        f"{exact} of {len(found)} points exact; the largest difference is {bytes_text(worst)}.",
        f"{claim}; held against {quantity} bytes of {part.campaign.results.path.name}. {exact} of {len(found)} points "
        f"exact, the largest difference {bytes_text(worst)}. GB where no unit is given"
        + ("; in italics: more than the card holds." if beyond(part, phase) else "."),
    )


def _cell(axes: Axes, row: int, column: int, value: int, numbers: bool, outcome: Measured, part: Part) -> None:
    inset = 0.03 if numbers else 0.0
    axes.add_patch(
        Rectangle(
            (column - 0.5 + inset, row - 0.5 + inset),
            1 - 2 * inset,
            1 - 2 * inset,
            color=LIGHT[residual_role(value)],
            linewidth=0,
        )
    )
    if numbers:
        style = "normal" if part.fits(outcome.warm.requested_bytes) else "italic"
        axes.text(column, row, residual_text(value), ha="center", va="center_baseline", fontsize=SMALL, fontstyle=style)


def _map_axes(axes: Axes, contexts: Sequence[int], batches: Sequence[int]) -> None:
    axes.set_xlim(-0.5, len(batches) - 0.5)
    axes.set_ylim(-0.5, len(contexts) - 0.5)
    for axis, values, text in ((axes.xaxis, batches, str), (axes.yaxis, contexts, tokens_text)):
        every = max(1, -(-len(values) // 12))
        places = list(range(0, len(values), every))
        axis.set_major_locator(FixedLocator([float(p) for p in places]))
        axis.set_major_formatter(FuncFormatter(lambda p, _, v=values, t=text: t(v[int(p)])))
    axes.tick_params(length=0, pad=4, labelcolor=LIGHT["ink"])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("batch, sequences", labelpad=2)
    axes.set_ylabel("context, tokens", labelpad=2)


def _residual_key(panel: Panel) -> None:
    """Nine swatches from "predicts too much" to "too little", with the steps between them."""
    roles = [*(f"high-{n}" for n in (4, 3, 2, 1)), "zero", *(f"low-{n}" for n in (1, 2, 3, 4))]
    names = ["", "−10", "−1", "−0.1", "", "", "+0.1", "+1", "+10"]
    width, height, left, up = 25, 9, 67, 17
    for i, role in enumerate(roles):
        panel.figure.add_artist(
            Rectangle(
                ((left + width * i) / 360, up / panel.height),
                width / 360,
                height / panel.height,
                transform=panel.figure.transFigure,
                color=LIGHT[role],
                linewidth=0,
            )
        )
        if names[i]:
            panel.figure.text(
                (left + width * i) / 360, 6 / panel.height, names[i], ha="center", fontsize=KEY, color=LIGHT["muted"]
            )
    middle = left + width * 4.5
    panel.figure.text(middle / 360, 6 / panel.height, "0", ha="center", fontsize=KEY, color=LIGHT["muted"])
    for x, side, text in ((left - 5, "right", "too high"), (left + 9 * width + 5, "left", "too low")):
        panel.figure.text(x / 360, (up + 1.5) / panel.height, text, ha=side, fontsize=KEY, color=LIGHT["muted"])
    panel.figure.text((left + 9 * width + 5) / 360, 6 / panel.height, "GB", fontsize=KEY, color=LIGHT["muted"])
