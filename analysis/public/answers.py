"""What we say today of a published figure, and where that comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from vram_ledger.analysis.allocation.settings import rules_given
from vram_ledger.analysis.derivation.program import OutOfRoom
from vram_ledger.analysis.ground.cards import GIVEN, card_of, read_amount, section_of
from vram_ledger.analysis.ground.figures import (
    Figure,
    FromCard,
    FromExpression,
    FromProgram,
    FromProtocol,
    FromRuntime,
    Protocol,
)
from vram_ledger.analysis.ground.printed import FigureError, Range
from vram_ledger.analysis.predicting.configs import config_of
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.predicting.prediction import Prediction
from vram_ledger.analysis.public.expressions import called, range_of, shapes_of, sizes_of
from vram_ledger.analysis.public.protocols import Told, read_told, told_range
from vram_ledger.analysis.serving.held import said
from vram_ledger.analysis.serving.model import read_served
from vram_ledger.errors import InputError, NothingKnown
from vram_ledger.home import GPUS

PEAKS = ("requested", "allocated", "reserved")
FAILED = ("asked", "free", "held")
RUNTIMES = {"vllm": "vLLM", "sglang": "SGLang"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer in bytes, or in the figure's own unit. source: a word; origin: the file or formula."""

    range: Range
    source: str
    origin: str


def answered(figure: Figure, protocols: Mapping[str, Protocol], told: Mapping[str, Told], library: Library) -> Answered:
    """The answer of a figure that has one; :class:`FigureError` names the figure if what it asks can't be answered.

    told: results that stand for the stored ones, of protocols that were just run.
    """
    try:
        match figure.answer:
            case FromProtocol() as asked:
                return _by_protocol(asked, protocols, told)
            case FromProgram() as asked:
                return _by_program(asked, library)
            case FromCard() as asked:
                return _by_card(asked, figure)
            case FromExpression() as asked:
                return _by_expression(asked)
            case FromRuntime() as asked:
                return _by_runtime(asked)
    except (InputError, NothingKnown) as error:
        raise FigureError(f"{figure.file}: figure {figure.name!r}: {error}") from error
    raise FigureError(f"{figure.file}: figure {figure.name!r} is not answered")


def _by_protocol(asked: FromProtocol, protocols: Mapping[str, Protocol], told: Mapping[str, Told]) -> Answered:
    if asked.protocol not in protocols:
        raise FigureError(f"no protocol is called {asked.protocol!r}; there are {', '.join(protocols) or 'none'}")
    found = told.get(asked.protocol) or read_told(protocols[asked.protocol].stored)
    return Answered(
        range=told_range(found, asked.at, asked.part), source="emulated", origin=f"protocol {asked.protocol}"
    )


def _by_program(asked: FromProgram, library: Library) -> Answered:
    if asked.quantity not in (*PEAKS, *FAILED):
        raise FigureError(f"quantity {asked.quantity!r} is none of {', '.join((*PEAKS, *FAILED))}")
    if asked.phase not in ("prefill", "decode"):
        raise FigureError(f"phase {asked.phase!r} is neither prefill nor decode")
    card = card_of(asked.card, GPUS, asked.memory) if asked.card else None
    outside = read_amount(asked.outside) if asked.outside else None
    rules = rules_given(asked.allocator)
    predictor = library.predictor(asked.model, asked.variant, card, outside, asked.transformers, asked.chunk, rules)
    found = predictor.predict("decode" if asked.phase == "decode" else "prefill", asked.batch, asked.context)
    size = Fraction(_counted(asked, found))
    return Answered(range=Range(least=size, most=size), source=found.basis, origin=found.origin)


def _counted(asked: FromProgram, found: Prediction) -> int:
    if asked.quantity in PEAKS:
        value: int | None = getattr(found, f"{asked.quantity}_bytes")
        if value is None:
            raise FigureError(f"only what is requested is known of this, not what is {asked.quantity}")
        return value
    failed: OutOfRoom | None = found.failed
    if failed is None:
        where = found.card.label if found.card else "a card; name one"
        raise FigureError(f"{asked.quantity} is of a phase that runs out of memory; this does not on {where}")
    failure = failed.failure
    return {"asked": failure.asked_bytes, "free": failure.free_bytes, "held": failure.held.allocated_bytes}[
        asked.quantity
    ]


def _by_card(asked: FromCard, figure: Figure) -> Answered:
    card = card_of(asked.card, GPUS)
    section = section_of(card.label, GPUS)
    if asked.quantity not in ("total", "outside"):
        raise FigureError(f"of a card total and outside are known, not {asked.quantity!r}")
    own = section.get(f"{asked.quantity}_from", GIVEN)
    if asked.quantity == "outside" and "outside_bytes" not in section:
        raise FigureError(f"what lies outside the allocator on {card.label} is not known")
    ends = (card.least_bytes, card.most_bytes) if asked.quantity == "total" else (section["outside_bytes"],) * 2
    itself = figure.address and figure.address in own
    return Answered(
        range=Range(least=Fraction(ends[0]), most=Fraction(ends[1])),
        source="card table",
        origin=f"{card.label}, which quotes this figure" if itself else f"{card.label}: {own}",
    )


def _by_expression(asked: FromExpression) -> Answered:
    shapes, sizes = sizes_of(config_of(asked.model)) if asked.model else (shapes_of(asked.sizes), {})
    found = range_of(asked.expression, shapes, {**sizes, **asked.sizes}, asked.given)
    runtime = any(name.startswith("vllm_") for name in called(asked.expression))
    return Answered(range=found, source="vLLM formula" if runtime else "config", origin=asked.expression)


def _by_runtime(asked: FromRuntime) -> Answered:
    name = RUNTIMES.get(asked.runtime, asked.runtime)
    found = said(asked, read_served(config_of(asked.model), asked.model))
    return Answered(range=found, source=f"{name} formula", origin=f"{asked.term}, as {name} has it")
