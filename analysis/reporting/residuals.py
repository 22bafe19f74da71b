"""The residual map: predicted minus counted over context and batch, of our formula and of an estimator."""

from collections.abc import Collection
from dataclasses import dataclass

from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.refereeing.score import compared
from vram_ledger.analysis.reporting.axes import GB, KINDS, tokens_text
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.analysis.reporting.peaks import count, counted
from vram_ledger.harness.records import Measured, Phase, Workload

STEPS_BYTES = (GB // 10, GB, 10 * GB)  # where a residual's colour changes
Shape = tuple[int, int]  # (context, batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A residual map: a row a context, a cell a batch. cells: (text, classes), by row; note: what is to be known."""

    title: str
    batches: tuple[int, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    note: str


def residual_text(residual_bytes: int) -> str:
    """A residual in a cell: "0" only if exact, GB to three figures, and smaller ones with their unit."""
    size = abs(residual_bytes)
    if not size:
        return "0"
    units = ((GB // 100, GB, ""), (100_000, 10**6, " MB"), (1_000, 1_000, " kB"), (0, 1, " B"))
    unit, name = next((unit, name) for least, unit, name in units if size >= least)
    value = size / unit
    digits = 2 if value < 10 and unit == GB else 1 if value < 100 and unit > 1 else 0
    return f"{'+' if residual_bytes > 0 else '−'}{value:,.{digits}f}{name}"


def bytes_text(difference: int) -> str:
    """A difference to the byte, with its sign: "0 B", "−1,024 B"."""
    sign = "+" if difference > 0 else "−" if difference else ""
    return f"{sign}{abs(difference):,} B"


def residual_role(residual_bytes: int) -> str:
    """The colour's role: by the sign, and by the power of ten of GB."""
    if not residual_bytes:
        return "zero"
    level = 1 + sum(abs(residual_bytes) >= step for step in STEPS_BYTES)
    return f"{'high' if residual_bytes > 0 else 'low'}-{level}"


def residual(part: Part, workload: Workload, outcome: Measured, name: str) -> int | None:
    """What is said, by the formula ("") or by an estimator, minus what was counted of the quantity that it claims.

    ``None`` where there is no answer, or where that quantity is not known.
    """
    if not name:
        formula = part.formulas.get(workload.phase)
        said = formula.peak(workload) if formula else None
        return None if said is None else said - outcome.warm.requested_bytes
    answer = part.answer(ESTIMATORS[name], workload)
    if answer is None:
        return None
    measured = count(outcome, compared(answer.predicts, part.ran.values()))
    return None if measured is None else answer.total_bytes - measured


def residuals_of(part: Part, phase: Phase, name: str = "") -> dict[Shape, int]:
    """The residuals of a phase, by (context, batch); without the points for which there is no answer."""
    found = {
        shape: residual(part, part.workload(phase, *shape), outcome, name)
        for shape, outcome in part.points(phase).items()
    }
    return {shape: value for shape, value in found.items() if value is not None}


def residual_map(part: Part, phase: Phase, name: str = "") -> Map | None:
    """Predicted minus counted over context and batch, a cell a point; ``None`` where all is exact, or nothing known."""
    found = residuals_of(part, phase, name)
    if not any(found.values()):
        return None
    refused = part.out_of_memory(phase)
    within = {shape for shape, m in part.points(phase).items() if part.fits(m.warm.requested_bytes)}

    def cell(shape: Shape) -> tuple[str, str]:
        if shape not in found:
            return ("OOM", "refused") if shape in refused else ("", "")
        beyond = "" if shape in within else " beyond"
        return residual_text(found[shape]), f"{residual_role(found[shape])}{beyond}"

    batches = part.batches(phase)
    return Map(
        title=f"{KINDS[phase]}: {name or 'our formula'} − {part.kind.word}, {part.subject}",
        batches=batches,
        rows=tuple((tokens_text(c), tuple(cell((c, b)) for b in batches)) for c in part.contexts(phase)),
        note=_note(part, phase, name, found, within),
    )


def _exact(found: dict[Shape, int]) -> str:
    return f"{sum(value == 0 for value in found.values())} of {counted(len(found))} exact."


def _note(part: Part, phase: Phase, name: str, found: dict[Shape, int], within: Collection[Shape]) -> str:
    points, missing = part.points(phase), 0
    if name:
        answers = [part.answer(ESTIMATORS[name], part.workload(phase, *shape)) for shape in found]
        claims = dict.fromkeys(a.predicts for a in answers if a)
        against = dict.fromkeys(part.kind.counter(compared(c, part.ran.values())) for c in claims)
        said = f"{name} claims the {' and '.join(claims)} bytes; held against {' and '.join(against)} bytes"
        missing = len(points) - len(found)
    else:
        said = f"Our formula is {part.formulas[phase].name}; held against requested bytes"
    held = [value for shape, value in found.items() if shape in within]
    worst = bytes_text(max(held, key=abs)) if held else "none"
    texts = [residual_text(value) for value in found.values()]
    sentences = [
        f"{said}. {_exact(found)}",
        f"The largest difference within the card's memory: {worst}." if any(found.values()) else "",
        "GB where no unit is given." if any("." in t and " " not in t for t in texts) else "",
        "In italics: more than the card's memory." if len(held) < len(found) else "",
        f"Empty: not known ({missing})." if missing else "",
        "OOM: out of memory." if part.out_of_memory(phase) else "",
    ]
    return " ".join(filter(None, sentences))
