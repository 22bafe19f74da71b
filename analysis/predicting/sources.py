"""Where the bytes of a workload can come from: what was counted on a card, the derived program, or the symbols.

What was counted stands before what is expected. A number that was counted on an emulated card is never called a
measurement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.derivation.derived import OutsideDomain
from vram_ledger.analysis.derivation.pieces import leading_piece
from vram_ledger.analysis.derivation.program import Device, OutOfRoom, Program, Ran
from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.evidence.lines import workspace_bytes
from vram_ledger.analysis.formula.shapes import Shapes, resident_bytes
from vram_ledger.analysis.ground.kinds import Word, kind_of
from vram_ledger.analysis.predicting import program as symbols
from vram_ledger.harness.events import stage_of
from vram_ledger.harness.records import Environment, Measured, Workload

Basis = Literal["measured here", "emulated here", "derived from the program", "formula only"]
HERE: dict[Word, Basis] = {"measured": "measured here", "emulated": "emulated here"}
WORD_OF: dict[Basis, Word] = {"measured here": "measured", "formula only": "replayed"}


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
        return WORD_OF.get(self.basis, "emulated")


Outcome = Callable[[int | None], Ran | OutOfRoom | None]
"""What becomes of a workload if the driver has so many bytes to give, ``None`` for without end; ``None`` if unknown."""
Source = Callable[[Request], tuple[Answer, Outcome] | None]
"""``None`` where the source has nothing to say about a request."""


def counted_source(found: dict[Workload, Measured], environment: Environment, origin: str) -> Source:
    """The stored points of this very card, measured or emulated."""
    basis = HERE[kind_of(environment).word]

    def answer(request: Request) -> tuple[Answer, Outcome] | None:
        outcome = found.get(request.workload)
        if outcome is None:
            return None
        peak = outcome.warm
        counted = Answer(
            requested_bytes=peak.requested_bytes,
            workspace_bytes=workspace_bytes(outcome),
            allocated_bytes=peak.allocated_bytes,
            reserved_bytes=peak.reserved_bytes,
            process_bytes=peak.process_bytes,
            basis=basis,
            origin=origin,
            stage=outcome.site.stage,
        )
        return counted, lambda capacity: None

    return answer


def derived_source(program: Program, device: Device) -> Source:
    """A derived program on a card, in its domain; exact for the software that it names, the allocator included."""
    environment = program.derived.environment
    software = f"transformers {environment.transformers}, fla {environment.fla}, torch {environment.torch}"
    origin = f"{program.derived.name} ({software})"

    def answer(request: Request) -> tuple[Answer, Outcome] | None:
        workload = request.workload
        chunk = workload.configuration.prefill_chunk_tokens if workload.phase == "prefill" else 0
        shape = request.batch, request.context_tokens, chunk
        try:
            roomy = program.run(device, *shape)
        except OutsideDomain:
            return None
        assert isinstance(roomy, Ran), "a driver without end refuses nothing"
        found = Answer(
            requested_bytes=roomy.peak.requested_bytes,
            workspace_bytes=device.workspace_bytes,
            allocated_bytes=roomy.peak.allocated_bytes,
            reserved_bytes=roomy.peak.reserved_bytes,
            process_bytes=None,
            basis="derived from the program",
            origin=origin,
            stage=stage_of(leading_piece(program, *shape)[0].module),
        )

        def outcome(capacity_bytes: int | None) -> Ran | OutOfRoom:
            if capacity_bytes is None or roomy.peak.reserved_bytes <= capacity_bytes:
                return roomy
            return program.run(device, *shape, capacity_bytes=capacity_bytes)

        return found, outcome

    return answer


def symbols_source(shapes: Shapes, capability: str, workspace: int) -> Source:
    """The family's program in symbols on a card of this capability, where it knows the configuration: requests only."""
    versions = " or ".join(sorted(symbols.TRANSFORMERS))
    origin = f"transformers {versions} and fla {symbols.FLA} in symbols; never run with this model"

    def answer(request: Request) -> tuple[Answer, Outcome] | None:
        configuration = request.workload.configuration
        if not symbols.knows(shapes, configuration):
            return None
        point = symbols.peak(shapes, request.workload, capability)
        found = Answer(
            requested_bytes=resident_bytes(shapes, configuration.model_class) + point.bytes + workspace,
            workspace_bytes=workspace,
            allocated_bytes=None,
            reserved_bytes=None,
            process_bytes=None,
            basis="formula only",
            origin=origin,
            stage=point.stage,
        )
        return found, lambda capacity: None

    return answer
