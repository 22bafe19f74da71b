"""Linear forms in the shape of a workload, in whole numbers: what a form counts, and where it holds.

A form is one whole number a column; a column is a product of factors of the shape. The factors of one call of the
model: B sequences, T tokens fed to each, E tokens in the cache of each afterwards, and L, the workload's context.
In a single-shot prefill T = E = L; in a decode step T = 1 and E = L + 1; only a chunked prefill needs them apart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vram_ledger.harness.records import Configuration, Phase

Ints = NDArray[np.int64]
Number = TypeVar("Number", int, Ints)
Call = Literal["whole", "decode", "first", "later"]
"""A single-shot prefill, a decode step, and the first and any other call of a prefill in chunks."""

MOST_BATCH, MOST_CONTEXT_TOKENS = 1024, 262_144  # what the family was trained for
MOST_TOKENS = 2**22  # of all sequences: beyond any card, and where PyTorch's kernels begin to refuse
CHUNK_TOKENS = 64  # fla's chunk
MASK_TOKENS = 8  # the memory-efficient attention reads a mask whose rows are padded to this
# Without a cache the positions of one sequence are summed up by CUB in tiles of 7 numbers for each of 128 threads;
# the state of a tile takes 16 bytes, and the scratch is a multiple of 256 (torch 2.14.1, emulated 8.0).
SCAN_TOKENS = 7 * 128 * 256 // 16
ROUNDED = {"⌈T/64⌉": ("T", CHUNK_TOKENS), "⌈E/8⌉": ("E", MASK_TOKENS), "⌈L/14336⌉": ("L", SCAN_TOKENS)}

# In the order in which they are tried: a column that the shapes of a regime can't tell from earlier ones is left out.
COLUMNS: tuple[tuple[str, ...], ...] = ((), ("B",), ("L",), ("B", "L"), ("B", "⌈T/64⌉"))
SCAN_COLUMNS = (("⌈L/14336⌉",),)
MASK_COLUMNS = (("⌈E/8⌉",), ("B", "⌈E/8⌉"))
ROUND_COLUMNS: tuple[tuple[str, ...], ...] = ((), ("B",), ("⌈T/64⌉",), ("B", "⌈T/64⌉"))  # where 64 divides T
LOOP_COLUMNS: tuple[tuple[str, ...], ...] = ((), ("⌈T/64⌉",))  # of how many rounds a loop has
FED_COLUMNS = (("T",), ("B", "T"))
PAST_COLUMNS = (("T",), ("E",), ("B", "T"), ("B", "E"), ("T", "E"), ("B", "T", "E"))
PAST_MASK_COLUMNS = (("T", "⌈E/8⌉"), ("B", "T", "⌈E/8⌉"))


def columns_of(call: Call, cache: str) -> tuple[tuple[str, ...], ...]:
    """The columns that a call's sizes can be made of."""
    if call == "first":
        return COLUMNS + FED_COLUMNS
    if call == "later":
        return COLUMNS + PAST_COLUMNS + MASK_COLUMNS + PAST_MASK_COLUMNS
    more: dict[str, tuple[tuple[str, ...], ...]] = {"static": MASK_COLUMNS, "none": SCAN_COLUMNS}
    return COLUMNS + more.get(cache, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of a workload. chunk_tokens: of a prefill in chunks, else 0; call: which of its calls is meant."""

    batch: int
    context_tokens: int
    chunk_tokens: int = 0
    call: int = 1


def call_factors(call: Call, batch: Number, context: Number) -> dict[str, Number]:
    """Every factor of a call that is all of its phase, at one shape or at many."""
    if call == "decode":
        return _factors(batch, context * 0 + 1, context + 1, context)
    return _factors(batch, context, context, context)


def shape_factors(call: Call, shape: Shape) -> dict[str, int]:
    """Every factor of a call of that kind at one shape."""
    if not shape.chunk_tokens:
        return call_factors(call, shape.batch, shape.context_tokens)
    cached = min(shape.call * shape.chunk_tokens, shape.context_tokens)
    return _factors(shape.batch, cached - (shape.call - 1) * shape.chunk_tokens, cached, shape.context_tokens)


def _factors(batch: Number, tokens: Number, cached: Number, context: Number) -> dict[str, Number]:
    factors = {"B": batch, "T": tokens, "E": cached, "L": context}
    return factors | {name: -(-factors[of] // size) for name, (of, size) in ROUNDED.items()}


def calls_at(phase: Phase, batch: int, context_tokens: int, chunk_tokens: int) -> Iterator[tuple[Call, Shape]]:
    """The calls of a workload in order."""
    if phase == "decode" or not 0 < chunk_tokens < context_tokens:
        shape = Shape(batch=batch, context_tokens=context_tokens)
        yield ("decode" if phase == "decode" else "whole"), shape
        return
    for number in range(1, -(-context_tokens // chunk_tokens) + 1):
        shape = Shape(batch=batch, context_tokens=context_tokens, chunk_tokens=chunk_tokens, call=number)
        yield ("first" if number == 1 else "later"), shape


def design(columns: tuple[tuple[str, ...], ...], factors: Mapping[str, Ints]) -> Ints:
    """One row a shape, or an array of shapes, one number a column."""
    ones = np.ones_like(factors["B"])
    return np.stack([np.prod([ones, *(factors[f] for f in column)], axis=0) for column in columns], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Where a form holds: whole ranges of batch and context, bounds included.

    tokens: range of the tokens that the call feeds; of a single-shot prefill the context's own.
    padded_mask: whether the cached tokens are no multiple of ``unit``, or ``None`` where that is of no account.
    """

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    tokens: tuple[int, ...]
    padded_mask: bool | None
    unit: int = MASK_TOKENS

    def contains(self, factors: Mapping[str, Any]) -> Any:
        """Whether the shape is inside, or each of the shapes."""
        inside: Any = True
        for name, limits in (("B", self.batches), ("L", self.contexts), ("T", self.tokens)):
            inside = inside & (factors[name] >= limits[0]) & (factors[name] <= limits[1])
        if self.padded_mask is not None:
            inside = inside & ((factors["E"] % self.unit != 0) == self.padded_mask)
        return inside

    @property
    def has_whole_chunks(self) -> bool:
        """Whether all tokens are whole chunks, so that of T and T/64 only the second has whole coefficients."""
        return self.unit == CHUNK_TOKENS and self.padded_mask is False

    @property
    def label(self) -> str:
        """The domain in words, such as "B 1–1,024, L 4–1,048,576"."""
        parts = [f"B {_range(self.batches)}", f"L {_range(self.contexts)}"]
        if self.tokens != self.contexts:
            parts.append(f"T {_range(self.tokens)}")
        if self.padded_mask is not None:
            parts.append(f"E {'not ' if self.padded_mask else ''}a multiple of {self.unit}")
        return ", ".join(parts)


def _range(limits: tuple[int, ...]) -> str:
    low, high = limits
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def calls_of(configuration: Configuration, phase: Phase) -> tuple[Call, ...]:
    """The kinds of calls that a phase can be made of.

    Chunks are known of a growing cache, alone and where each call leaves one row of logits, and of fla's kernels.
    """
    if phase == "decode":
        return ("decode",)
    known = (configuration.cache, configuration.logits, configuration.kernels) == ("dynamic", "last", "fla")
    return ("whole", "first", "later") if known else ("whole",)


def column_label(column: tuple[str, ...], call: Call) -> str:
    """A column as people write it: "B·⌈L/64⌉"."""
    return "·".join(factor_label(f, call) for f in column) or "1"


def factor_label(factor: str, call: Call) -> str:
    """A factor as people write it: T and E by what they are in this kind of call, where that is a plain thing."""
    if call == "whole":
        return factor.replace("T", "L").replace("E", "L")
    if call == "first":
        return factor.replace("E", "T")
    return factor.replace("E", "(L + 1)" if call == "decode" else "E").replace("⌈(L + 1)/", "⌈(L+1)/")


def form_text(coefficients: tuple[int, ...], columns: tuple[tuple[str, ...], ...], call: Call) -> str:
    """A form as a sum: "154,927,104·B + 242,976·B·L + 8·L"; terms without a part are left out."""
    terms = [
        f"{abs(value):,}" + (f"·{column_label(column, call)}" if column else "")
        for value, column in zip(coefficients, columns, strict=True)
        if value
    ]
    signs = ["−" if value < 0 else "+" for value in coefficients if value]
    text = " ".join(f"{sign} {term}" for sign, term in zip(signs, terms, strict=True)).removeprefix("+ ")
    return text or "0"


def random_shapes(
    count: int, most_batch: int, most_context: int, seed: int, least_context: int = 1, most_tokens: int = MOST_TOKENS
) -> list[Shape]:
    """Distinct shapes, log-uniform in both axes, so that short contexts are among them; all there are, if fewer.

    most_tokens: of all sequences.
    """
    few = sum(max(0, min(most_context, most_tokens // b) - least_context + 1) for b in range(1, most_batch + 1))
    chance = np.random.default_rng(seed)
    low, high = np.log([1, least_context]), np.log([most_batch + 1, most_context + 1])
    found: dict[Shape, None] = {}
    while len(found) < min(count, few):
        b, c = np.exp(chance.uniform(low, high)).astype(int).tolist()
        shape = Shape(batch=min(b, most_batch), context_tokens=min(max(c, least_context), most_context))
        if shape.batch * shape.context_tokens <= most_tokens:
            found[shape] = None
    return list(found)
