"""Where the bytes of a workload can come from: what was counted on a card, the derived program, or the symbols.

What was counted stands before what is expected. A number that was counted on an emulated card is never called a
measurement.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.derivation.derived import OutsideDomain
from vram_ledger.analysis.derivation.pieces import leading_piece
from vram_ledger.analysis.derivation.program import Device, OutOfRoom, Program, Ran, shape_of
from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.evidence.lines import workspace_bytes
from vram_ledger.analysis.formula.shapes import Shapes, resident_bytes
from vram_ledger.analysis.ground.kinds import Word, kind_of
from vram_ledger.analysis.predicting import program as symbols
from vram_ledger.harness.events import stage_of
from vram_ledger.harness.records import Environment, Measured, Workload

Basis = Literal["measured here", "emulated here", "derived from the program", "formula only"]
DERIVED: Basis = "derived from the program"
SYMBOLS: Basis = "formula only"
HERE: dict[Word, Basis] = {"measured": "measured here", "emulated": "emulated here"}
WORD_OF: dict[Basis, Word] = {"measured here": "measured", SYMBOLS: "replayed"}


def word_of(basis: Basis) -> Word:
    """The kind of number that an answer of this basis is made from."""
    return WORD_OF.get(basis, "emulated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a workload takes at its peak. requested: with the libraries' workspace, which is stated again.

    allocated, reserved: ``None`` where only the program's requests are known. process: where it was counted. origin:
    the file and the software that it comes from. stage: what runs at the peak, "" where not known.
    """

    requested_bytes: int
    workspace_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    process_bytes: int | None
    basis: Basis
    origin: str
    stage: str

    @property
    def word(self) -> Word:
        """The kind of number that it is made from."""
        return word_of(self.basis)


Outcome = Callable[[int | None], Ran | OutOfRoom]
"""What becomes of a workload if the driver has so many bytes to give, ``None`` for without end."""
Held = Callable[[int], tuple[int, int]]
"""How many of a workload's calls are carried out if the driver has so many bytes to give, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place where answers come from.

    requested: the bytes alone, ``None`` where the source has nothing to say about a request. answer: all that it knows
    of a request that it has something to say about. outcome: what becomes of it on a card, ``None`` where not known.
    held: the same for many cards and shapes, quickly and without the reasons. refusal: why it has nothing to say about
    a request, "" where that needs no word.
    """

    basis: Basis

    requested: Callable[[Request], int | None]
    answer: Callable[[Request], Answer]
    outcome: Callable[[Request], Outcome | None] = lambda request: None
    held: Callable[[Request], Held | None] = lambda request: None
    refusal: Callable[[Request], str] = lambda request: ""


def counted_source(found: dict[Workload, Measured], environment: Environment, origin: str) -> Source:
    """The stored points of this very card, measured or emulated."""
    basis = HERE[kind_of(environment).word]

    def requested(request: Request) -> int | None:
        outcome = found.get(request.workload)
        return None if outcome is None else outcome.warm.requested_bytes

    def answer(request: Request) -> Answer:
        outcome = found[request.workload]
        peak = outcome.warm
        return Answer(
            requested_bytes=peak.requested_bytes,
            workspace_bytes=workspace_bytes(outcome),
            allocated_bytes=peak.allocated_bytes,
            reserved_bytes=peak.reserved_bytes,
            process_bytes=peak.process_bytes,
            basis=basis,
            origin=origin,
            stage=outcome.site.stage,
        )

    return Source(basis=basis, requested=requested, answer=answer)


def derived_source(program: Program, device: Device) -> Source:
    """A derived program on a card, in its domain; exact for the software that it names, the allocator included."""
    environment = program.derived.environment
    software = f"transformers {environment.transformers}, fla {environment.fla}, torch {environment.torch}"
    origin = f"{program.derived.name} ({software})"

    @functools.cache  # one question comes to the same run from several sides
    def run(workload: Workload, capacity: int | None) -> Ran | OutOfRoom:
        return program.run(device, *shape_of(workload), capacity_bytes=capacity)

    def requested(request: Request) -> int | None:
        try:
            peak, _ = program.requested(*shape_of(request.workload), device.multiprocessors)
        except OutsideDomain:
            return None
        return peak + device.workspace_bytes

    def answer(request: Request) -> Answer:
        roomy = run(request.workload, None)
        assert isinstance(roomy, Ran), "a driver without end refuses nothing"
        return Answer(
            requested_bytes=roomy.peak.requested_bytes,
            workspace_bytes=device.workspace_bytes,
            allocated_bytes=roomy.peak.allocated_bytes,
            reserved_bytes=roomy.peak.reserved_bytes,
            process_bytes=None,
            basis=DERIVED,
            origin=origin,
            stage=stage_of(leading_piece(program, *shape_of(request.workload))[0].module),
        )

    def outcome(request: Request) -> Outcome:
        return lambda capacity: run(request.workload, capacity)

    def held(request: Request) -> Held:
        return lambda capacity: program.calls_held(device, *shape_of(request.workload), capacity)

    def refusal(request: Request) -> str:
        batch, context, chunk = shape_of(request.workload)
        try:
            program.requested(batch, context, chunk)
        except OutsideDomain:
            regimes = program.derived.regimes
            if chunk and not any(regime.call == "first" for regime in regimes):
                return "its program is that of a prefill in a single shot; in chunks there is none of it"
            most = max(b for r in regimes for b in r.domain.batches), max(c for r in regimes for c in r.domain.contexts)
            return f"its program is derived for up to {most[0]:,} sequences of up to {most[1]:,} tokens"
        return ""

    return Source(basis=DERIVED, requested=requested, answer=answer, outcome=outcome, held=held, refusal=refusal)


def symbols_source(shapes: Shapes, capability: str, workspace: int) -> Source:
    """The family's program in symbols on a card of this capability, where it knows the configuration: requests only."""
    versions = " or ".join(sorted(symbols.TRANSFORMERS))
    origin = f"transformers {versions} and fla {symbols.FLA} in symbols; never run with this model"

    def requested(request: Request) -> int | None:
        configuration = request.workload.configuration
        return answer(request).requested_bytes if symbols.knows(shapes, configuration) else None

    def answer(request: Request) -> Answer:
        point = symbols.peak(shapes, request.workload, capability)
        resident = resident_bytes(shapes, request.workload.configuration.model_class)
        return Answer(
            requested_bytes=resident + point.bytes + workspace,
            workspace_bytes=workspace,
            allocated_bytes=None,
            reserved_bytes=None,
            process_bytes=None,
            basis=SYMBOLS,
            origin=origin,
            stage=point.stage,
        )

    return Source(basis=SYMBOLS, requested=requested, answer=answer)
