"""The capacity frontier: the longest context that fits a card, against the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis.reporting.drawing import Drawing, Heading, Panel
from analysis.reporting.figures import KINDS, tokens_text
from analysis.reporting.palette import ramp
from harness.records import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The longest contexts that fit a card, by batch. 0: not even one token.

    longest_certain: fits whatever the unknown share of the device turns out to be; longest_possible: fits at best.
    """

    gpu: str
    phase: Phase
    batches: tuple[int, ...]
    longest_certain: tuple[int, ...]
    longest_possible: tuple[int, ...]


def range_text(certain: int, possible: int) -> str:
    """Both ends in words: "–" if nothing fits, one number where they agree."""
    if not possible:
        return "–"
    return f"{certain:,}" if certain == possible else f"{certain:,} to {possible:,}"


def alike(frontiers: Sequence[Frontier]) -> list[tuple[str, Frontier]]:
    """Cards with one and the same frontier together, most room first: "h100 +1" and what they share."""
    groups: dict[tuple[tuple[int, ...], ...], list[Frontier]] = {}
    for frontier in frontiers:
        groups.setdefault((frontier.batches, frontier.longest_certain, frontier.longest_possible), []).append(frontier)
    named = [(f"{own[0].gpu} +{len(own) - 1}" if len(own) > 1 else own[0].gpu, own[0]) for own in groups.values()]
    return sorted(named, key=lambda pair: (tuple(-v for v in pair[1].longest_certain), pair[0]))


def frontier(name: str, heading: Heading, frontiers: Sequence[Frontier], caption: str) -> Drawing:
    """Longest context against batch, a line a card that holds anything, its band from certain to possible."""
    panel = Panel(heading, height=330, right=94)
    shown = [(label, f) for label, f in alike(frontiers) if any(f.longest_possible)]
    ends, longest = [], 1
    for i, (label, own) in enumerate(shown):
        colour = ramp(i, len(shown))
        possible = [(b, p) for b, p in zip(own.batches, own.longest_possible, strict=True) if p]
        certain = [(b, c) for b, c in zip(own.batches, own.longest_certain, strict=True) if c]
        floor = dict(certain)
        batches = [b for b, _ in possible]
        highs = [p for _, p in possible]
        panel.axes.fill_between(
            batches, [floor.get(b, 1) for b in batches], highs, color=colour, alpha=0.22, linewidth=0
        )
        panel.axes.plot([b for b, _ in certain], [c for _, c in certain], color=colour, linewidth=1.5)
        ends.append((float(certain[-1][1] if certain else highs[-1]), label, colour))
        longest = max(longest, *highs)
    _axes(panel, sorted({b for _, f in shown for b in f.batches}), longest)
    panel.label_ends(ends)
    described = [f"{label}: {tokens_text(f.longest_certain[0])} at batch {f.batches[0]}" for label, f in shown]
    return panel.finished(name, "Longest context that certainly fits. " + "; ".join(described), caption)


def _axes(panel: Panel, batches: Sequence[int], longest: int) -> None:
    axes = panel.axes
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    low = 128
    axes.set_xlim(batches[0] / 1.1, batches[-1] * 1.1)
    axes.set_ylim(low, max(longest, 2 * low) * 1.5)
    axes.xaxis.set_major_locator(FixedLocator([float(b) for b in batches if b & (b - 1) == 0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(FixedLocator([float(2**n) for n in range(7, 31, 2) if 2**n <= longest * 1.5]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
    axes.set_xlabel("batch, sequences")
    axes.set_ylabel("longest context, tokens", labelpad=2)
    axes.grid(axis="both")
    axes.tick_params(length=0, pad=5)


def frontier_heading(subject: str, phase: Phase, banner: str) -> Heading:
    """What stands above a frontier."""
    return Heading(title=f"{KINDS[phase]}: what fits which GPU", subject=subject, banner=banner)
