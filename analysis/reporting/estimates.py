"""The figure of public estimators beside measured peaks, at one batch."""

from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.reporting.axes import (
    KINDS,
    answers,
    bytes_axis,
    card_caption,
    card_line,
    context_axis,
    draw_line,
    heading,
    range_text,
)
from vram_ledger.analysis.reporting.drawing import Drawing, End, Panel
from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.harness.records import Phase

SHOWN = ("fitmygpu", "hf-mem", "accelerate-inference", "nyxkrage", "canitrun")
ESTIMATOR_LINES = (("orange", "-"), ("green", "--"), ("purple", "-."), ("gold", (0, (1, 1.2))), ("grey", "--"))
SEVERAL = 3  # contexts that a larger batch must have within the card to be worth a figure


def estimator_batches(part: Part, phase: Phase) -> tuple[int, ...]:
    """The smallest batch that ran, and the largest that the card's memory holds at several contexts."""
    points = part.points(phase)
    within = [b for (_, b), m in points.items() if part.fits(m.warm.requested_bytes)]
    large = [b for b in within if within.count(b) >= SEVERAL]
    return tuple(dict.fromkeys((min(b for _, b in points), *([max(large)] if large else []))))


def estimators(part: Part, phase: Phase, batch: int) -> Drawing:
    """The measured points of a batch, with our formula and with what public estimators say."""
    panel = Panel(heading(part, f"{KINDS[phase]} at batch {batch}: what estimators say"), right=108)
    own = _points(part, phase, batch)
    contexts, sizes = [c for c, _ in own], [size for _, size in own]
    formula = part.formulas.get(phase)
    if formula is not None:
        draw_line(
            panel.axes,
            answers(part, phase, batch, formula.peak, contexts),
            color=LIGHT["blue"],
            linewidth=1.8,
            zorder=4,
        )
    panel.axes.plot(contexts, sizes, linestyle="none", marker="o", markersize=4.6, color=LIGHT["blue"], zorder=5)
    counted = part.kind.word
    ends, told = [End(y=sizes[-1], text=counted, colour=LIGHT["blue"])], [range_text(counted, own)]
    for name, (role, dashes) in zip(SHOWN, ESTIMATOR_LINES, strict=True):
        found = answers(part, phase, batch, lambda w, e=ESTIMATORS[name]: part.ask(e, w), contexts)  # type: ignore[misc]
        if found:
            draw_line(panel.axes, found, color=LIGHT[role], linewidth=1.5, linestyle=dashes)
            ends.append(End(y=found[-1][1], text=name.removesuffix("-inference"), colour=LIGHT[role]))
            told.append(range_text(name, found))
            sizes += [size for _, size in found]
    margin = (max(sizes) - min(sizes)) * 0.06 or max(sizes) * 0.06
    low, high = max(0.0, min(sizes) - margin), max(sizes) + margin
    bytes_axis(panel.axes, low, high, log=False)
    context_axis(panel.axes, contexts)
    card = card_line(panel.axes, part, low, high)
    panel.label_ends([*ends, *card])
    return panel.finished(
        f"{part.name}.{phase}.estimators-batch{batch}",
        f"Batch {batch}. {'; '.join(told)}.",
        f"Dots: {part.kind.word}"
        + (f"; blue line: {formula.name}. " if formula else ". ")
        + "Other lines: what each estimator answers for the same workload; what it claims to count is in the "
        "scoreboard. accelerate is its estimate for inference. The axis does not start at 0. "
        + card_caption(part, card),
    )


def _points(part: Part, phase: Phase, batch: int) -> list[tuple[int, int]]:
    """Contexts and bytes of a batch: within the card, or all where that is none or the smallest batch."""
    own = [(c, m.warm.requested_bytes) for (c, b), m in part.points(phase).items() if b == batch]
    within = [p for p in own if part.fits(p[1])]
    return within if within and batch != estimator_batches(part, phase)[0] else own
