"""A verdict per term, the rule that decides it, and the exit code that follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.formula.terms import Regime
from vram_ledger.harness.records import Configuration, Workload

Decision = Literal["EQUIVALENT", "DRIFT", "INCONCLUSIVE", "UNIDENTIFIABLE", "NO_REFERENCE", "DOES_NOT_FIT"]

AGREEMENT, DISAGREEMENT, BAD_INPUT, WRONG_ENVIRONMENT = 0, 1, 2, 3

NUMERICS_BYTES = 0.5  # less than a byte is the arithmetic, not the memory
CAUSE_LENGTH = 100
GRANULE_BYTES = 512  # the caching allocator rounds every tensor up to a multiple of this (c10/cuda, kMinBlockSize)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found about one term, and on what evidence.

    expected, fitted: in ``unit``, or words where the term is not a number; ``None`` if there is none. expected_from:
    "config", "calibration <file> <fingerprint>" or what else set it. interval: 95 %, ``None`` if exact or unknown.
    exact: the form meets every point to the byte. reference: the named point at which ``difference_bytes``
    (observed minus expected) was taken. cause: why, in words; "" where nothing needs one.
    """

    configuration: Configuration
    term: str
    regime: Regime
    unit: str
    decision: Decision
    n: int
    expected: float | str | None = None
    expected_from: str = ""
    fitted: float | str | None = None
    interval: tuple[float, float] | None = None
    exact: bool = False
    dof: int | None = None
    condition: float | None = None
    worst_residual_bytes: float | None = None
    reference: str = ""
    difference_bytes: float | None = None
    tolerance_bytes: float | None = None
    cause: str = ""

    @property
    def passes(self) -> bool:
        """Whether the gate lets it through."""
        return self.decision in ("EQUIVALENT", "NO_REFERENCE", "DOES_NOT_FIT")


def decide(difference_bytes: float, half_width_bytes: float, tolerance_bytes: float) -> Decision:
    """Equivalence test: the whole interval inside the tolerance, wholly outside, or neither.

    The tolerance is never below half a byte, which is the arithmetic's.
    """
    tolerance = max(tolerance_bytes, NUMERICS_BYTES)
    if abs(difference_bytes) + half_width_bytes <= tolerance:
        return "EQUIVALENT"
    return "DRIFT" if abs(difference_bytes) - half_width_bytes > tolerance else "INCONCLUSIVE"


def point(workload: Workload) -> str:
    """A workload's shape in words: "B=8, L=32,768"."""
    return f"B={workload.batch}, L={workload.context_tokens:,}"


def size(workload: Workload) -> tuple[int, int]:
    """Orders workloads by tokens, then by batch: the largest one is where a difference is quoted."""
    return workload.batch * workload.context_tokens, workload.batch


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 if there are verdicts and the gate lets all of them through, else 1."""
    return AGREEMENT if verdicts and all(verdict.passes for verdict in verdicts) else DISAGREEMENT


def summary(verdicts: Sequence[Verdict]) -> str:
    """The exit code and its reason in one line: "exit 1: drift — kv_cache, weights (2 KV heads instead of 4)"."""
    if exit_code(verdicts) == AGREEMENT:
        refused = [str(v.fitted) for v in verdicts if v.decision == "DOES_NOT_FIT"]
        told = ["in agreement"] if any(v.decision == "EQUIVALENT" for v in verdicts) or not refused else []
        return f"exit 0: {'; '.join(dict.fromkeys((*told, *refused)))}"
    failing = [verdict for verdict in verdicts if not verdict.passes]
    if not failing:
        return "exit 1: inconclusive — nothing was judged"
    order: tuple[Decision, ...] = ("DRIFT", "INCONCLUSIVE", "UNIDENTIFIABLE")
    parts = [_reasons(decision, [v for v in failing if v.decision == decision]) for decision in order]
    return f"exit 1: {'; '.join(part for part in parts if part)}"


def _reasons(decision: Decision, verdicts: Sequence[Verdict]) -> str:
    """The terms of one decision, those with the same cause together."""
    by_cause: dict[str, list[str]] = {}
    for verdict in verdicts:
        by_cause.setdefault(verdict.cause, []).append(_family(verdict.term))
    terms = [
        ", ".join(dict.fromkeys(names)) + (f" ({_cut(cause)})" if cause else "") for cause, names in by_cause.items()
    ]
    return f"{decision.lower()} — {'; '.join(terms)}" if terms else ""


def _family(term: str) -> str:
    """The term without the name of its coefficient."""
    return next((family for family in ("held", "transient") if term.startswith(family)), term)


def _cut(cause: str) -> str:
    """A cause short enough for the last line; the report above it has the rest."""
    return cause if len(cause) <= CAUSE_LENGTH else f"{cause[: CAUSE_LENGTH - 1]}…"
