"""The figures of measured peaks: against the context, and as all the counters of a card."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from vram_ledger.analysis.estimating.breakdown import QUANTITIES, Quantity
from vram_ledger.analysis.ground.kinds import TYPED_IN
from vram_ledger.analysis.reporting.axes import (
    GB,
    KINDS,
    MOST_LINES,
    answers,
    bytes_axis,
    card_caption,
    card_line,
    context_axis,
    draw_line,
    heading,
    range_text,
    some,
)
from vram_ledger.analysis.reporting.drawing import Drawing, End, Panel
from vram_ledger.analysis.reporting.palette import LIGHT, ramp
from vram_ledger.analysis.reporting.part import Formula, Part
from vram_ledger.harness.records import Measured, OutOfMemory, Phase

LARGEST_CARD = 320 * GB  # where the axis ends, so that what cards have fills the picture
COUNTER_LINES = (("blue", "-"), ("green", "--"), ("gold", "-."), ("purple", (0, (1, 1.2))), ("orange", "--"))


def peaks(part: Part, phase: Phase) -> Drawing:
    """Peak against context: a colour a batch, measured points as dots, the formula as lines, crosses out of memory."""
    panel = Panel(heading(part, f"{KINDS[phase]}: requested peak against context"), right=96)
    points, batches = part.points(phase), some(part.batches(phase))
    sizes = [m.warm.requested_bytes for m in points.values()]
    refused = part.out_of_memory(phase)
    tops = [*sizes, part.campaign.gpu_bytes or 0, *(reached(o) or 0 for o in refused.values())]
    low, high = min(sizes) * 0.85, min(max(tops) * 1.25, max(LARGEST_CARD, min(sizes) * 2))
    bytes_axis(panel.axes, low, high, log=True)
    context_axis(panel.axes, part.contexts(phase))
    ends = []
    for i, batch in enumerate(batches):
        colour = ramp(i, len(batches))
        own = [(c, s) for (c, b), m in points.items() if b == batch and (s := m.warm.requested_bytes) <= high]
        end = _line(panel.axes, part, phase, batch, colour, high)
        _dots(panel.axes, part, own, colour)
        _crosses(panel.axes, part, [(c, o) for (c, b), o in refused.items() if b == batch], colour, high)
        if end or own:
            x, y = end or own[-1]
            ends.append(End(y=y, text=f"B = {batch}", colour=colour, x=x))
    card = card_line(panel.axes, part, low, high)
    panel.label_ends([*ends, *card])
    return panel.finished(
        f"{part.name}.{phase}.peaks", _description(part, phase), _caption(part, phase, high) + card_caption(part, card)
    )


def reached(outcome: OutOfMemory) -> int | None:
    """What a program that ran out of memory held and asked for, at the least, where the allocator said."""
    if outcome.requested_bytes is None or outcome.asked_bytes is None:
        return None
    return outcome.requested_bytes + outcome.asked_bytes


def _line(axes: Axes, part: Part, phase: Phase, batch: int, colour: str, high: float) -> tuple[float, float] | None:
    """Draws the formula's line and gives its last point that is on the axis; ``None`` without a formula."""
    formula = part.formulas.get(phase)
    found = answers(part, phase, batch, formula.peak, part.contexts(phase)) if formula else []
    if not found:
        return None
    draw_line(axes, found, color=colour, linewidth=1.3, zorder=3)
    return next((p for p in reversed(found) if p[1] <= high), (found[0][0], high))


def _dots(axes: Axes, part: Part, own: Sequence[tuple[int, int]], colour: str) -> None:
    for fits in (True, False):
        shown = [p for p in own if part.fits(p[1]) == fits]
        axes.plot(
            [c for c, _ in shown],
            [size for _, size in shown],
            linestyle="none",
            marker="o",
            markersize=4.2,
            markeredgewidth=1.2,
            markeredgecolor=colour,
            markerfacecolor=colour if fits else LIGHT["surface"],
            zorder=4,
        )


def _crosses(axes: Axes, part: Part, own: Sequence[tuple[int, OutOfMemory]], colour: str, high: float) -> None:
    """A cross at what was held and asked for; at the card's memory, or the top, where the allocator did not say."""
    elsewhere = part.campaign.gpu_bytes or high
    heights = [min(reached(outcome) or elsewhere, high) for _, outcome in own]
    axes.plot(
        [c for c, _ in own], heights, linestyle="none", marker="x", markersize=7, markeredgewidth=1.8, color=colour,
        zorder=5, clip_on=False,
    )  # fmt: skip


def _description(part: Part, phase: Phase) -> str:
    points, refused = part.points(phase), part.out_of_memory(phase)
    told = []
    for batch in part.batches(phase):
        own = [(c, m.warm.requested_bytes) for (c, b), m in points.items() if b == batch]
        if own:
            told.append(range_text(f"batch {batch}", own))
    count = f"; {counted(len(refused))} out of memory" if refused else ""
    return f"{counted(len(points))}{count}. {'; '.join(told)}."


def counted(number: int, what: str = "point") -> str:
    """So many of a thing: "1 point", "70 points"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _caption(part: Part, phase: Phase, high: float) -> str:
    formula, batches = part.formulas.get(phase), part.batches(phase)
    sizes = [m.warm.requested_bytes for m in part.points(phase).values()]
    refused = part.out_of_memory(phase).values()
    lost = sum(w.phase == phase for w in part.invented)
    beyond, silent = sum(not part.fits(size) for size in sizes), any(reached(o) is None for o in refused)
    above = sum(size > high for size in sizes)
    sentences = [
        f"Dots: requested bytes at the peak, {part.kind.word}.",
        _lines(formula),
        f"Hollow: more than the card's memory ({beyond} of {len(sizes)})." if beyond else "",
        f"Above the axis, in the table only: {above} of {len(sizes)}." if above else "",
        f"Crosses: out of memory ({len(refused)}), at what was held and asked for"
        f"{', or at the card’s memory where that is not known' if silent else ''}."
        if refused
        else "",
        f"Left out: {counted(lost)} that read what nothing had written." if lost else "",
        f"Shown: {MOST_LINES} of {len(batches)} batches." if len(batches) > MOST_LINES else "",
    ]
    return " ".join(filter(None, sentences)) + " "


def _lines(formula: Formula | None) -> str:
    return f"Lines: {formula.name}." if formula else "No formula is stored, so there are no lines."


def counters(part: Part, phase: Phase) -> Drawing | None:
    """Every byte counter that the device has, against the context at one batch; none where it is only one."""
    points = part.points(phase)
    known = [q for q in QUANTITIES if any(count(m, q) is not None for m in points.values())]
    if len(known) < 2:
        return None
    batch = max(part.batches(phase), key=lambda b: (sum(own == b for _, own in points), -b))
    panel = Panel(heading(part, f"{KINDS[phase]}: what each counter says"), right=88)
    ends, told, sizes = [], [], []
    for quantity in known:
        role, dashes = COUNTER_LINES[QUANTITIES.index(quantity)]
        own = [(c, n) for (c, b), m in points.items() if b == batch and (n := count(m, quantity)) is not None]
        if own:
            draw_line(panel.axes, own, color=LIGHT[role], linestyle=dashes, linewidth=1.4)
            panel.axes.plot(*zip(*own, strict=True), linestyle="none", marker="o", markersize=4, color=LIGHT[role])
            starred = "*" if quantity in part.kind.typed_in else ""
            ends.append(End(y=own[-1][1], text=f"{quantity}{starred}", colour=LIGHT[role], x=own[-1][0]))
            told.append(range_text(quantity, own))
            sizes += [size for _, size in own]
    margin = (max(sizes) - min(sizes)) * 0.06 or max(sizes) * 0.06
    bytes_axis(panel.axes, max(0.0, min(sizes) - margin), max(sizes) + margin, log=False)
    context_axis(panel.axes, sorted({c for c, b in points if b == batch}))
    panel.label_ends(ends)
    return panel.finished(
        f"{part.name}.{phase}.counters",
        f"Batch {batch}. {'; '.join(told)}.",
        f"Batch {batch}, the second call of each shape: what the program asked for, and what the allocator, the "
        "process and the whole card had at their highest. The axis does not start at 0; the first calls are in the "
        "table of all points." + (f" *{TYPED_IN}." if set(known) & set(part.kind.typed_in) else ""),
    )


def count(outcome: Measured, quantity: Quantity) -> int | None:
    """One of the counters at the peak; ``None`` where the device does not have it."""
    found: int | None = getattr(outcome.warm, f"{quantity}_bytes")
    return found
