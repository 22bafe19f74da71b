"""The predicted bytes held against those that a card, emulated or real, counted at shapes that it was asked for.

The files are those of ``make boundary``: workloads that were run once, or that a card had no memory for, and edges that
bisection found. Of every one the derived program says beforehand what the allocator comes to, or which request finds no
memory; nothing of the files goes into that answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.allocation.rules import AllocatorError
from vram_ledger.analysis.allocation.settings import rules_of
from vram_ledger.analysis.derivation.derived import OutsideDomain
from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.derivation.program import Device, OutOfRoom, Program, Ran, shape_of
from vram_ledger.analysis.evidence.tables import banner_lines
from vram_ledger.analysis.ground.kinds import KINDS, WORDS, kind_of
from vram_ledger.analysis.ground.markdown import table
from vram_ledger.errors import InputError
from vram_ledger.harness.records import Edge, Fits, OutOfMemory, Phase, Probe, ResultsFile, Workload

HEADER = (
    "card", "kind", "model", "variant", "phase", "rules", "workloads", "fit", "out of memory", "foretold",
    "requested, B", "allocated, B", "reserved, B", "edges", "foretold",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One file's workloads of a phase beside what was foretold.

    apart: of those that fit, the largest differences of requested, allocated and reserved. right: outcomes that were
    foretold, for one out of memory the request that failed and what was free. edges, edges_right: those of the file.
    """

    card: str
    kind: str
    model: str
    variant: str
    phase: Phase
    rules: str
    fit: int
    out_of_memory: int
    right: int
    apart: tuple[int, int, int]
    edges: int
    edges_right: int


def held_out(results: ResultsFile, program_of: Callable[[Phase], Program | None]) -> Iterator[Held]:
    """A row a phase; none of a phase of which no program is stored. :class:`InputError` for another kind of file."""
    for name in ("probes", "standards"):
        if not getattr(results, name):
            raise InputError(f"{results.path}: no {name} in it, so it is no finished file of make boundary")
    standard = results.standards[-1]
    environment = results.environment
    total = environment.gpu_total_bytes or 0
    try:
        rules = rules_of(environment)
    except AllocatorError as error:
        raise InputError(f"{results.path}: {error}") from error
    device = Device(
        multiprocessors=environment.gpu_multiprocessors or 0,
        workspace_bytes=standard.workspace_bytes,
        total_bytes=total,
        rules=rules,
    )
    capacity = total - (standard.context_bytes or 0)
    for phase in dict.fromkeys(p.workload.phase for p in results.probes):
        program = program_of(phase)
        probes = [p for p in results.probes if p.workload.phase == phase and isinstance(p.outcome, Fits | OutOfMemory)]
        if program is None or not probes:
            continue
        found = [(p, _run(program, device, p.workload, capacity)) for p in probes]
        edges = [e for e in results.edges if e.phase == phase]
        configuration = probes[0].workload.configuration
        yield Held(
            card=environment.card,
            kind=kind_of(environment).word,
            model=configuration.model,
            variant=variant_of(configuration),
            phase=phase,
            rules=rules,
            fit=sum(isinstance(p.outcome, Fits) for p in probes),
            out_of_memory=sum(isinstance(p.outcome, OutOfMemory) for p in probes),
            right=sum(_alike(p, ran) for p, ran in found),
            apart=_apart(found),
            edges=len(edges),
            edges_right=sum(_foretold(program, device, e, capacity) for e in edges),
        )


def _run(program: Program, device: Device, workload: Workload, capacity_bytes: int) -> Ran | OutOfRoom | None:
    """What becomes of a workload; ``None`` outside the program's domain."""
    try:
        return program.run(device, *shape_of(workload), capacity_bytes=capacity_bytes)
    except OutsideDomain:
        return None


def _alike(probe: Probe, ran: Ran | OutOfRoom | None) -> bool:
    outcome = probe.outcome
    if isinstance(outcome, Fits):
        return isinstance(ran, Ran)
    if not isinstance(outcome, OutOfMemory) or not isinstance(ran, OutOfRoom):
        return False
    told = ran.failure.asked_bytes, ran.failure.free_bytes, ran.failure.held.requested_bytes
    return told == (outcome.asked_bytes, outcome.free_bytes, outcome.requested_bytes)


def _apart(found: Sequence[tuple[Probe, Ran | OutOfRoom | None]]) -> tuple[int, int, int]:
    worst = [0, 0, 0]
    for probe, ran in found:
        if isinstance(probe.outcome, Fits) and isinstance(ran, Ran):
            for number, name in enumerate(("requested_bytes", "allocated_bytes", "reserved_bytes")):
                apart = abs(getattr(ran.peak, name) - getattr(probe.outcome.peak, name))
                worst[number] = max(worst[number], apart)
    return worst[0], worst[1], worst[2]


def _foretold(program: Program, device: Device, edge: Edge, capacity_bytes: int) -> bool:
    """Whether the program, too, fits at an edge and does not one token beyond."""
    return all(
        isinstance(_run(program, device, edge.at(tokens), capacity_bytes), Ran if fits else OutOfRoom)
        for tokens, fits in edge.beside.items()
    )


def held_out_markdown(scores: Sequence[Held]) -> Iterator[str]:
    """The table, with what its columns mean."""
    yield "# Foretold and counted"
    yield ""
    kinds = {kind.word: kind for score in scores for kind in KINDS.values() if kind.word == score.kind}
    yield from banner_lines(*(kinds[word] for word in WORDS if word in kinds))
    yield "Generated by `make held-out` from the files of `make boundary`. Each workload was run once on the card"
    yield "named, or found no memory there; what the allocator comes to was computed from the derived program, without"
    yield "running anything. Foretold: that it fits; or which request fails, to the byte asked, free and held. The next"
    yield "three columns are the largest differences of the peaks of those that fit. An edge is the longest context"
    yield "that fits, found by bisection and confirmed in fresh processes; it is foretold if the program fits there and"
    yield "not one token beyond. What lies outside the allocator is no part of this."
    yield ""
    yield from table(HEADER, [_row(score) for score in scores], words=6)


def _row(score: Held) -> list[str]:
    total = score.fit + score.out_of_memory
    counts = (total, score.fit, score.out_of_memory, score.right, *score.apart, score.edges, score.edges_right)
    names = (score.card, score.kind, score.model, score.variant, score.phase, score.rules.replace("_", " "))
    return [*names, *(f"{count:,}" for count in counts)]
