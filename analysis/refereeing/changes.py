"""What changed between two versions of an estimator, in words: "weights better by 0.85 GB everywhere"."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.refereeing.score import TERMS, Error, score

SAME_SHARE = 1e-4  # of the measured total: less is no change
EVEN = 0.01  # amounts this near to each other are one amount
ROUNDING_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How much further from the counted bytes one term got at one point; negative is nearer."""

    context_tokens: int
    bytes: int
    share: float

    @property
    def direction(self) -> int:
        """1 is worse, -1 better, 0 neither."""
        return 0 if abs(self.share) < SAME_SHARE else 1 if self.bytes > 0 else -1


def changes(before: Sequence[Error], now: Sequence[Error]) -> list[str]:
    """A line for each term that changed, in the order of the ledger."""
    lines = []
    for term in TERMS:
        old = {e.request.workload: e for e in before if e.term == term}
        new = {e.request.workload: e for e in now if e.term == term}
        if bool(old) != bool(new):
            lines.append(f"{term} {'is new' if new else 'is no longer given'}")
        shifts = [_shift(old[w], new[w]) for w in new if w in old]
        if any(s.direction for s in shifts):
            lines.append(f"{term} {_in_words(shifts)}")
        elif any(old[w].predicted_bytes != new[w].predicted_bytes for w in new if w in old):
            lines.append(f"{term} changed, and is as far from the counted bytes as it was")
    return lines


def worse(before: Sequence[Error], now: Sequence[Error]) -> str:
    """Why the new version is worse in total, by its median or its largest error; "" if it is not."""
    old, new = (score(e for e in errors if e.term == "total") for errors in (before, now))
    if old is None or new is None:
        return ""
    pairs = (
        ("median", old.median_bytes, new.median_bytes),
        ("largest", abs(old.worst_bytes), abs(new.worst_bytes)),
    )
    grown = [f"{name} error of the total from {_gb(a)} to {_gb(b)}" for name, a, b in pairs if b > a + ROUNDING_BYTES]
    return " and ".join(grown)


def _shift(old: Error, new: Error) -> Shift:
    further = abs(new.bytes) - abs(old.bytes)
    return Shift(
        context_tokens=new.request.context_tokens,
        bytes=further,
        share=further / new.measured_bytes if new.measured_bytes else float(further != 0),
    )


def _in_words(shifts: Sequence[Shift]) -> str:
    directions = {s.direction for s in shifts}
    if len(directions) == 1:
        return f"{_word(shifts)} by {_amounts(shifts)} everywhere"
    by_context: dict[int, list[Shift]] = {}
    for shift in shifts:
        by_context.setdefault(shift.context_tokens, []).append(shift)
    runs: list[tuple[list[int], list[Shift]]] = []
    for context, own in sorted(by_context.items()):
        if runs and {s.direction for s in runs[-1][1]} == {s.direction for s in own}:
            runs[-1][0].append(context)
            runs[-1][1].extend(own)
        else:
            runs.append(([context], list(own)))
    moved = [(contexts, own) for contexts, own in runs if any(s.direction for s in own)]
    return ", ".join(f"{_where(contexts)} {_direction(own)}" for contexts, own in moved)


def _direction(shifts: Sequence[Shift]) -> str:
    """A run's words; a context at which some batches got better and others worse has both."""
    parts = []
    for direction in (-1, 1):
        own = [s for s in shifts if s.direction == direction]
        if own:
            parts.append(f"{_word(own)} by {_percents(own)}" + (" at some" if len(own) < len(shifts) else ""))
    return " and ".join(parts)


def _word(shifts: Sequence[Shift]) -> str:
    return "worse" if shifts[0].direction > 0 else "better"


def _where(contexts: Sequence[int]) -> str:
    return f"{contexts[0]:,} tokens" if len(contexts) == 1 else f"{contexts[0]:,} to {contexts[-1]:,} tokens"


def _amounts(shifts: Iterable[Shift]) -> str:
    return _span([abs(s.bytes) for s in shifts], 1e9, "GB")


def _percents(shifts: Iterable[Shift]) -> str:
    return _span([abs(s.share) for s in shifts], 0.01, "%")


def _span(values: Sequence[float], unit: float, name: str) -> str:
    low, high = min(values) / unit, max(values) / unit
    if high - low <= EVEN * high or f"{low:.2g}" == f"{high:.2g}":
        return f"{_digits(high)} {name}"
    return f"{_digits(low)} to {_digits(high)} {name}"


def _digits(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3f} GB"
