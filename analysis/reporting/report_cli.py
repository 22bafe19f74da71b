"""The command that makes the report."""

from pathlib import Path
from typing import Annotated

import typer


def make_report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Results files; else the main campaigns in results/.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder for report.html and figures/; results/ if no file is named.")
    ] = None,
) -> None:
    """Write report.html, one page that needs no network, and its figures as SVG files."""
    from analysis.campaign import REPOSITORY, main_campaigns
    from analysis.evidence import MixedError
    from analysis.reporting.capacity import card_frontiers
    from analysis.reporting.report import build, write

    if files and not to:
        raise MixedError(
            "a report of named files does not take the place of the one in results/: name a folder (RESULTS=…)"
        )
    folder = to or REPOSITORY / "results"
    report = build(files or main_campaigns(), card_frontiers())
    for path in write(report, folder):
        typer.echo(f"wrote {path}")
    typer.echo("exit 0: reported")
