"""The commands about estimators: validate and scoreboard."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vram_ledger.commands.files import main_files

if TYPE_CHECKING:
    from vram_ledger.analysis.refereeing.referee import Scored

FilesOption = Annotated[
    list[Path] | None,
    typer.Option("--file", help="Results file, folder or pattern; else the main campaigns of --results."),
]


def validate_estimator(
    estimator: Annotated[
        str, typer.Argument(help="path/file.py:function, a quoted command, a .csv of predictions, or a known name.")
    ],
    than: Annotated[str, typer.Option("--base", help="The version that it replaces, in the same forms.")] = "",
    file: FilesOption = None,
    tolerance: Annotated[str, typer.Option(help="Largest error of a total: 5%, 2GB, 512MiB.")] = "",
    markdown: Annotated[Path | None, typer.Option(help="Write the report here, too.")] = None,
    deadline_s: Annotated[float, typer.Option(min=0.01, help="Seconds that a command has for an answer.")] = 30.0,
) -> None:
    """Score an estimator against measured bytes; exit with 1 if it is beyond TOLERANCE or worse than BASE."""
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.refereeing.campaign import campaigns_of
    from vram_ledger.analysis.refereeing.referee import score_all
    from vram_ledger.analysis.refereeing.score import read_tolerance
    from vram_ledger.analysis.refereeing.validation import validation_markdown

    allowed = read_tolerance(tolerance) if tolerance else None
    campaigns = campaigns_of(main_files(file, None))
    found = score_all(estimator, campaigns, deadline_s)
    replaced = score_all(than, campaigns, deadline_s) if than else []
    text = "\n".join(validation_markdown(found, replaced)) + "\n"
    typer.echo(text)
    if markdown is not None:
        put(markdown, text)
    complaints = _worse(found, replaced)
    for own in found:
        beyond = own.beyond(allowed) if allowed else ()
        if beyond:
            worst = max(beyond, key=lambda e: abs(e.bytes) / e.measured_bytes)
            share = worst.bytes / worst.measured_bytes
            complaints.append(
                f"{len(beyond)} of {len(own.totals)} totals of {own.campaign.model} are off by more than {tolerance}, "
                f"the worst by {share:+.1%} ({worst.request.text})"
            )
    typer.echo(f"exit 1: {'; '.join(complaints)}" if complaints else "exit 0: validated")
    raise typer.Exit(1 if complaints else 0)


def _worse(found: list["Scored"], replaced: list["Scored"]) -> list[str]:
    from vram_ledger.analysis.refereeing.changes import worse

    pairs = zip(replaced, found, strict=True) if replaced else ()
    reasons = [(now.campaign.model, worse(before.errors, now.errors)) for before, now in pairs]
    return [f"worse than {replaced[0].estimator} on {model}: {reason}" for model, reason in reasons if reason]


def rank_estimators(
    file: FilesOption = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of campaigns, and for scoreboard.md and .csv; else the published ones, and runs/."),
    ] = None,
) -> None:
    """Rank every estimator and ours on the same measured points."""
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.refereeing.campaign import campaigns_of
    from vram_ledger.analysis.refereeing.scoreboard import scoreboard, scoreboard_csv, scoreboard_markdown
    from vram_ledger.home import RUNS

    boards = [scoreboard(campaign) for campaign in campaigns_of(main_files(file, results))]
    folder = results or RUNS
    text = "\n".join(scoreboard_markdown(boards)) + "\n"
    put(folder / "scoreboard.md", text)
    put(folder / "scoreboard.csv", scoreboard_csv(boards))
    typer.echo(text)
    typer.echo("exit 0: ranked")
