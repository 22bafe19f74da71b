"""The capacity frontier: the longest context that fits a card, against the batch."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from matplotlib.ticker import FixedLocator, FuncFormatter

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.ground.cards import Card, read_cards
from vram_ledger.analysis.ground.kinds import EMULATED, MEASURED, REPLAYED, Word, predicted_banner
from vram_ledger.analysis.predicting.capacity import Frontier, Largest
from vram_ledger.analysis.predicting.capacity import frontier as frontier_of
from vram_ledger.analysis.predicting.configs import with_chunk
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.reporting.axes import KINDS, tokens_text
from vram_ledger.analysis.reporting.drawing import Drawing, End, Heading, Panel
from vram_ledger.analysis.reporting.palette import ramp
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.errors import NothingKnown
from vram_ledger.harness.records import Phase
from vram_ledger.home import GPUS

LOWEST = 128  # tokens at the bottom of the axis
CHUNK_TOKENS = 2048  # of the chunked prefill that stands beside the single shot
# One card of each size that people have: a line for every section of gpus.toml could not be told from its neighbours.
CARDS = (
    "rtx-5080",
    "rtx-4090",
    "rtx-5090",
    "a100-40gb",
    "l40s",
    "h100",
    "rtx-pro-6000",
    "gb10",
    "h200",
    "b200",
    "b300",
)


def card_frontiers() -> Callable[[Part], list[Frontier]]:
    """What fits each of :data:`CARDS`, of a configuration; what is stored is read once for all."""
    library, known = Library.of(), read_cards(GPUS)
    cards = tuple(known[label] for label in CARDS)
    return lambda part: _frontiers_of(part, library, cards)


def _frontiers_of(part: Part, library: Library, cards: Sequence[Card]) -> list[Frontier]:
    """A prefill, one in chunks and a decode on each card; nothing of what is unknown."""
    configuration = part.configuration
    variant = variant_of(configuration)
    asked: list[tuple[Phase, str]] = [("prefill", variant), ("decode", variant)]
    if not configuration.prefill_chunk_tokens:
        asked.insert(1, ("prefill", with_chunk(variant, CHUNK_TOKENS)))
    found = []
    for phase, name in asked:
        for card in cards:
            with suppress(NothingKnown):
                found.append(frontier_of(library.predictor(part.config, name, card), phase, contexts=()))
    return found


def alike(frontiers: Sequence[Frontier]) -> list[tuple[str, Frontier]]:
    """Cards with one and the same frontier together, most room first: "h100 +1" and what they share."""
    groups: dict[tuple[Largest, ...], list[Frontier]] = {}
    for frontier in frontiers:
        groups.setdefault(frontier.contexts, []).append(frontier)
    named = [(f"{own[0].gpu} +{len(own) - 1}" if len(own) > 1 else own[0].gpu, own[0]) for own in groups.values()]
    return sorted(named, key=lambda pair: (most_room_first(pair[1]), pair[0]))


def most_room_first(frontier: Frontier) -> tuple[tuple[int, int], ...]:
    """Orders cards by what they hold, the most first."""
    return tuple((-longest.certain, -longest.possible) for longest in frontier.contexts)


def frontier_figure(name: str, heading: Heading, frontiers: Sequence[Frontier], caption: str) -> Drawing:
    """Longest context against batch, a line a card that holds anything, its band from certain to possible."""
    panel = Panel(heading, height=340, right=104)
    shown = [(label, f) for label, f in alike(frontiers) if holds_anything(f)]
    longest = max(c.possible for _, f in shown for c in f.contexts)
    _axes(panel, sorted({c.at for _, f in shown for c in f.contexts}), longest)
    ends = []
    for i, (label, own) in enumerate(shown):
        x, y = _band(panel.axes, own.contexts, ramp(i, len(shown)))
        ends.append(End(y=y, text=label, colour=ramp(i, len(shown)), x=x))
    panel.label_ends(ends)
    described = [f"{label}: {_ends_text(f.contexts)}" for label, f in shown]
    return panel.finished(name, f"Longest context that certainly fits. {'; '.join(described)}.", caption)


def _band(axes: Axes, contexts: Sequence[Largest], colour: str) -> tuple[int, int]:
    """Draws a card's line and its band, to the last batch that may fit; gives the line's end, or the band's."""
    possible = [longest for longest in contexts if longest.possible]
    certain = [longest for longest in contexts if longest.certain]
    floor = [(longest.at, longest.certain) for longest in certain]
    if len(possible) > len(certain):  # from the last certain batch on, anything down to nothing is within the margin
        floor += [(certain[-1].at if certain else possible[0].at, LOWEST), (possible[-1].at, LOWEST)]
    ceiling = [(longest.at, longest.possible) for longest in possible]
    axes.add_patch(Polygon([*ceiling, *reversed(floor)], facecolor=colour, alpha=0.22, linewidth=0))
    axes.plot([c.at for c in certain], [c.certain for c in certain], color=colour, linewidth=1.5)
    return (certain[-1].at, certain[-1].certain) if certain else ceiling[-1]


def _ends_text(contexts: Sequence[Largest]) -> str:
    """A card's line in words, by its first and its last batch."""
    certain = [longest for longest in contexts if longest.certain]
    if not certain:
        return "none, though some may"
    first, last = certain[0], certain[-1]
    return f"{tokens_text(first.certain)} tokens at batch {first.at} to {tokens_text(last.certain)} at batch {last.at}"


def _axes(panel: Panel, batches: Sequence[int], longest: int) -> None:
    axes = panel.axes
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlim(batches[0] / 1.1, batches[-1] * 1.1)
    axes.set_ylim(LOWEST, max(longest, 2 * LOWEST) * 1.5)
    axes.xaxis.set_major_locator(FixedLocator([float(b) for b in batches if b & (b - 1) == 0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(FixedLocator([float(2**n) for n in range(7, 31, 2) if 2**n <= longest * 1.5]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
    axes.set_xlabel("batch, sequences")
    axes.set_ylabel("longest context, tokens", labelpad=2)
    axes.grid(axis="both")
    axes.tick_params(length=0, pad=5)


def by_kind(frontiers: Sequence[Frontier]) -> dict[tuple[Phase, int], list[Frontier]]:
    """The frontiers of each phase and chunk, in order."""
    kinds: dict[tuple[Phase, int], list[Frontier]] = {}
    for frontier in frontiers:
        kinds.setdefault((frontier.phase, frontier.chunk_tokens), []).append(frontier)
    return kinds


def holds_anything(frontier: Frontier) -> bool:
    """Whether there is a context that may fit."""
    return any(longest.possible for longest in frontier.contexts)


def kind_text(phase: Phase, chunk_tokens: int) -> str:
    """What is asked to fit, in words."""
    return f"{KINDS[phase]} in chunks of {chunk_tokens:,}" if chunk_tokens else KINDS[phase]


def frontier_heading(subject: str, frontiers: Sequence[Frontier]) -> Heading:
    """What stands above frontiers of one kind, and from what kinds of number they were predicted."""
    words, first = words_of(frontiers), frontiers[0]
    return Heading(
        title=f"{kind_text(first.phase, first.chunk_tokens)}: what fits which GPU",
        subject=subject,
        banner=predicted_banner(words),
        role=predicted_role(words),
    )


def words_of(frontiers: Sequence[Frontier]) -> tuple[Word, ...]:
    """The kinds of number that any of the frontiers was made from."""
    return tuple(dict.fromkeys(word for f in frontiers for word in f.words))


def predicted_role(words: Sequence[Word]) -> str:
    """The colour of the banner: that of what is known least."""
    if REPLAYED.word in words or not words:
        return REPLAYED.role
    return MEASURED.role if set(words) == {MEASURED.word} else EMULATED.role
