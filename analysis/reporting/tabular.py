"""Tables of the report as plain text; the template escapes all of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vram_ledger.analysis.estimating.breakdown import QUANTITIES
from vram_ledger.analysis.evidence.tables import evidence, number, section_labels
from vram_ledger.analysis.evidence.verdict import Verdict
from vram_ledger.analysis.ground.cards import Card, read_cards
from vram_ledger.analysis.ground.kinds import kind_of
from vram_ledger.analysis.ground.markdown import gb, percent
from vram_ledger.analysis.judging.drift import out_of_memory
from vram_ledger.analysis.predicting.capacity import Frontier
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.analysis.refereeing.score import score
from vram_ledger.analysis.refereeing.scoreboard import BIAS_HEADER, RANKING_HEADER, SHOWN_TERMS, Board
from vram_ledger.analysis.reporting.axes import tokens_text
from vram_ledger.analysis.reporting.capacity import ASKED_TOKENS, CARDS, Room, holds_anything, most_room_first
from vram_ledger.analysis.reporting.part import SEGMENTS, Part, chosen, ledger
from vram_ledger.analysis.reporting.residuals import bytes_text, residual, residuals_of
from vram_ledger.harness.records import Measured, Phase
from vram_ledger.home import GPUS

DRIFT_HEADER = (
    "term", "verdict", "where", "cause", "unit", "expected", "fitted", "evidence", "expected − fitted, bytes",
)  # fmt: skip
POINT_HEADER = ("phase", "batch", "context", "requested", "formula", "formula − requested")
BESIDE_HEADER = (
    "card", "points were", "ran", "out of memory", "formula exact at", "farthest off, bytes", "the gate says",
)  # fmt: skip
LAST_HEADER = "running at the peak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first ``words`` and the last ``notes`` columns are words and stand left, the others right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    notes: int = 0

    def style(self, column: int, cell: str) -> str:
        """Classes of a cell of a column that is counted from 1: "n" for a number, "long" for what must break."""
        numeric = self.words < column <= len(self.header) - self.notes and len(cell) <= 28 and not _is_name(cell)
        return " ".join(filter(None, ("n" if numeric else "", "long" if len(cell) > 28 else "")))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1, notes: int = 0) -> Table:
    """A table of whatever sequences there are, with one sign for minus."""
    signed = (tuple(re.sub(r"^-(?=\d)", "−", cell) for cell in row) for row in rows)
    return Table(header=tuple(header), rows=tuple(signed), words=words, notes=notes)


def _is_name(cell: str) -> bool:
    """Whether a cell in a column of numbers is a name, such as that of a kernel."""
    return bool(re.match(r"[A-Za-z_]\w*\.\w", cell))


def without(found: Table, name: str) -> Table:
    """The table without one of its columns of words."""
    at = found.header.index(name)
    header, *rows = (row[:at] + row[at + 1 :] for row in (found.header, *found.rows))
    return Table(header=header, rows=tuple(rows), words=found.words - 1, notes=found.notes)


def drift_rows(verdicts: Sequence[Verdict]) -> Table:
    """The verdicts of one configuration; without causes where there are none."""
    rows = [
        (
            v.term,
            v.decision,
            label,
            v.cause,
            re.sub(r"^B(?=$|/)", "bytes", v.unit).replace("/", " a "),
            number(v.expected),
            number(v.fitted),
            evidence(v),
            _too_low(v.difference_bytes),
        )
        for v, label in zip(verdicts, section_labels(verdicts), strict=True)
    ]
    found = table(DRIFT_HEADER, rows, words=5)
    return found if any(v.cause for v in verdicts) else without(found, "cause")


def _too_low(observed_minus_expected: float | None) -> str:
    """A difference with the page's sign: below 0 where what was expected is too low."""
    return number(-observed_minus_expected, signed=True) if observed_minus_expected else number(observed_minus_expected)


def board_tables(board: Board) -> list[tuple[str, Table]]:
    """The scoreboard's tables, each under its title."""
    return [
        ("Error of the total, best first", table(RANKING_HEADER, _ranking_rows(board), words=3, notes=1)),
        ("Bias by term, GB (predicted − counted)", table(BIAS_HEADER, _bias_rows(board))),
    ]


def _ranking_rows(board: Board) -> list[tuple[str, ...]]:
    rows = []
    for place, own in enumerate(board.ranked, start=1):
        total = score(own.totals)
        if total is not None:
            numbers = (total.median_bytes, total.bias_bytes, total.worst_bytes)
            cells = (_gb(size, signed=i > 0) for i, size in enumerate(numbers))
            share = percent(total.median_share) if total.median_bytes else "0"
            at = total.worst_at if total.worst_bytes else "–"
            rows.append((own.estimator, own.claims, own.compared_with, str(place), *cells, share, at))
    return rows


def _bias_rows(board: Board) -> list[tuple[str, ...]]:
    rows = []
    for own in board.ranked:
        scores = [score(e for e in own.errors if e.term == term) for term in SHOWN_TERMS]
        rows.append((own.estimator, *(_gb(s.bias_bytes) if s else "–" for s in scores)))
    return rows


def _gb(size: int, signed: bool = True) -> str:
    """GB to three digits; "0" only where it is exact, and bytes where three digits would say 0."""
    if not size:
        return "0"
    return gb(size, signed) if abs(size) >= 500_000 else f"{size:{'+' if signed else ''},} bytes"


def breakdown_rows(part: Part) -> list[tuple[str, ...]]:
    """Every byte of the bars: a row a chosen point, the segments and the peak that they add up to."""
    rows = []
    for phase in part.phases:
        points = part.points(phase)
        for context, batch in chosen(part, phase):
            sizes = ledger(part.workload(phase, context, batch), points[context, batch])
            cells = [f"{sizes[segment]:,}" for segment in SEGMENTS]
            rows.append((f"{phase}, B={batch}, L={context:,}", *cells, f"{sum(sizes.values()):,}"))
    return rows


def point_table(part: Part) -> Table:
    """Every point: its peak, what the formula says, every other counter of the device, and what was running.

    A point that counts nowhere, since it read what nothing had written, says so and which lines did.
    """
    counters = [(call, q) for call in ("warm", "cold") for q in QUANTITIES if (call, q) != ("warm", "requested")]
    counters = [own for own in counters if any(_counter(m, *own) is not None for m in part.ran.values())]
    names = [part.kind.counter(q) if call == "warm" else f"{part.kind.counter(q)}, first call" for call, q in counters]
    rows: list[tuple[str, ...]] = []
    for phase in part.phases:
        for (context, batch), outcome in part.points(phase).items():
            own = (number(_counter(outcome, *counter)) for counter in counters)
            against = _against_formula(part, phase, context, batch, outcome)
            rows.append((phase, f"{batch}", f"{context:,}", *against, *own, _running(outcome)))
    for w, outcome in part.invented.items():
        own = (number(_counter(outcome, *counter)) for counter in counters)
        sources = ", ".join(dict.fromkeys(read.source for read in outcome.guessed))
        start = (w.phase, f"{w.batch}", f"{w.context_tokens:,}", f"{outcome.warm.requested_bytes:,}")
        rows.append((*start, "–", "invented reads", *own, f"left out; read at {sources}"))
    for w, refused in part.refused.items():
        start = (w.phase, f"{w.batch}", f"{w.context_tokens:,}", "out of memory")
        rows.append((*start, *["–"] * (len(names) + 2), f"during {refused.during}"))
    return table((*POINT_HEADER, *names, LAST_HEADER), rows, notes=1)


def _against_formula(part: Part, phase: Phase, context: int, batch: int, outcome: Measured) -> tuple[str, str, str]:
    difference = residual(part, part.workload(phase, context, batch), outcome, "")
    peak = outcome.warm.requested_bytes
    if difference is None:
        return f"{peak:,}", "–", "–"
    return f"{peak:,}", f"{peak + difference:,}", bytes_text(difference).removesuffix(" B")


def _counter(outcome: Measured, call: str, quantity: str) -> int | None:
    peak = getattr(outcome, call)
    found: int | None = None if peak is None else getattr(peak, f"{quantity}_bytes")
    return found


def _running(outcome: Measured) -> str:
    return " · ".join(text for text in (outcome.site.stage, outcome.site.op, outcome.site.source) if text)


def matrix(found: Sequence[Room]) -> Table:
    """Yes or no: a row a card that people have, the smallest first, a column a context."""
    cards = read_cards(GPUS)
    rows = [(_card(r.gpu, cards), *map(r.answer, ASKED_TOKENS)) for r in found if r.gpu in CARDS]
    rows.sort(key=lambda row: CARDS.index(row[0].partition(" ")[0]))
    return table(("card · GiB", *map(tokens_text, ASKED_TOKENS)), rows)


def _card(label: str, cards: dict[str, Card]) -> str:
    """A card and the GiB that it reports."""
    return f"{label} · {cards[label].most_bytes / 2**30:.0f}" if label in cards else label


def lookup(models: Sequence[tuple[str, Sequence[Room]]]) -> Table:
    """The longest context of one sequence on every card, by name: single shot and, where that is longer, in chunks."""
    ends = {(room.gpu, name): _ends(room) for name, own in models for room in own}
    names, cards = [name for name, _ in models], read_cards(GPUS)
    rows = [(_card(gpu, cards), *(ends.get((gpu, n), "–") for n in names)) for gpu in sorted({gpu for gpu, _ in ends})]
    return table(("card · GiB", *names), rows, notes=len(names))


def _ends(room: Room) -> str:
    if not room.chunks.possible:
        return "nothing"
    return room.whole.text if room.whole == room.chunks else f"{room.whole.text}; in chunks {room.chunks.text}"


def beside(campaigns: Sequence[tuple[Campaign, Sequence[Part]]], verdicts: Sequence[str]) -> Table:
    """A model's campaigns side by side: a row a card."""
    rows = []
    for (campaign, parts), verdict in zip(campaigns, verdicts, strict=True):
        refused = len(out_of_memory(campaign.results))
        found = [v for part in parts for phase in part.phases for v in residuals_of(part, phase).values()]
        worst = f"{max(map(abs, found)):,}" if found else "–"
        counts = (f"{sum(len(part.ran) for part in parts):,}", f"{refused:,}", f"{found.count(0):,}", worst)
        rows.append((campaign.results.environment.card, kind_of(campaign.results.environment).word, *counts, verdict))
    return table(BESIDE_HEADER, rows, words=2, notes=1)


def frontier_table(frontiers: Sequence[Frontier]) -> tuple[Table, str]:
    """Longest contexts by card and batch of the cards that hold anything, and the names of those that don't.

    Where they were not all made from the same kinds of number, the last column says from which.
    """
    batches = sorted({longest.at for f in frontiers for longest in f.contexts})
    apart = len({own.words for own in frontiers}) > 1
    rows = []
    for own in sorted(filter(holds_anything, frontiers), key=lambda f: (most_room_first(f), f.gpu)):
        found = {longest.at: longest.text for longest in own.contexts}
        rows.append((own.gpu, *(found.get(b, "–") for b in batches), *((" + ".join(own.words),) if apart else ())))
    nothing = sorted(own.gpu for own in frontiers if not holds_anything(own))
    header = ("GPU", *(f"batch {b}" for b in batches), *(("from what was",) if apart else ()))
    return table(header, rows, notes=int(apart)), ", ".join(nothing)
