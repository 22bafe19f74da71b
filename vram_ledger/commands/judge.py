"""The commands that compare a campaign with its expectation: judge, calibrate, claims."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vram_ledger.analysis.calibrating.calibration import Calibration, make_calibration, write_calibration
from vram_ledger.analysis.evidence.lines import MixedError
from vram_ledger.analysis.evidence.verdict import Verdict, exit_code, summary
from vram_ledger.analysis.judging.campaign import (
    calibration_path,
    config_path,
    formulas_for,
    shapes_for,
    stored_for,
)
from vram_ledger.analysis.judging.drift import all_fitted_terms, counting_lines, judge
from vram_ledger.analysis.judging.published_points import judge_published
from vram_ledger.commands.files import results_files
from vram_ledger.commands.options import JsonOption
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import ResultsFile, encode
from vram_ledger.home import RESULTS, RUNS

FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="Results files, folders of them, or patterns; else those of --results.", metavar="FILE"),
]
ResultsOption = Annotated[Path, typer.Option(help="Folder of results.")]


def judge_files(
    files: FilesArgument = None,
    results: ResultsOption = RESULTS,
    config: Annotated[
        Path | None, typer.Option(help="Judge against this config.json, not the measured model's own.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Default: <model>.calibration.json beside the file, if it is there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a verdict per term of each results file, and exit with 0 only if every one agrees."""
    worst = 0
    told: list[dict[str, Any]] = []
    for file in results_files(files or [results]):
        worst = max(worst, _judge(file, config, calibration, told if as_json else None))
    if as_json:
        typer.echo(json.dumps(told, indent=1))
    raise typer.Exit(worst)


def _judge(file: Path, config: Path | None, calibration: Path | None, told: list[dict[str, Any]] | None) -> int:
    results = read(file)
    shapes, note = shapes_for(results, config)
    stored = stored_for(results, calibration)
    verdicts = judge(results, shapes, calibration=stored, derived=formulas_for(results))
    of_points, beside = judge_published(results)
    verdicts += of_points
    notes = (*results.notes, *((note,) if note else ()))
    if told is not None:
        told.append(
            {
                "file": str(file),
                "exit_code": exit_code(verdicts),
                "summary": summary(verdicts),
                "environment": encode(results.environment),
                "notes": [*notes, *beside],
                "verdicts": encode(verdicts),
            }
        )
        return exit_code(verdicts)
    from vram_ledger.analysis.evidence.tables import console, print_verdicts

    out = console()
    print_verdicts(out, results.environment, verdicts, counting_lines(results))
    for line in (*(f"note: {n.removeprefix('note: ')}" for n in notes), *beside):
        typer.echo(line)
    typer.echo(f"expected: {config_path(results, config).name}; {stored.origin if stored else 'no calibration stored'}")
    typer.echo(summary(verdicts))
    return exit_code(verdicts)


def calibrate_files(files: FilesArgument = None, results: ResultsOption = RUNS) -> None:
    """Write <model>.calibration.json, .csv and .md beside each results file; all, or none if one is not in order.

    Of the published results, docs/calibrations.md is made anew, too.
    """
    from vram_ledger.analysis.calibrating.published import digest, publish, unannounced, write_table

    made = [calibration_of(file) for file in results_files(files or [results])]
    targets = [path for path, *_ in made]
    if twice := [path for path in targets if targets.count(path) > 1]:
        raise MixedError(f"{twice[0]} would be written from two results files; name the one to take (FILE=…)")
    for path, calibration, contents, verdicts in made:
        if not calibration.terms:
            typer.echo(f"{contents.path}: {summary(verdicts).removeprefix('exit 0: ')}, so there is no calibration")
            continue
        write_calibration(calibration, path)
        publish(path, contents, verdicts)
        typer.echo(f"wrote {path} ({len(calibration.terms)} terms, numbers {digest(path)})")
    checkout = RESULTS.parent
    if any(path.resolve().is_relative_to(RESULTS) for path in targets) and (checkout / "CHANGELOG.md").exists():
        write_table(checkout / "docs" / "calibrations.md", RESULTS)
        for line in unannounced(checkout / "CHANGELOG.md", RESULTS):
            typer.echo(f"CHANGELOG.md has no entry for {line}: add one, with the reason")
    typer.echo("exit 0: calibrated")


def calibration_of(file: Path) -> tuple[Path, Calibration, ResultsFile, tuple[Verdict, ...]]:
    """Where to write a file's calibration, the calibration, and what it was made from.

    Refused unless the file agrees with its own config.
    """
    results = read(file)
    shapes, _ = shapes_for(results, None)
    path, verdicts = calibration_path(results), judge(results, shapes)
    return path, make_calibration(results, all_fitted_terms(results), verdicts, path.name), results, verdicts


def settle_claims(
    folder: Annotated[Path, typer.Argument(help="Results of one GPU label, or of several.", metavar="RESULTS")],
    as_json: JsonOption = False,
) -> None:
    """Write claims.md into the folder: the FitMyGPU page's claims, each with what was measured and a verdict."""
    from vram_ledger.analysis.calibrating.claims import claims_markdown, labels_with, read_campaigns, settle
    from vram_ledger.analysis.ground.files import put

    told = {}
    for label in labels_with(folder):
        campaigns = read_campaigns(label)
        text = "\n".join(claims_markdown(campaigns)) + "\n"
        put(label / "claims.md", text)
        told[label.name] = [
            {"claim": claim, "found": settled.found, "verdict": settled.verdict} for claim, settled in settle(campaigns)
        ]
        if not as_json:
            typer.echo(text)
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else "exit 0: settled")
