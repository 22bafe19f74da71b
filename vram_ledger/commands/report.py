"""The command that makes the report."""

from pathlib import Path
from typing import Annotated

import typer

from vram_ledger.commands.files import main_files
from vram_ledger.home import RUNS


def make_report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results files, folders or patterns; else the main campaigns of --results.", metavar="FILE"
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of campaigns, and of the page; else the published ones, to runs/.")
    ] = None,
) -> None:
    """Write report.html, one page that needs no network, and its figures as SVG files."""
    from vram_ledger.analysis.public.evidence import published_rows
    from vram_ledger.analysis.reporting.capacity import card_frontiers
    from vram_ledger.analysis.reporting.report import build, write

    for path in write(build(main_files(files, results), card_frontiers(), published_rows()), results or RUNS):
        typer.echo(f"wrote {path}")
    typer.echo("exit 0: reported")
