"""What is asked of a server, and what is answered: bytes by term, what it counts, and what a request takes of that."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from vram_ledger.analysis.ground.cards import Card
from vram_ledger.analysis.serving.checkpoint import Stored
from vram_ledger.analysis.serving.model import Served
from vram_ledger.errors import InputError

Runtime = Literal["vllm", "sglang", "llama.cpp"]
POOL = "pool"


class ServingError(InputError):
    """Something asked of a server that it does not have; the message names what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The least and the most that a thing can be."""

    least: int
    most: int

    def __add__(self, other: "Span") -> "Span":
        return Span(least=self.least + other.least, most=self.most + other.most)

    def __sub__(self, other: "Span") -> "Span":
        return Span(least=self.least - other.most, most=self.most - other.least)

    def over(self, unit: int) -> "Span":
        """How many whole units there are; none of what is less than nothing."""
        return Span(least=max(0, self.least // unit), most=max(0, self.most // unit))


def exactly(value: int) -> Span:
    """A span of one value."""
    return Span(least=value, most=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheType:
    """A type of the KV cache: its name in the runtime, elements of a block and the bytes of one."""

    name: str
    elements: int
    bytes: int

    def of(self, elements: int) -> int:
        """Bytes of so many elements of a row."""
        return -(-elements // self.elements) * self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question. utilization: vLLM's gpu_memory_utilization, SGLang's mem_fraction_static; ``None``: the default.

    text: without the vision tower. drafts: tokens that are drafted ahead, 0 without speculation. cards: that share the
    model (tensor parallel); every figure is one card's. outside: what the card has to give to others than the weights
    and the pool, where it is known. pool: as a log printed it. context_tokens: of the longest request that there is to
    be.
    """

    model: Served
    text: bool
    context_tokens: int
    kv_type: str = ""
    prefix_caching: bool | None = None
    drafts: int = 0
    cards: int = 1
    weights: Stored | None = None
    bits: Span | None = None
    card: Card | None = None
    outside: Span | None = None
    utilization: Fraction | None = None
    pool: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Bytes on the card, where they come from, and how many figures of logs they are held against."""

    name: str
    least_bytes: int
    most_bytes: int
    source: str
    logs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something that a runtime counts, such as its blocks. unit: "" for a bare number. digits: decimals to print."""

    name: str
    least: float
    most: float
    unit: str
    source: str
    logs: int = 0
    digits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What there is of something; a request takes ``each`` of it, and ``step`` for every ``step_tokens`` begun."""

    name: str
    least: int
    most: int
    each: int
    step: int
    step_tokens: int

    def needs(self, batch: int, context_tokens: int) -> int:
        """What so many requests of such a length take."""
        return batch * (self.each + self.step * -(-context_tokens // self.step_tokens))

    def holds(self, batch: int, context_tokens: int, sure: bool) -> bool:
        """Whether they find room."""
        return self.needs(batch, context_tokens) <= (self.least if sure else self.most)

    def longest(self, batch: int, most_tokens: int, sure: bool) -> int:
        """The longest context of so many requests, up to a length; 0 if there is none."""
        left = max(0, self.least if sure else self.most) // batch - self.each
        if self.step == 0:
            return most_tokens if left >= 0 else 0
        return max(0, min(most_tokens, left // self.step * self.step_tokens))

    def largest(self, context_tokens: int, sure: bool) -> int:
        """How many requests of a length find room."""
        return max(0, self.least if sure else self.most) // self.needs(1, context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a runtime makes of a card. terms: bytes, the pool last, if a card or a pool was named.

    requests: what one request takes, in bytes. limits: empty where neither a card nor a pool was named. notes: what
    is to be known beside it.
    """

    runtime: Runtime
    terms: tuple[Term, ...]
    requests: tuple[Term, ...]
    figures: tuple[Figure, ...]
    limits: tuple[Limit, ...]
    notes: tuple[str, ...] = ()

    def fits(self, batch: int, context_tokens: int, sure: bool) -> bool:
        """Whether so many requests of a length find room, for sure or perhaps."""
        return all(limit.holds(batch, context_tokens, sure) for limit in self.limits)

    def longest(self, batch: int, most_tokens: int, sure: bool) -> int:
        """The longest context of so many requests."""
        return min(limit.longest(batch, most_tokens, sure) for limit in self.limits)

    def largest(self, context_tokens: int, sure: bool) -> int:
        """The most requests of a length."""
        return min(limit.largest(context_tokens, sure) for limit in self.limits)


def term(name: str, span: Span, source: str, logs: int = 0) -> Term:
    """A term of a span of bytes."""
    return Term(name=name, least_bytes=span.least, most_bytes=span.most, source=source, logs=logs)


def figure(name: str, span: Span, unit: str, source: str, logs: int = 0) -> Figure:
    """A figure of a span of whole numbers."""
    return Figure(name=name, least=span.least, most=span.most, unit=unit, source=source, logs=logs)


def cache_type(name: str, known: dict[str, CacheType], default: str, runtime: str) -> CacheType:
    """The cache type of a name; :class:`ServingError` says which there are."""
    wanted = name.lower() or default
    if wanted not in known:
        raise ServingError(f"{runtime} keeps no cache in {name!r}; known here are {', '.join(known)}")
    return known[wanted]


def shared_heads(kv_heads: int, cards: int) -> int:
    """Heads of keys and values that each card has, at least one; :class:`ServingError` where they can't be shared."""
    if kv_heads % cards and cards % kv_heads:
        raise ServingError(f"{cards} cards can't share {kv_heads} heads of keys and values")
    return max(1, kv_heads // cards)


def share(total: int, cards: int, what: str) -> int:
    """A card's share; :class:`ServingError` where it is no whole number."""
    if total % cards:
        raise ServingError(f"{cards} cards can't share {total} {what}")
    return total // cards
