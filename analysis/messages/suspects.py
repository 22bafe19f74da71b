"""What an out-of-memory message is about: requests of the stored programs that end so, and tensors of the configs."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.derivation.derived import Derived, Origin
from vram_ledger.analysis.derivation.derived_files import MODEL_CLASSES, variant_of
from vram_ledger.analysis.derivation.program import Device, Program
from vram_ledger.analysis.formula.config import ConfigError, read_config
from vram_ledger.analysis.formula.shapes import resident_bytes
from vram_ledger.analysis.ground.cards import Card, read_cards
from vram_ledger.analysis.messages.endings import EFFORTS, Effort, Ending, endings
from vram_ledger.analysis.messages.message import Message
from vram_ledger.analysis.messages.tensors import HEAD, ROUND_UNITS, Named, named, tensors_of
from vram_ledger.analysis.predicting.configs import config_of
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.harness.records import Phase
from vram_ledger.home import GPUS

EQUAL_SHAPES = 4  # of each tensor found, at which other variants are looked at, too
Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A request of a program that ends as the message says.

    model, variants, phase: of the program; those that differ in nothing that a message tells are one. shapes: the
    batches and contexts at which it does, the roundest first. bytes: of the tensor at the first of them. exact: what is
    reserved agrees, too. weight: how many shapes there are; the rarer a large one is asked for, the less it counts.
    """

    origin: Origin
    model: str
    variants: tuple[str, ...]
    phase: Phase
    shapes: Shapes
    bytes: int
    exact: bool
    weight: float


def suspects(
    library: Library,
    models: Sequence[str],
    card: Card | None,
    message: Message,
    shape: tuple[int, int] | None,
    looked: Callable[[str], None] = lambda what: None,
) -> list[Suspect]:
    """The requests of all stored programs of the models that a message fits, the likeliest first.

    Where one ends with all of a message's figures, those that have but some of them are left out. looked: is told
    which program is looked through.
    """
    programs = [made for model in models for made in _programs(library, model, card)]
    plain = [made for made in programs if variant_of(made[0].derived.configuration) in MODEL_CLASSES]
    others = [made for made in programs if made not in plain]

    def of(chosen: Sequence[tuple[Program, Device]], effort: Effort, at: tuple[int, int] | None) -> Iterator[Suspect]:
        for program, device in chosen:
            looked(f"{program.derived.configuration.model} {_kind(program.derived)}")
            yield from _of_program(program.derived, endings(program, device, message, at, effort))

    near: list[Suspect] = []
    for group, rest, efforts in ((plain, others, EFFORTS), (others, [], EFFORTS[:1])):
        for effort in efforts:
            if effort == "long" and near:
                break  # of a run whose allocator was in another state no more is to be had
            found = list(of(group, effort, shape))
            near = near or found
            if exact := [suspect for suspect in found if suspect.exact]:
                shapes = dict.fromkeys(shape for suspect in exact for shape in suspect.shapes[:EQUAL_SHAPES])
                exact += [s for at in shapes for s in of(rest, "quick", at) if s.exact]
                return sorted(_joined(exact), key=lambda s: -s.weight)
    return sorted(_joined(near), key=lambda s: -s.weight)


def _joined(found: Sequence[Suspect]) -> Iterator[Suspect]:
    """What a line of a model makes once, with all variants and shapes at which it was found."""
    groups: dict[tuple[tuple[str, ...], str, Phase], list[Suspect]] = {}
    for suspect in sorted(found, key=lambda s: _plainness(s.shapes[0])):
        origin = suspect.origin
        groups.setdefault(((origin.module, origin.source, origin.op), suspect.model, suspect.phase), []).append(suspect)
    for every in groups.values():
        shapes = dict.fromkeys(shape for suspect in every for shape in suspect.shapes)
        variants = tuple(dict.fromkeys(variant for suspect in every for variant in suspect.variants))
        weight = sum({(s.variants, s.origin): s.weight for s in reversed(every)}.values())
        plain = tuple(sorted(shapes, key=_plainness))
        yield dataclasses.replace(every[0], variants=variants, shapes=plain, weight=weight)


def _kind(derived: Derived) -> str:
    return f"{variant_of(derived.configuration)} {derived.phase}"


def _of_program(derived: Derived, ends: Sequence[Ending]) -> Iterator[Suspect]:
    by_origin: dict[Origin, list[Ending]] = {}
    for ending in ends:
        by_origin.setdefault(ending.origin, []).append(ending)
    for origin, own in by_origin.items():
        best = [e for e in own if e.exact] or own
        best = sorted(best, key=lambda e: _plainness((e.batch, e.context_tokens)))
        yield Suspect(
            origin=origin,
            model=derived.configuration.model,
            variants=(variant_of(derived.configuration),),
            phase=derived.phase,
            shapes=tuple((e.batch, e.context_tokens) for e in best),
            bytes=best[0].bytes,
            exact=best[0].exact,
            weight=sum(1 / (e.batch * e.context_tokens) for e in best),
        )


def _plainness(shape: tuple[int, int]) -> tuple[int, int, int]:
    """By which shapes are listed: round contexts first, then round batches, then small ones."""
    batch, context = shape
    roundness = next((place for place, unit in enumerate(ROUND_UNITS) if context % unit == 0), len(ROUND_UNITS))
    return roundness, batch.bit_count(), batch


def config_tensors(models: Sequence[str], message: Message, shape: tuple[int, int] | None) -> list[Named]:
    """The tensors of the models' configs that a message fits, the likeliest first."""
    paths = {model: config_of(model) for model in models}
    weights = {model: size for model, path in paths.items() if (size := _weights(path)) is not None}
    allocated = message.allocated
    # A forward pass has all the weights beside it; what has less is still loading them.
    loading = {} if allocated is None else {model: allocated.most_bytes < size for model, size in weights.items()}
    return named({model: tensors_of(path) for model, path in paths.items()}, message.asked, shape, loading)


def _programs(library: Library, model: str, card: Card | None) -> list[tuple[Program, Device]]:
    """The stored programs of a model; a model of another family has none."""
    try:
        return list(library.programs_on(model, card))
    except ConfigError:
        return []


def _weights(path: Path) -> int | None:
    """Bytes of the text class's weights in 16 bits; ``None`` of a config that is not of the family."""
    try:
        return resident_bytes(read_config(path).shapes, "Qwen3_5ForCausalLM")
    except ConfigError:
        return None


def head_source(library: Library, model: str) -> str:
    """The line that makes the logits, as the newest stored program of a model has it; "" where none is stored."""
    for program, _ in _programs(library, model, None):
        for origin in program.derived.origins:
            if origin.module == HEAD:
                return origin.source
    return ""


def cards_printed(message: Message) -> list[Card]:
    """The cards of ``gpus.toml`` whose memory torch prints as this message has it."""
    if message.total is None:
        return []
    return [
        card
        for card in read_cards(GPUS).values()
        if card.least_bytes == card.most_bytes and message.total.has(card.most_bytes)
    ]
