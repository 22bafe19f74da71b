"""A derived program on a card: what the caching allocator has requested, allocated and reserved, and where it ends."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vram_ledger.analysis.allocation.rules import AllocationFailure, CachingAllocator, Usage
from vram_ledger.analysis.allocation.steps import RELEASE, carried_out, steps_of, unfolded
from vram_ledger.analysis.derivation.derived import Derived, Origin, OutsideDomain, Regime
from vram_ledger.analysis.derivation.forms import Call, call_factors
from vram_ledger.analysis.derivation.pieces import UNSOLVED
from vram_ledger.harness.splits import splits

During = Literal["build", "cache", "forward"]
tokens_of = functools.lru_cache(maxsize=256)(unfolded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What of a card decides what the allocator does. workspace: of its libraries. capacity: all that the driver can
    give to the allocator, ``None`` for without end."""

    multiprocessors: int
    workspace_bytes: int
    capacity_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A phase that fits: the allocator's peaks, weights and workspace included, and requests that needed a retry."""

    peak: Usage
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRoom:
    """A phase that does not: while what was done, which request failed, and what made it (``None`` in the build)."""

    during: During
    failure: AllocationFailure
    origin: Origin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A regime ready to run: coefficients of its requests as a matrix, and which of them are a part of the keys."""

    regime: Regime
    tokens: tuple[int, ...]
    matrix: "np.ndarray[tuple[int, int], np.dtype[np.int64]]"
    parts: tuple[int, ...]
    ranks: tuple[tuple[str, ...], ...]


class Runner:
    """One program on one device, which is asked about many shapes."""

    def __init__(self, derived: Derived, device: Device) -> None:
        self.derived = derived
        self.device = device
        self._loaded: dict[int, _Loaded] = {}
        self._built: CachingAllocator | AllocationFailure | None = None

    def run(self, batch: int, context_tokens: int) -> Ran | OutOfRoom:
        """The phase at one shape; :class:`OutsideDomain` for one that no regime contains."""
        calls = list(self._calls(batch, context_tokens))
        built = self._build()
        if isinstance(built, AllocationFailure):
            return OutOfRoom(during="build", failure=built, origin=None)
        allocator = built.copy(self.device.capacity_bytes)
        alive: list[int] = []
        ranks: list[tuple[str, ...]] = []  # of every request so far
        during: During = "cache"
        for number, (loaded, sizes) in enumerate(calls):
            if number:
                alive.sort(key=lambda n: (ranks[n], n))
            tokens = loaded.tokens[loaded.regime.prepared :] if number else loaded.tokens
            for steps in steps_of(tokens, alive, allocator.requests):
                failure = allocator.run(steps, sizes)
                if failure is not None:
                    origin = self.derived.origins[loaded.regime.requests[steps[failure.step]][0]]
                    return OutOfRoom(during=during, failure=failure, origin=origin)
                if during == "cache":
                    allocator.empty_cache()
                    allocator.reset_peak()
                    during = "forward"
            if len(calls) > 1:
                ranks += [loaded.ranks[token] for token in tokens if token >= 0]
        return Ran(peak=allocator.peak, retries=allocator.retries)

    def _build(self) -> CachingAllocator | AllocationFailure:
        """The allocator after the build; one for all shapes, since nothing of the build depends on them."""
        if self._built is None:
            build, capacity = self.derived.build, self.device.capacity_bytes
            allocator = CachingAllocator(capacity_bytes=capacity)
            failure = carried_out(
                allocator, unfolded(build.steps), (self.device.workspace_bytes, *build.sizes[1:])
            )
            self._built = failure or allocator
        return self._built

    def _calls(self, batch: int, context_tokens: int) -> Iterator[tuple[_Loaded, list[int]]]:
        """Every call of the model in order, with the sizes of its requests."""
        for call, cached in _calls_of(self.derived, context_tokens):
            factors = call_factors(call, self.derived.configuration.prefill_chunk_tokens, batch, context_tokens)
            if cached:
                factors |= {"E": cached, "⌈E/8⌉": -(-cached // 8)}
            loaded = self._at(call, factors, batch, context_tokens)
            row = np.array([_product(column, factors) for column in loaded.regime.columns], dtype=np.int64)
            sizes = (loaded.matrix @ row).tolist()
            if loaded.parts:
                parts = self._parts(call, factors)
                for request in loaded.parts:
                    sizes[request] *= parts
            yield loaded, sizes

    def _at(self, call: Call, factors: dict[str, int], batch: int, context_tokens: int) -> _Loaded:
        for number, regime in enumerate(self.derived.regimes):
            if regime.call == call and regime.domain.contains(factors):
                if number not in self._loaded:
                    self._loaded[number] = _load(self.derived, regime)
                return self._loaded[number]
        raise OutsideDomain(f"{self.derived.origin}: B={batch:,}, L={context_tokens:,} is outside its domain")

    def _parts(self, call: Call, factors: dict[str, int]) -> int:
        """Parts into which flash attention splits the keys, 0 where it does not: then it has no accumulators."""
        causal = call in ("whole", "first") and factors["T"] > 1
        found = splits(
            self.derived.heads, factors["B"], factors["T"], factors["E"], causal, self.device.multiprocessors
        )
        return found if found > 1 else 0


def _load(derived: Derived, regime: Regime) -> _Loaded:
    origins = [derived.origins[request[0]] for request in regime.requests]
    return _Loaded(
        regime=regime,
        tokens=tokens_of(regime.steps),
        matrix=np.array([request[1:] for request in regime.requests], dtype=np.int64),
        parts=tuple(number for number, origin in enumerate(origins) if origin.op == UNSOLVED),
        ranks=tuple(origin.rank for origin in origins),
    )


def _calls_of(derived: Derived, context_tokens: int) -> Iterator[tuple[Call, int]]:
    """The kinds of calls in order, with the tokens cached after those of which there are many, else 0."""
    chunk = derived.configuration.prefill_chunk_tokens
    if derived.phase == "decode":
        yield "decode", 0
    elif not chunk or context_tokens <= chunk:
        yield "whole", 0
    else:
        yield "first", 0
        for cached in range(2 * chunk, context_tokens, chunk):
            yield "full", cached
        yield "last", 0


def _product(column: tuple[str, ...], factors: dict[str, int]) -> int:
    value = 1
    for factor in column:
        value *= factors[factor]
    return value
