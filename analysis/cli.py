"""``python -m analysis``: judge a results file, store a calibration of it, derive a program's formula, referee
estimators, put all of it on one page.

Exit codes: 0 in agreement; 1 drift, inconclusive or unidentifiable; 2 bad input; 3 environment not as asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from analysis.calibration import (
    Calibration,
    CalibrationError,
    NotCalibrated,
    WrongEnvironment,
    make_calibration,
    write_calibration,
)
from analysis.campaign import REPOSITORY, calibration_path, config_path, formulas_for, shapes_for, stored_for
from analysis.cards import CardError
from analysis.derivation.derive_cli import derive_model, explain_change, print_ledger, verify_formulas
from analysis.derivation.derived import OtherProgram, OutsideDomain
from analysis.derivation.derived_files import DerivedError, UnknownVariant
from analysis.derivation.moves import NotComparable
from analysis.derivation.pieces import NotDerived
from analysis.derivation.replays import NotReplayed
from analysis.drift import all_fitted_terms, counting_lines, judge
from analysis.evidence import MixedError
from analysis.model import ConfigError
from analysis.predicting.predict_cli import predict_memory, score_held_out, show_capacity
from analysis.predicting.predictor import NothingKnown
from analysis.predicting.simulate import simulate_allocator
from analysis.predicting.simulated import SimulatedError
from analysis.refereeing.breakdown import EstimatorError
from analysis.refereeing.referee_cli import rank_estimators, validate_estimator
from analysis.reporting.report_cli import make_report
from analysis.verdict import (
    AGREEMENT,
    BAD_INPUT,
    DISAGREEMENT,
    WRONG_ENVIRONMENT,
    Verdict,
    exit_code,
    summary,
)
from harness.records import RecordError, ResultsFile, read

STORED_ERRORS = (
    CalibrationError,
    SimulatedError,
    DerivedError,
    NotComparable,
    NotReplayed,
    OutsideDomain,
    UnknownVariant,
)
KINDS = {DISAGREEMENT: "refused", BAD_INPUT: "bad input", WRONG_ENVIRONMENT: "environment not as asked"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)


@app.command("judge")
def judge_file(
    file: Annotated[Path, typer.Argument(help="A results file.")],
    config: Annotated[
        Path | None, typer.Option(help="Judge against this config.json, not the measured model's own.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Default: <model>.calibration.json beside FILE, if it is there.")
    ] = None,
) -> None:
    """Print a verdict per term, and exit with 0 only if every one agrees."""
    with clear_errors():
        results = read(file)
        shapes, note = shapes_for(results, config)
        stored = stored_for(results, calibration)
        formulas = formulas_for(results)
        verdicts = judge(results, shapes, calibration=stored, derived=formulas)
    from analysis.tables import console, print_verdicts

    out = console()
    print_verdicts(out, results.environment, verdicts, counting_lines(results))
    if note:
        typer.echo(note)
    typer.echo(f"expected: {config_path(results, config).name}; {stored.origin if stored else 'no calibration stored'}")
    typer.echo(summary(verdicts))
    raise typer.Exit(exit_code(verdicts))


@app.command("calibrate")
def calibrate_files(
    files: Annotated[list[Path], typer.Argument(help="Results files, each of which passes its own drift check.")],
    readme: Annotated[Path | None, typer.Option(help="README whose table of calibrations is to be made anew.")] = None,
) -> None:
    """Write <model>.calibration.json, .csv and .md beside each results file; all, or none if one is not in order."""
    from analysis.published import NotPublished, digest, publish, unannounced, write_readme

    with clear_errors():
        made = [calibration_of(file) for file in files]
        targets = [path for path, *_ in made]
        if twice := [path for path in targets if targets.count(path) > 1]:
            raise MixedError(f"{twice[0]} would be written from two results files; name the one to take (FILE=…)")
        for path, calibration, results, verdicts in made:
            if not calibration.terms:
                typer.echo(f"{results.path}: {summary(verdicts).removeprefix('exit 0: ')}, so there is no calibration")
                continue
            write_calibration(calibration, path)
            publish(path, results, verdicts)
            typer.echo(f"wrote {path} ({len(calibration.terms)} terms, numbers {digest(path)})")
        if readme is not None:
            try:
                write_readme(readme, REPOSITORY / "results")
            except NotPublished as error:
                raise ConfigError(str(error)) from error
            for line in unannounced(readme.with_name("CHANGELOG.md"), REPOSITORY / "results"):
                typer.echo(f"CHANGELOG.md has no entry for {line}: add one, with the reason")
    typer.echo("exit 0: calibrated")


@app.command("claims")
def settle_claims(
    folder: Annotated[Path, typer.Argument(help="Results of one GPU label, such as results/fake-h200.")],
) -> None:
    """Write claims.md into the folder: the FitMyGPU page's claims, each with what was measured and a verdict."""
    from analysis.claims import claims_markdown, read_campaigns
    from analysis.files import put

    with clear_errors():
        lines = list(claims_markdown(read_campaigns(folder)))
        put(folder / "claims.md", "\n".join(lines) + "\n")
    for line in lines:
        typer.echo(line)
    typer.echo("exit 0: settled")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Ends the command with one line on stderr and the documented exit code where the input is at fault."""
    try:
        yield
    except (WrongEnvironment, OtherProgram) as error:
        code, message = WRONG_ENVIRONMENT, str(error)
    except (NotCalibrated, NotDerived, NothingKnown) as error:
        code, message = DISAGREEMENT, str(error)
    except (CardError, ConfigError, EstimatorError, MixedError, RecordError, *STORED_ERRORS) as error:
        code, message = BAD_INPUT, str(error)
    except UnicodeDecodeError as error:
        code, message = BAD_INPUT, f"not a results file: not UTF-8 text ({error.reason} at byte {error.start})"
    except OSError as error:
        code, message = BAD_INPUT, f"{error.filename}: {error.strerror}"
    else:
        code, message = AGREEMENT, ""
    if code:
        typer.echo(f"exit {code}: {KINDS[code]}: {message}", err=True)
        raise typer.Exit(code)


def calibration_of(file: Path) -> tuple[Path, Calibration, ResultsFile, tuple[Verdict, ...]]:
    """Where to write a file's calibration, the calibration, and what it was made from.

    Refused unless the file agrees with its own config.
    """
    results = read(file)
    shapes, _ = shapes_for(results, None)
    path, verdicts = calibration_path(results), judge(results, shapes)
    return path, make_calibration(results, all_fitted_terms(results), verdicts, path.name), results, verdicts


for _name, _command in (
    ("derive", derive_model),
    ("verify", verify_formulas),
    ("ledger", print_ledger),
    ("explain", explain_change),
    ("validate", validate_estimator),
    ("scoreboard", rank_estimators),
    ("report", make_report),
    ("simulate", simulate_allocator),
    ("predict", predict_memory),
    ("capacity", show_capacity),
    ("held-out", score_held_out),
):
    app.command(_name)(clear_errors()(_command))
