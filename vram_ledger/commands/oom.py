"""The command about an out-of-memory message: oom."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vram_ledger.commands.options import JsonOption
from vram_ledger.errors import InputError
from vram_ledger.home import GPUS
from vram_ledger.names import sequences, tokens

if TYPE_CHECKING:
    from rich.console import Console

    from vram_ledger.analysis.ground.cards import Card
    from vram_ledger.analysis.messages.message import Message
    from vram_ledger.analysis.messages.startup import Failed
    from vram_ledger.analysis.messages.suspects import Suspect
    from vram_ledger.analysis.messages.tensors import Named
    from vram_ledger.analysis.predicting.library import Library

FAMILY = ("qwen3.5-27b", "qwen3.5-9b", "qwen3.5-4b", "qwen3.5-2b", "qwen3.5-0.8b")
LISTED, LISTED_SHAPES = 4, 4


def decode_message(
    message: Annotated[
        str, typer.Option(help="The message, or a log with it; else it is read from standard input.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="Name in configs/models, or the config.json of any model; else the whole Qwen3.5 family."),
    ] = "",
    gpu: Annotated[str, typer.Option(help="The card; else what has the memory that the message names.")] = "",
    context: Annotated[str, typer.Option(help="Tokens of each sequence of the run, if you know them.")] = "",
    batch: Annotated[str, typer.Option(help="Its sequences, 1 unless said; with the context.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say which tensor an out-of-memory message is about, at which batch and context, and what would have helped.

    Stored programs are run in the memory that the message says there was: seconds a model. Exit code: 0 if a tensor is
    named, 4 if it is none that is known.
    """
    from vram_ledger.analysis.messages.message import read_message
    from vram_ledger.analysis.messages.startup import read_startup
    from vram_ledger.analysis.messages.suspects import cards_printed, config_tensors, head_source, suspects
    from vram_ledger.analysis.messages.tensors import HEAD
    from vram_ledger.analysis.predicting.library import Library

    text = message or _standard_input()
    if (failed := read_startup(text)) is not None:
        _explain_server(failed, (model,) if model else FAMILY, gpu, as_json)
    said = read_message(text)
    shape = _shape(context, batch)
    models = (model,) if model else FAMILY
    card = _card(gpu, cards_printed(said))
    known = config_tensors(models, said, shape)
    library = Library.of()
    if said.allocated is not None and said.free is not None:
        typer.echo(f"Programs of {', '.join(models)} are run in the memory that there was: seconds.", err=True)
    with _progress() as looked:
        found = suspects(library, models, card, said, shape, looked)
    helping = list(_helping(library, card, said, found, known))
    code = 0 if found or known else 4
    if as_json:
        typer.echo(json.dumps(_as_json(said, card, found, known, helping), ensure_ascii=False))
        raise typer.Exit(code)
    head = head_source(library, models[0]) if any(one.tensor.module == HEAD for one in known) else ""
    _print(said, card, models, found, known, helping, shape, head)
    raise typer.Exit(code)


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("MESSAGE is missing: give the out-of-memory message (MESSAGE='…'), or a log on standard input")
    return sys.stdin.read()


def _explain_server(failed: "Failed", models: tuple[str, ...], gpu: str, as_json: bool) -> NoReturn:
    """What is known of a server that did not start."""
    from dataclasses import asdict

    from vram_ledger.analysis.evidence.tables import console
    from vram_ledger.analysis.ground.cards import card_of
    from vram_ledger.analysis.messages.servers import explained
    from vram_ledger.analysis.predicting.configs import config_of, name_of
    from vram_ledger.analysis.serving.model import read_served

    card = card_of(gpu, GPUS) if gpu else None
    answer = explained(failed, [read_served(path, name_of(path)) for path in map(config_of, models)], card)
    code = 0 if answer.about else 4
    if as_json:
        typer.echo(json.dumps({"failed": asdict(failed), **asdict(answer)}, ensure_ascii=False))
        raise typer.Exit(code)
    out = console()
    for number, line in enumerate(answer.about[:LISTED], 1):
        _line(out, f"{number}.", line)
    for number, line in enumerate(answer.helping):
        _line(out, "" if number else "help", line)
    why = "why it did not start" if answer.about else "no model here fits that; MODEL= and GPU= would tell more"
    typer.echo(f"exit {code}: {why}")
    raise typer.Exit(code)


def _shape(context: str, batch: str) -> tuple[int, int] | None:
    if not context:
        if batch:
            raise InputError("batch is that of a context: give CONTEXT, too")
        return None
    return sequences(batch or "1"), tokens(context, "context")


def _card(gpu: str, printed: "list[Card]") -> "Card | None":
    from vram_ledger.analysis.ground.cards import card_of

    if gpu:
        return card_of(gpu, GPUS)
    return printed[0] if printed else None


@contextmanager
def _progress() -> "Iterator[Callable[[str], None]]":
    """Says which program is looked through, where somebody looks."""
    from rich.console import Console

    out = Console(stderr=True)
    if not out.is_terminal:
        yield lambda what: None
        return
    with out.status("") as status:
        yield lambda what: status.update(f"looking through {what}")


def _helping(
    library: "Library", card: "Card | None", said: "Message", found: "list[Suspect]", known: "list[Named]"
) -> Iterator[str]:
    from vram_ledger.analysis.messages.remedies import of_loading, of_program, of_tensor, rest

    if found and card is not None:
        yield from of_program(library, card, said, found[0])
    elif known:
        yield from of_tensor(known[0], known[0].batch)
        if known[0].tensor.kind == "weight":
            yield from of_loading(library, known[0].models, card, said)
    yield from rest(said, settled=bool(found) and card is not None)


def _as_json(
    said: "Message", card: "Card | None", found: "list[Suspect]", known: "list[Named]", helping: list[str]
) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "message": asdict(said),
        "card": card.label if card else None,
        "programs": [asdict(one) for one in found],
        "tensors": [asdict(one) | {"score": one.score} for one in known],
        "would_help": helping,
    }


def _print(
    said: "Message",
    card: "Card | None",
    models: tuple[str, ...],
    found: "list[Suspect]",
    known: "list[Named]",
    helping: list[str],
    shape: tuple[int, int] | None,
    head: str,
) -> None:
    from vram_ledger.analysis.evidence.tables import console

    out = console()
    _line(out, "asked for", _figures(said))
    if card is not None:
        _line(out, "card", f"{card.label}, {card.source}")
    _line(out, "models", ", ".join(models))
    for number, suspect in enumerate(found[:LISTED], 1):
        _line(out, f"{number}.", _suspect_text(suspect))
    first = len(found[:LISTED]) + 1
    for number, one in enumerate(known[:LISTED], first):
        _line(out, f"{number}.", _named_text(one, head))
    for number, line in enumerate(helping):
        _line(out, "" if number else "help", line)
    if not found and not known:
        what = models[0] if len(models) == 1 else "the family"
        at = f" at batch {shape[0]:,} × context {shape[1]:,}" if shape else " at a round shape (CONTEXT=, BATCH=)"
        typer.echo(f"exit 4: no tensor of {what} has this size{at}")
    else:
        typer.echo(f"exit 0: {_first_text(found, known)}")


def _line(out: "Console", name: str, text: str) -> None:
    from rich.table import Table

    row = Table.grid(padding=(0, 2))
    row.add_column(width=9, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(name, text)
    out.print(row, markup=False)


def _figures(said: "Message") -> str:
    parts = [said.asked.text]
    for printed, words in (
        (said.free, "free"),
        (said.total, "of the card"),
        (said.allocated, "allocated"),
        (said.unallocated, "reserved beside them"),
        (said.reserved, "reserved"),
        (said.process, "held by the process"),
    ):
        if printed is not None:
            parts.append(f"{printed.text} {words}")
    return "; ".join(parts)


def _suspect_text(suspect: "Suspect") -> str:
    origin = suspect.origin
    (batch, context), *others = suspect.shapes
    shapes = ", ".join(f"{b:,} × {c:,}" for b, c in others[: LISTED_SHAPES - 1])
    more = len(others) - LISTED_SHAPES + 1
    also = f"; the same at {shapes}{f' and {more:,} more shapes' if more > 0 else ''}" if others else ""
    program = f"{suspect.phase} of {suspect.model} {' or '.join(suspect.variants)}"
    how = "all figures agree" if suspect.exact else "asked and allocated agree, what is reserved does not"
    return (
        f"{origin.op} in {origin.module or 'the model'} ({origin.source}), {origin.dtype} {origin.shape}, "
        f"{suspect.bytes:,} B: {program}, batch {batch:,} × context {context:,}{also} ({how})"
    )


def _named_text(one: "Named", head: str) -> str:
    from vram_ledger.analysis.messages.tensors import HEAD

    tensor = one.tensor
    at = f": {one.tokens:,} tokens" if one.tokens else ""
    at += f" in {one.batch:,} sequences" if one.batch > 1 else " of all sequences together" if one.tokens else ""
    whose = "" if len(one.models) > 1 else f" of {one.models[0]}"
    chance = f"by chance once in {1 / one.chance:,.0f}"
    where = f"{tensor.module}, {head}" if head and tensor.module == HEAD else tensor.module
    return f"{tensor.name}{whose} ({where}, {tensor.shape}), {one.bytes:,} B{at} ({chance})"


def _first_text(found: "list[Suspect]", known: "list[Named]") -> str:
    if found:
        return f"{found[0].origin.op} in {found[0].origin.module or 'the model'}"
    return known[0].tensor.name
