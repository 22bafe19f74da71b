"""The derived program: all that it asks of the allocator, in order, each size an exact form of the shape.

A file holds one phase of one configuration in one software set. Its regimes are the parts of the plane of shapes in
which the sequence of allocations is one and the same. What the allocator makes of it on a card is
:mod:`analysis.derivation.running`'s; the formula of the requested peak (the few forms of which the largest one is the
peak), the form of what is held, and the ledger of either are views of the same sequence. Nothing is said of a shape
outside every regime, or of another program.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vram_ledger.analysis.derivation.forms import Call, Domain, Ints, call_factors, design
from vram_ledger.analysis.ground.files import said
from vram_ledger.analysis.ground.kinds import EMULATED, MEASURED, kind_of
from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.records import Configuration, Environment, Kernels, Phase, Workload, encode
from vram_ledger.harness.splits import Heads

SOURCE_FIELDS = ("transformers", "fla", "causal_conv1d", "config_sha256")
SOURCE_KERNELS = ("delta_rule", "convolution", "norm")
PROGRAM_FIELDS = ("gpu_capability", "torch", "transformers", "triton", "fla", "causal_conv1d", "config_sha256")


class OutsideDomain(InputError):
    """A shape of which the formula says nothing."""


class OtherProgram(WrongEnvironment):
    """A workload of another program than the formula was derived from; the message says in what they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Tensors of one origin alive at one point: one line of its ledger.

    module: with "*" for the number of the layer. shape: of one tensor, in B, L, T and E. coefficients: bytes of all
    ``count`` tensors together, a number a column of the regime.
    """

    group: str
    module: str
    op: str
    source: str
    dtype: str
    shape: str
    count: int
    coefficients: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What makes a tensor. module: with "*" for the number of the layer. shape: in B, L, T and E."""

    group: str
    module: str
    op: str
    source: str
    dtype: str
    shape: str

    @property
    def rank(self) -> tuple[str, ...]:
        """By which the tensors that are alive between two calls of the model are put in order."""
        return self.module, self.source, self.op, self.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What building the model asks of the allocator, from the start of the process on.

    sizes: bytes, by number; number 0 is the libraries' workspace, of which each card has its own. steps: see :mod:`analysis.allocation.steps`. resident_bytes, residents: weights and buffers, and how many tensors they are.
    """

    sizes: tuple[int, ...]
    steps: str
    resident_bytes: int
    residents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A point of the program: the bytes alive there as a form, what was running, and every tensor alive.

    batch, context_tokens: a shape at which this piece is the peak. lines: numbers in :attr:`Derived.lines`.
    """

    coefficients: tuple[int, ...]
    module: str
    op: str
    source: str
    batch: int
    context_tokens: int
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Shapes with one sequence of events. steps: its text, the numbers being those of ``requests``.

    requests: of each, the number of its origin in :attr:`Derived.origins`, then its bytes, a number a column; what
    flash attention allocates for each part of the keys is given for one part (:func:`harness.splits.splits`).

    prepared: how many of the steps come before the call: inputs and a filled cache, or, of a later call, the births of
    what is alive, in the order of :attr:`Origin.rank`. held: after the phase, ``None`` for a call that is not the
    phase's last. logs, checks: shapes replayed, and how many of them the solve did not need.
    """

    call: Call
    domain: Domain
    columns: tuple[tuple[str, ...], ...]
    held: Piece | None
    peak: tuple[Piece, ...]
    requests: tuple[tuple[int, ...], ...]
    prepared: int
    steps: str
    logs: int
    checks: int

    def pieces(self, held: bool) -> tuple[Piece, ...]:
        """The forms of what is held afterwards (one at most), or of the peak."""
        if held:
            return (self.held,) if self.held else ()
        return self.peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """One phase of one program. name: of its own file, "" before it has one. key: what it holds for. heads: of its
    attention, by which flash splits the keys."""

    name: str
    key: str
    environment: Environment
    configuration: Configuration
    phase: Phase
    kernels: Kernels
    heads: Heads
    build: Build
    origins: tuple[Origin, ...]
    lines: tuple[Line, ...]
    regimes: tuple[Regime, ...]

    @property
    def origin(self) -> str:
        """How a verdict names it."""
        return f"derived {self.name} {self.key}"

    def peak_bytes(self, batch: int, context_tokens: int) -> int:
        """Requested bytes at the peak; :class:`OutsideDomain` for a shape that no regime contains."""
        return self._at(batch, context_tokens, held=False)

    def held_bytes(self, batch: int, context_tokens: int) -> int:
        """Requested bytes after the phase; :class:`OutsideDomain` for a shape that no regime contains."""
        return self._at(batch, context_tokens, held=True)

    def peaks_bytes(self, batches: Ints, contexts: Ints) -> Ints:
        """:meth:`peak_bytes` of many shapes at once."""
        return self._largest(batches, contexts, held=False)

    def helds_bytes(self, batches: Ints, contexts: Ints) -> Ints:
        """:meth:`held_bytes` of many shapes at once."""
        return self._largest(batches, contexts, held=True)

    def _at(self, batch: int, context_tokens: int, held: bool) -> int:
        """One shape, without arrays: microseconds."""
        chunk = self.configuration.prefill_chunk_tokens
        needed = required_calls(self.configuration, self.phase, context_tokens)
        largest, found = -1, set()
        for regime in self.regimes:
            if not needed[regime.call]:
                continue
            factors = call_factors(regime.call, chunk, batch, context_tokens)
            if regime.domain.contains(factors):
                found.add(regime.call)
                for piece in regime.pieces(held):
                    largest = max(largest, _form_at(piece.coefficients, regime.columns, factors))
        if any(wanted and call not in found for call, wanted in needed.items()):
            self._largest(np.array([batch]), np.array([context_tokens]), held)  # says what is outside
        return largest

    def _largest(self, batches: Ints, contexts: Ints, held: bool) -> Ints:
        batches, contexts = (np.asarray(a, dtype=np.int64) for a in (batches, contexts))
        largest = np.full(batches.shape, -1, dtype=np.int64)
        missing = required_calls(self.configuration, self.phase, contexts)
        chunk = self.configuration.prefill_chunk_tokens
        for regime in self.regimes:
            needed = missing[regime.call]
            inside, factors = _inside(regime, chunk, batches, contexts, needed)
            if not inside.any():
                continue
            for piece in regime.pieces(held):
                value = _evaluate(piece, regime, factors)
                largest[inside] = np.maximum(largest[inside], value)
            missing[regime.call] = needed & ~inside
        self._refuse(missing, batches, contexts)
        return largest

    def _refuse(self, missing: dict[Call, Any], batches: Ints, contexts: Ints) -> None:
        for call, where in missing.items():
            if where.any():
                at = int(np.argmax(where))
                raise OutsideDomain(
                    f"{self.origin}: B={batches[at]:,}, L={contexts[at]:,} is outside its domain ("
                    + "; ".join(r.domain.label for r in self.regimes if r.call == call)
                    + ")"
                )

    def leading(self, batch: int, context_tokens: int) -> tuple[Regime, Piece]:
        """The piece that is the peak at a shape, and its regime."""
        at = np.array([batch]), np.array([context_tokens])
        chunk = self.configuration.prefill_chunk_tokens
        needed = required_calls(self.configuration, self.phase, at[1])
        self.peaks_bytes(*at)
        found = []
        for regime in self.regimes:
            inside, factors = _inside(regime, chunk, *at, needed[regime.call])
            if inside.any():
                found += [(int(_evaluate(p, regime, factors)[0]), regime, p) for p in regime.peak]
        _, regime, piece = max(found, key=lambda entry: entry[0])
        return regime, piece

    def check(self, workload: Workload, environment: Environment, kernels: Kernels | None) -> None:
        """:class:`OtherProgram` unless the workload is one of the program that the formula was derived from.

        A replay must be of the same software altogether, since nothing but software is in it. Of a card, real or
        emulated, the code that makes the tensors must be the same: transformers', fla's and causal_conv1d's, on the
        same path through them. PyTorch, Triton, the capability and the attention kernel that PyTorch picks may be
        others: they decide what an op takes inside, which the formula does not have and which is to be found out.
        """
        on_card = kind_of(environment) in (MEASURED, EMULATED)
        names, kernels_seen = (SOURCE_FIELDS, SOURCE_KERNELS) if on_card else (PROGRAM_FIELDS, ())
        differing = [
            f"{name} is {theirs!r}, the formula's is {ours!r}"
            for name, ours, theirs in (
                ("phase", self.phase, workload.phase),
                *_fields(self.configuration, workload.configuration),
                *_versions(self.environment, environment, names),
                *(_fields(self.kernels, kernels, kernels_seen) if kernels else ()),
            )
            if ours != theirs
        ]
        if differing:
            raise OtherProgram(f"{self.origin}: {'; '.join(differing)}")

    def distance(self, environment: Environment) -> int:
        """In how many fields of the program an environment differs: of several formulas the nearest one is meant."""
        return sum(ours != theirs for _, ours, theirs in _versions(self.environment, environment, PROGRAM_FIELDS))


def _form_at(coefficients: tuple[int, ...], columns: tuple[tuple[str, ...], ...], factors: dict[str, int]) -> int:
    total = 0
    for value, column in zip(coefficients, columns, strict=True):
        for factor in column:
            value *= factors[factor]
        total += value
    return total


def _fields(ours: Any, theirs: Any, names: Iterable[str] = ()) -> Iterable[tuple[str, Any, Any]]:
    return ((n, getattr(ours, n), getattr(theirs, n)) for n in names or ours.__dataclass_fields__)


def _versions(ours: Environment, theirs: Environment, names: Iterable[str]) -> Iterable[tuple[str, Any, Any]]:
    """Fields of two environments, versions without their local part: +cpu and +cu130 are builds of one source."""
    for name, own, other in _fields(ours, theirs, names):
        yield name, own and own.partition("+")[0], other and other.partition("+")[0]


def required_calls(configuration: Configuration, phase: Phase, contexts: Any) -> dict[Call, Any]:
    """For each kind of call, whether at a context, or at which, it must be known for the peak to be known.

    Of a chunked prefill's full calls the last one is enough: a later one has the same tensors and more cached
    tokens (the derivation checks that no coefficient of these is negative).
    """
    chunk = configuration.prefill_chunk_tokens
    everywhere = contexts * 0 == 0
    if phase == "decode":
        return {"decode": everywhere}
    if not chunk:
        return {"whole": everywhere}
    several = contexts > chunk
    full = several & (contexts // chunk >= 2) & (contexts % chunk > 0)
    return {"whole": contexts <= chunk, "first": several, "full": full, "last": several}


def _inside(regime: Regime, chunk: int, batches: Ints, contexts: Ints, needed: Any) -> tuple[Any, dict[str, Ints]]:
    """Which of the needed shapes the regime contains, and their factors."""
    factors = call_factors(regime.call, chunk, batches, contexts)
    inside = needed & regime.domain.contains(factors)
    return inside, {name: values[inside] for name, values in factors.items()}


def _evaluate(piece: Piece, regime: Regime, factors: dict[str, Ints]) -> Ints:
    value = np.zeros(factors["B"].shape, dtype=np.int64)
    for coefficient, column in zip(piece.coefficients, regime.columns, strict=True):
        if coefficient:
            term = np.full_like(value, coefficient)
            for factor in column:
                term = term * factors[factor]
            value += term
    return value


def point_bytes(piece: Piece | Line, regime: Regime, chunk: int, batch: int, context_tokens: int) -> int:
    """Bytes of a piece, or of a line of its ledger, at one shape."""
    factors = call_factors(regime.call, chunk, np.array([batch]), np.array([context_tokens]))
    return int(design(regime.columns, factors)[0] @ np.array(piece.coefficients))


def derived_key(environment: Environment, configuration: Configuration, phase: Phase, kernels: Kernels) -> str:
    """First 12 hex digits of the SHA-256 of everything that decides the program."""
    program = {name: getattr(environment, name) for name in PROGRAM_FIELDS}
    values = [program, said(Configuration, encode(configuration)), phase, encode(kernels)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
