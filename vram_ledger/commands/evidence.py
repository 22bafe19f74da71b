"""The command about figures that other people published: evidence."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vram_ledger.commands.options import JsonOption
from vram_ledger.errors import Fault, InputError, WrongEnvironment
from vram_ledger.home import MODELS, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vram_ledger.analysis.ground.figures import Figure, Protocol
    from vram_ledger.analysis.public.evidence import Row
    from vram_ledger.analysis.public.protocols import Told

PACKAGES = ("torch", "transformers", "flash-linear-attention", "triton")
WIDE_COLUMNS = 100


def show_evidence(
    file: Annotated[
        list[Path] | None, typer.Option(help="TOML of figures, as docs/evidence.md says; else the published ones.")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Run the protocols anew on emulated cards; minutes.")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder for evidence.md; else runs/.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold published figures of real cards against what we say today; exit with 1 if one is not as it was.

    Each figure is known to the digits that were printed. Disagreements come first, with what was tried to explain them.
    """
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.public.evidence import evidence_markdown, failing, plain, rows_of, summary

    figures, protocols = _read(file)
    told = {p.name: _run(p, results) for p in _needed(figures, protocols)} if anew else {}
    rows = rows_of(figures, protocols, told)
    put((results or RUNS) / "evidence.md", "\n".join(evidence_markdown(rows)) + "\n")
    broken = failing(rows)
    code = 1 if broken else 0
    if as_json:
        typer.echo(json.dumps({"rows": plain(rows), "exit": code}, ensure_ascii=False))
        raise typer.Exit(code)
    _print(rows)
    typer.echo(f"{summary(rows)}; wrote {(results or RUNS) / 'evidence.md'}")
    names = ", ".join(f"{row.figure.name} ({row.standing})" for row in broken)
    typer.echo(f"exit {code}: {f'not as it was: {names}' if broken else 'every figure stands as it did'}")
    raise typer.Exit(code)


def _read(paths: "Sequence[Path] | None") -> "tuple[list[Figure], dict[str, Protocol]]":
    """The figures of the files, or the published ones; and the protocols of both, by name."""
    from vram_ledger.analysis.ground.figures import read_all, read_published

    published, known = read_published()
    if not paths:
        return published, known
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; FILE is a TOML of figures")
    figures, own = read_all(paths)
    return figures, known | own


def _needed(figures: "Iterable[Figure]", protocols: "dict[str, Protocol]") -> "list[Protocol]":
    from vram_ledger.analysis.ground.figures import FromProtocol

    names = dict.fromkeys(f.answer.protocol for f in figures if isinstance(f.answer, FromProtocol))
    return [protocols[name] for name in names if name in protocols]


def _run(protocol: "Protocol", results: Path | None) -> "Told":
    """Runs a protocol's script on an emulated card, and keeps what it told."""
    import subprocess
    import sys

    from vram_ledger.analysis.ground.figures import PUBLIC
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.public.protocols import Told, checked, told_text

    if not protocol.script.is_file():
        raise InputError(
            f"{protocol.script}: no such script; the published ones are in a checkout's examples/protocols"
        )
    arguments = [argument.replace("{models}", str(MODELS)) for argument in protocol.arguments]
    software = _software()
    command = [sys.executable, "-m", "vram_ledger", "emulate", "--card", protocol.card, "--", "python"]
    typer.echo(f"running {protocol.name} on an emulated {protocol.card}", err=True)
    done = subprocess.run([*command, protocol.script, *arguments], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise Fault(f"{protocol.script.name} ended with {done.returncode}: {(done.stderr.splitlines() or [''])[-1]}")
    try:
        answer = json.loads(lines[-1])
    except ValueError as error:
        raise Fault(f"{protocol.script.name}: its last line is no JSON: {lines[-1][:80]}") from error
    told = Told(
        protocol=protocol.name,
        script=protocol.script.name,
        card=protocol.card,
        arguments=protocol.arguments,
        software=software,
        told=checked(answer, protocol.script.name),
    )
    elsewhere = (results or RUNS) / "public" / "protocols" / protocol.stored.name
    put(elsewhere if protocol.folder == PUBLIC else protocol.stored, told_text(told))
    return told


def _software() -> dict[str, str]:
    """The versions that a protocol runs with; asked before it does, for one may not be installed."""
    import importlib.metadata

    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise WrongEnvironment(f"{error.name} is not installed; a protocol runs with {', '.join(PACKAGES)}") from error


def _print(rows: "Sequence[Row]") -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import console
    from vram_ledger.analysis.public.evidence import ORDER

    out = console()
    out.print("FIGURES OF OTHER PEOPLE'S CARDS — nothing here was measured by this project", style="bold", markup=False)
    for standing in ORDER:
        own = [row for row in rows if row.standing == standing]
        if not own:
            continue
        title = f"{standing} ({len(own)})"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("figure", overflow="fold", ratio=1)
        for name in ("printed", "we say", "difference", *(["from"] if out.width >= WIDE_COLUMNS else [])):
            table.add_column(name, justify="right", no_wrap=out.width >= WIDE_COLUMNS)
        for row in own:
            cells = [row.figure.printed.text, row.ours, row.difference]
            table.add_row(row.figure.name, *cells, *([row.source] if out.width >= WIDE_COLUMNS else []))
        out.print(table)
        if standing != "agrees":
            for row in own:
                where = row.figure.address or f"“{row.figure.found}”"
                tried = f"\n  {row.figure.tried}" if row.figure.tried else ""
                out.print(f"{row.figure.name}: {where}{tried}", markup=False, soft_wrap=True)
