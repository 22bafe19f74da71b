"""How an answer of predict is printed: the table, of one class of the model or of both, and whether a card has it."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from vram_ledger.analysis.evidence.tables import configuration_text, console
from vram_ledger.analysis.ground.cards import sizes_text
from vram_ledger.analysis.predicting.advice import failure_text
from vram_ledger.analysis.predicting.prediction import Prediction

REQUESTED, WIDE_COLUMNS = "requested", 104
UNITS = {"GB": 10**9, "GiB": 2**30}


def print_answer(
    found: Prediction, defaults: dict[str, bool], class_note: str | None, other: tuple[str, Prediction] | None
) -> None:
    """An answer, and beside it that of the model's other class, by the name of its variant.

    defaults: which of phase, batch and context the user left open.
    """
    out, workload = console(), found.workload
    out.print(configuration_text(workload.configuration), markup=False, soft_wrap=True)
    if class_note:
        out.print(class_note, markup=False, soft_wrap=True)
    said = {name: " (default)" if default else "" for name, default in defaults.items()}
    out.print(
        f"{workload.phase}{said['phase']}, batch {workload.batch:,}{said['batch']}, context "
        f"{workload.context_tokens:,} tokens{said['context']}",
        markup=False,
    )
    out.print(_table(out, found, other))
    out.print(f"{found.basis}: {found.origin}", markup=False, soft_wrap=True)
    _print_verdict(out, found)


def _table(out: Console, found: Prediction, other: tuple[str, Prediction] | None) -> Table:
    """A row a term, a column a unit; of the other class GiB alone, in whose column GB would be."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("term")
    wide = out.width >= WIDE_COLUMNS
    units = UNITS if wide and other is None else {"GiB": UNITS["GiB"]}
    beside = {} if other is None else {name: (least, most) for name, least, most, _ in _rows(other[1])}
    heads = [*(("bytes",) if wide or other is None else ()), *units, *((f"{other[0]}, GiB",) if other else ())]
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for name, least, most, source in _rows(found):
        if name == REQUESTED:
            table.add_section()
        exact = f"{least:,}" if least == most else "–"
        shown = [*((exact,) if "bytes" in heads else ()), *(_size(least, most, unit) for unit in units.values())]
        if other is not None:
            also = beside.get(name)
            shown.append("–" if also is None else _size(*also, UNITS["GiB"]))
        named = f"{name} ({found.stage})" if name == "transient" and found.stage else name
        table.add_row(named, *shown, source)
    return table


def _size(least: int, most: int, unit: int) -> str:
    return " to ".join(f"{end / unit:,.3f}" for end in dict.fromkeys((least, most)))


def _print_verdict(out: Console, found: Prediction) -> None:
    if found.card is None:
        return
    card, seen = found.card, f" ({found.seen.word}: seen on this card)" if found.seen else ""
    has = sizes_text(card.least_bytes, card.most_bytes)
    out.print(f"{card.label} has {has}, {card.source}", markup=False, soft_wrap=True)
    if found.failed is not None:
        out.print(failure_text(found.failed), markup=False, soft_wrap=True)
    out.print(f"{found.verdict}{seen}", style="bold", markup=False)


def _rows(found: Prediction) -> Iterator[tuple[str, int, int, str]]:
    """The lines of the table: name, least and most bytes, source."""
    for term in found.terms:
        yield term.name, term.least_bytes, term.most_bytes, term.source
    yield REQUESTED, found.requested_bytes, found.requested_bytes, "the sum: what the program asks for"
    if found.allocated_bytes is not None:
        yield "allocated", found.allocated_bytes, found.allocated_bytes, "torch.cuda.max_memory_allocated()"
    if found.reserved_bytes is not None:
        times = "once" if found.retries == 1 else f"{found.retries} times"
        retries = f", the cache given back {times}" if found.retries else ""
        yield "reserved", found.reserved_bytes, found.reserved_bytes, f"torch.cuda.max_memory_reserved(){retries}"
        outside = found.outside
        yield outside.name, outside.least_bytes, outside.most_bytes, outside.source
        yield "process", found.least_bytes, found.most_bytes, "what nvidia-smi shows"
