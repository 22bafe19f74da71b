"""The derived program: all that it asks of the allocator, in order, each size an exact form of the shape.

A file holds one phase of one configuration in one software set. Its regimes are the parts of the plane of shapes in
which the sequence of allocations is one and the same. What the allocator makes of it on a card
(:mod:`analysis.derivation.program`), the formula of the requested peak (the few forms of which the largest one is the
peak), the form of what is held, and the ledger of either are views of that sequence. Nothing is said of a shape
outside every regime, or of another program.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vram_ledger.analysis.derivation.forms import Call, Domain
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

    sizes: bytes, by number; number 0 is the libraries' workspace, of which each card has its own. steps: see
    :mod:`analysis.allocation.steps`. resident_bytes, residents: weights and buffers, and how many tensors they are.
    """

    sizes: tuple[int, ...]
    steps: str
    resident_bytes: int
    residents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Shapes with one sequence of events. steps: its text, the numbers being those of ``requests``.

    requests: of each, the number of its origin in :attr:`Derived.origins`, then its bytes, a number a column; what
    flash attention allocates for each part of the keys is given for one part (:func:`harness.splits.splits`).
    prepared: how many of the steps come before the call: inputs and a filled cache, or, of a later call, the births of
    what is alive, in the order of :attr:`Origin.rank`. loops: of each the step with which it starts, the steps of a
    round, and the coefficients of the number of rounds (:data:`.forms.LOOP_COLUMNS`); ``steps`` has
    :data:`.loops.ROUNDS` of them. logs, checks: shapes run, and how many of them the solve did not need.
    """

    call: Call
    domain: Domain
    columns: tuple[tuple[str, ...], ...]
    requests: tuple[tuple[int, ...], ...]
    prepared: int
    steps: str
    logs: int
    checks: int
    loops: tuple[tuple[int, ...], ...] = ()


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
    regimes: tuple[Regime, ...]

    @property
    def origin(self) -> str:
        """How a verdict names it."""
        return f"derived {self.name} {self.key}"

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
                *_fields(self.configuration, dataclasses.replace(workload.configuration, prefill_chunk_tokens=0)),
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


def _fields(ours: Any, theirs: Any, names: Iterable[str] = ()) -> Iterable[tuple[str, Any, Any]]:
    return ((n, getattr(ours, n), getattr(theirs, n)) for n in names or ours.__dataclass_fields__)


def _versions(ours: Environment, theirs: Environment, names: Iterable[str]) -> Iterable[tuple[str, Any, Any]]:
    """Fields of two environments, versions without their local part: +cpu and +cu130 are builds of one source."""
    for name, own, other in _fields(ours, theirs, names):
        yield name, own and own.partition("+")[0], other and other.partition("+")[0]


def derived_key(environment: Environment, configuration: Configuration, phase: Phase, kernels: Kernels) -> str:
    """First 12 hex digits of the SHA-256 of everything that decides the program."""
    program = {name: getattr(environment, name) for name in PROGRAM_FIELDS}
    values = [program, said(Configuration, encode(configuration)), phase, encode(kernels)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
