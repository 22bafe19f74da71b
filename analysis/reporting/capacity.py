"""What fits which card: yes or no by card and context, and the longest contexts by card and batch."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.ground.cards import Card, read_cards
from vram_ledger.analysis.ground.kinds import EMULATED, MEASURED, REPLAYED, Word
from vram_ledger.analysis.predicting.capacity import BATCHES, Frontier, Largest
from vram_ledger.analysis.predicting.capacity import frontier as frontier_of
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.reporting.axes import KINDS
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.errors import NothingKnown
from vram_ledger.harness.records import Phase
from vram_ledger.home import GPUS

ASKED_TOKENS = (4096, 16_384, 32_768, 65_536, 131_072, 262_144)
CHUNK_TOKENS = 8192  # of the chunked prefill that stands beside the single shot
# The matrix on top, and every batch, are for one card of each size that people have; the lookup has all of gpus.toml.
CARDS = ("rtx-4090", "rtx-5090", "a100-40gb", "l40s", "h100", "a100-80gb", "rtx-pro-6000", "gb10", "h200", "b200",
         "b300")  # fmt: skip


def card_frontiers() -> Callable[[Part], list[Frontier]]:
    """What fits each card, of a configuration; at every batch for :data:`CARDS`. Stored files are read once."""
    library, cards = Library.of(), tuple(read_cards(GPUS).values())
    return lambda part: _frontiers_of(part, library, cards)


def _frontiers_of(part: Part, library: Library, cards: Sequence[Card]) -> list[Frontier]:
    """A prefill, one in chunks and a decode on each card; nothing of what is unknown."""
    configuration = part.configuration
    variant = variant_of(configuration)
    asked: list[tuple[Phase, int]] = [("prefill", 0), ("decode", 0)]
    if not configuration.prefill_chunk_tokens:
        asked.insert(1, ("prefill", CHUNK_TOKENS))
    found = []
    for phase, chunk in asked:
        for card in cards:
            with suppress(NothingKnown):
                batches = BATCHES if card.label in CARDS else BATCHES[:1]
                ready = library.predictor(part.config, variant, card, chunk=chunk)
                found.append(frontier_of(ready, phase, batches, contexts=(), spread=0))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a card holds of one sequence, a prefill and then a decode: the longest contexts, single shot and in chunks.

    A context in chunks is the longest of the two: what fits in one piece needs no chunks.
    """

    gpu: str
    whole: Largest
    chunks: Largest

    def answer(self, context_tokens: int) -> str:
        """Whether a context fits: "fits", "chunks", "margin" where the allocator decides, or "no"."""
        if context_tokens <= self.whole.certain:
            return "fits"
        if context_tokens <= self.chunks.certain:
            return "chunks"
        return "margin" if context_tokens <= max(self.whole.possible, self.chunks.possible) else "no"


def rooms(frontiers: Sequence[Frontier]) -> list[Room]:
    """What every card holds of one sequence, the least first; without cards of which a phase is not known."""
    ends: dict[str, dict[tuple[Phase, bool], Largest]] = {}
    for own in frontiers:
        ends.setdefault(own.gpu, {}).update({(own.phase, own.chunk_tokens > 0): c for c in own.contexts if c.at == 1})
    found = []
    for gpu, own_ends in ends.items():
        prefill, decode = own_ends.get(("prefill", False)), own_ends.get(("decode", False))
        if prefill and decode:
            whole = _both(prefill, decode)
            chunked = _both(own_ends.get(("prefill", True), prefill), decode)
            found.append(Room(gpu=gpu, whole=whole, chunks=max(chunked, whole, key=lambda e: (e.certain, e.possible))))
    return sorted(found, key=lambda r: (r.chunks.certain, r.chunks.possible, r.whole.certain, r.gpu))


def _both(one: Largest, other: Largest) -> Largest:
    """The longest context at which two things fit."""
    certain, possible = min(one.certain, other.certain), min(one.possible, other.possible)
    return Largest(at=one.at, certain=certain, possible=possible, most=min(one.most, other.most))


def most_room_first(frontier: Frontier) -> tuple[tuple[int, int], ...]:
    """Orders cards by what they hold, the most first."""
    return tuple((-longest.certain, -longest.possible) for longest in frontier.contexts)


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


def words_of(frontiers: Sequence[Frontier]) -> tuple[Word, ...]:
    """The kinds of number that any of the frontiers was made from."""
    return tuple(dict.fromkeys(word for f in frontiers for word in f.words))


def predicted_role(words: Sequence[Word]) -> str:
    """The colour of the banner: that of what is known least."""
    if REPLAYED.word in words or not words:
        return REPLAYED.role
    return MEASURED.role if set(words) == {MEASURED.word} else EMULATED.role
