"""The command about a memory snapshot of a real run: history."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vram_ledger.commands.options import JsonOption
from vram_ledger.errors import InputError

LISTED = 10


def tell_history(
    file: Annotated[
        Path, typer.Argument(help="What torch.cuda.memory._dump_snapshot wrote, or JSON of it.", metavar="FILE")
    ],
    device: Annotated[int, typer.Option(help="Which device's events; needed where several have some.")] = -1,
    top: Annotated[int, typer.Option(help="How many frames to list.", min=1)] = LISTED,
    figure: Annotated[str, typer.Option(help="SVG file to draw allocated and reserved into.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say what a recorded run took, when and of what, what was reserved but unusable, and whether the rules explain it.

    Exit code: 0 if the allocator's rules give every address, or were not asked (it says why); 1 where they part.
    """
    from vram_ledger.analysis.allocation.history import Parted, history_of
    from vram_ledger.analysis.allocation.snapshot import read_snapshot
    from vram_ledger.analysis.evidence.tables import console
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.reporting.recording import ENDS, history_json, print_history

    if not file.is_file():
        raise InputError(f"{file}: {'a folder' if file.is_dir() else 'no such file'}; FILE is a memory snapshot")
    found = history_of(read_snapshot(file, None if device < 0 else device))
    if figure:
        from vram_ledger.analysis.reporting.course import course_svg

        put(Path(figure), course_svg(found, file.name))
    code = int(isinstance(found.rules, Parted))
    if as_json:
        typer.echo(json.dumps(history_json(found), ensure_ascii=False))
        raise typer.Exit(code)
    print_history(found, file.name, console(), top)
    if figure:
        typer.echo(f"wrote {figure}")
    typer.echo(f"exit {code}: {ENDS[type(found.rules)]}")
    raise typer.Exit(code)
