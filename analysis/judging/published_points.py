"""Whether a campaign equals the published one of its card, grid and model, point for point."""

from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.evidence.lines import counting
from vram_ledger.analysis.evidence.verdict import Decision, Verdict, point, size
from vram_ledger.analysis.formula.terms import phase_regime
from vram_ledger.analysis.judging.campaign import model_of
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Measured, Outcome, OutOfMemory, ResultsFile, Workload
from vram_ledger.home import RESULTS

TERM = "published points"
QUOTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A campaign beside a published one.

    points: shared by both. differing: workload, counter, bytes here minus bytes there; "outcome" and 0 where one ran
    and the other did not. spread: differing in reserved bytes alone, which need not repeat on a card. fields: of the
    environment in which the two differ.
    """

    published: Path
    points: int
    differing: tuple[tuple[Workload, str, int], ...]
    spread: int
    fields: tuple[str, ...]

    @property
    def unequal(self) -> int:
        """Points that are not the published ones."""
        return len({workload for workload, *_ in self.differing})

    def lines(self) -> tuple[str, ...]:
        """In words, for people."""
        equal = f"{self.points - self.unequal} of {self.points} points equal the published {self.published.name}"
        quoted = sorted(self.differing, key=lambda d: size(d[0]))
        told = tuple(
            f"  {w.phase} {point(w)}: {counter}{f' {bytes_:+,} B' if bytes_ else ' differs'}"
            for w, counter, bytes_ in quoted[:QUOTED]
        )
        more = (f"  and {len(quoted) - QUOTED} more differences",) if len(quoted) > QUOTED else ()
        spread = (f"  reserved bytes differ at {self.spread} points: they need not repeat",) if self.spread else ()
        fields = f"other environment: {', '.join(self.fields)}" if self.fields else "same environment"
        return f"{equal} ({fields})", *told, *more, *spread


def published_like(results: ResultsFile, folder: Path = RESULTS) -> tuple[Path, ...]:
    """The published files of the same label, grid and model; none for one that is itself published."""
    if _is_published(results, folder):
        return ()
    place = folder / results.environment.gpu_label / results.path.absolute().parent.name
    return tuple(sorted(place.glob(f"{model_of(results)}.{results.environment.device}.*.jsonl")))


def _is_published(results: ResultsFile, folder: Path) -> bool:
    return results.path.resolve().is_relative_to(folder.resolve())


def compare(ours: ResultsFile, theirs: ResultsFile) -> Comparison:
    """Every point that both have: outcome, requested and held bytes and, where both know them, allocated ones."""
    here, there = _outcomes(ours), _outcomes(theirs)
    shared = [w for w in here if w in there]
    counted = {w: _differences(here[w], there[w]) for w in shared}
    return Comparison(
        published=theirs.path,
        points=len(shared),
        differing=tuple((w, *found) for w, differences in counted.items() for found in differences),
        spread=sum(_reserved(here[w]) != _reserved(there[w]) for w in shared if not counted[w]),
        fields=ours.environment.differences(theirs.environment),
    )


def _outcomes(results: ResultsFile) -> dict[Workload, Measured | OutOfMemory]:
    lines = counting(results.measurements).values()
    return {m.workload: m.outcome for m in lines if not m.repeat and isinstance(m.outcome, Measured | OutOfMemory)}


def _differences(ours: Outcome, theirs: Outcome) -> list[tuple[str, int]]:
    if not (isinstance(ours, Measured) and isinstance(theirs, Measured)):
        return [] if type(ours) is type(theirs) else [("outcome", 0)]
    pairs = {
        "requested": (ours.warm.requested_bytes, theirs.warm.requested_bytes),
        "held": (ours.held_bytes, theirs.held_bytes),
        "allocated": (ours.warm.allocated_bytes, theirs.warm.allocated_bytes),
    }
    return [(name, a - b) for name, (a, b) in pairs.items() if a is not None and b is not None and a != b]


def _reserved(outcome: Outcome) -> int | None:
    return outcome.warm.reserved_bytes if isinstance(outcome, Measured) else None


def judge_published(results: ResultsFile, folder: Path = RESULTS) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The verdict on a campaign's own points beside the published ones, and what to say of them.

    Differences are drift on an equal environment; on another one they are told, and the other verdicts decide.
    """
    if _is_published(results, folder):
        return (), ()
    found = [compare(results, read(path)) for path in published_like(results, folder)]
    if not found:
        return (), (f"nothing is published for {results.environment.gpu_label}, this grid and model",)
    nearest = min(found, key=lambda c: (len(c.fields), c.unequal))
    decision: Decision = "EQUIVALENT" if nearest.points else "NO_REFERENCE"
    if nearest.unequal:
        decision = "NO_REFERENCE" if nearest.fields else "DRIFT"
    verdict = Verdict(
        configuration=results.measurements[0].workload.configuration,
        term=TERM,
        regime=phase_regime(None),
        unit="",
        decision=decision,
        n=nearest.points,
        expected=f"{nearest.points} points",
        expected_from=nearest.published.name,
        fitted=f"{nearest.points - nearest.unequal} equal",
        cause=f"{nearest.unequal} of {nearest.points} points differ from the published" if nearest.unequal else "",
    )
    return (verdict,), nearest.lines()
