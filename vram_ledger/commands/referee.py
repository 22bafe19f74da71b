"""The commands about estimators: validate and scoreboard."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vram_ledger.commands.files import main_files
from vram_ledger.commands.options import FilesOption, JsonOption
from vram_ledger.home import RUNS

if TYPE_CHECKING:
    from vram_ledger.analysis.refereeing.referee import Scores
    from vram_ledger.analysis.refereeing.score import Tolerance


def validate_estimator(
    estimator: Annotated[
        str, typer.Argument(help="path/file.py:function, a quoted command, a .csv of predictions, or a known name.")
    ],
    than: Annotated[str, typer.Option("--base", help="The version that it replaces, in the same forms.")] = "",
    file: FilesOption = None,
    tolerance: Annotated[str, typer.Option(help="Largest error of a total: 5%, 2GB, 512MiB.")] = "",
    points: Annotated[bool, typer.Option("--points", help="A row for each workload, too.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the report, points included, here, too.")] = None,
    deadline_s: Annotated[float, typer.Option(min=0.01, help="Seconds that a command has for an answer.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Score an estimator against stored campaigns; exit with 1 if it is beyond TOLERANCE or worse than BASE.

    Without either nothing is asked of it, and the last line says how far off it is. docs/estimators.md has the forms.
    """
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.refereeing.campaign import campaigns_of
    from vram_ledger.analysis.refereeing.referee import score_all
    from vram_ledger.analysis.refereeing.score import read_tolerance
    from vram_ledger.analysis.refereeing.validation import plain, validation_markdown

    allowed = read_tolerance(tolerance) if tolerance else None
    campaigns = campaigns_of(main_files(file, None))
    found = score_all(estimator, campaigns, deadline_s)
    replaced = score_all(than, campaigns, deadline_s) if than else None
    if markdown is not None:
        put(markdown, "\n".join(validation_markdown(found, replaced, points=True)) + "\n")
    complaints = [*_worse(found, replaced), *_beyond(found, allowed)]
    code = 1 if complaints else 0
    if as_json:
        typer.echo(json.dumps({"campaigns": plain(found), "complaints": complaints, "exit": code}, ensure_ascii=False))
        raise typer.Exit(code)
    typer.echo("\n".join(validation_markdown(found, replaced, points)) + "\n")
    typer.echo(f"exit {code}: {'; '.join(complaints) or _let_through(found, tolerance, than)}")
    raise typer.Exit(code)


def _worse(found: "Scores", replaced: "Scores | None") -> list[str]:
    from vram_ledger.analysis.refereeing.changes import worse
    from vram_ledger.analysis.refereeing.validation import pairs

    reasons = [(old, now, worse(old.errors, now.errors)) for old, now in pairs(found, replaced)]
    return [f"worse than {old.estimator} on {now.campaign.model}: {reason}" for old, now, reason in reasons if reason]


def _beyond(found: "Scores", allowed: "Tolerance | None") -> list[str]:
    complaints = []
    for own in found.scored:
        if beyond := own.beyond(allowed) if allowed else ():
            worst = max(beyond, key=lambda e: abs(e.share))
            complaints.append(
                f"{len(beyond)} of {len(own.totals)} totals of {own.campaign.model} are off by more than "
                f"{allowed.text if allowed else ''}, the worst by {worst.share:+.1%} ({worst.request.text})"
            )
    return complaints


def _let_through(found: "Scores", tolerance: str, than: str) -> str:
    """What was asked of it and held, or that nothing was; and the largest error of a total."""
    worst = max((e for own in found.scored for e in own.totals), key=lambda e: abs(e.share))
    tests = [*([f"within {tolerance}"] if tolerance else []), *([f"no worse than {than}"] if than else [])]
    said = f"validated, {' and '.join(tests)}" if tests else "scored, nothing was asked of it"
    return f"{said}; worst {worst.share:+.1%} ({worst.request.text})"


def rank_estimators(
    file: FilesOption = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of campaigns and of the scoreboard; else the published ones, and runs/."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank every estimator on the same points, with those that claim the same; ours beside them."""
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.refereeing.campaign import campaigns_of
    from vram_ledger.analysis.refereeing.scoreboard import rows, scoreboard, scoreboard_csv, scoreboard_markdown

    boards = [scoreboard(campaign) for campaign in campaigns_of(main_files(file, results))]
    folder = results or RUNS
    text = "\n".join(scoreboard_markdown(boards)) + "\n"
    put(folder / "scoreboard.md", text)
    put(folder / "scoreboard.csv", scoreboard_csv(boards))
    if as_json:
        typer.echo(json.dumps([dict(row) for row in rows(boards)], ensure_ascii=False))
        return
    typer.echo(text)
    typer.echo(f"exit 0: ranked; wrote {folder / 'scoreboard.md'} and .csv")
