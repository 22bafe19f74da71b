"""``vram-ledger``: every command, and how it ends: with one line ``exit N: …``.

Exit codes: 0 yes, 1 no, 2 bad input, 3 environment not as asked, 4 can't be told, 5 incomplete. README.md has them.
"""

import importlib
import sys
from typing import Annotated

import typer

from vram_ledger.errors import MENDABLE
from vram_ledger.home import own_version

# A command's name, the module of vram_ledger.commands and the function in it, by the panel of the help.
COMMANDS = {
    "Measure": {
        "measure": "measure.measure",
        "boundary": "boundary.find_boundary",
        "judge": "judge.judge_files",
        "calibrate": "judge.calibrate_files",
        "profile": "instruments.profile",
        "emulate": "instruments.emulate",
    },
    "Ask": {
        "predict": "serving.predict",
        "capacity": "serving.capacity",
        "validate": "referee.validate_estimator",
        "scoreboard": "referee.rank_estimators",
        "claims": "judge.settle_claims",
        "report": "report.make_report",
    },
    "Look inside": {
        "derive": "derive.derive_model",
        "derived": "derive.print_ledger",
        "explain": "derive.explain_change",
        "held-out": "predict.score_held_out",
        "history": "history.tell_history",
        "log": "instruments.log",
        "oracle": "oracle.ask_runtime",
        "record": "instruments.record",
    },
}
HIDDEN = {"logs": "instruments.logs", "drift": "judge.judge_files"}


def run(arguments: list[str]) -> int:
    """Carries out one command and gives its exit code. What a user can mend is one line; a defect shows."""
    try:
        ended = application(arguments)(arguments or ["--help"], prog_name="vram-ledger", standalone_mode=False)
        return ended if isinstance(ended, int) else 0
    except typer.exceptions.TyperException as error:
        return end(2, "bad input", error.format_message() if isinstance(error, typer.BadParameter) else str(error))
    except MENDABLE as error:
        return end(error.exit_code, error.kind, str(error))
    except UnicodeDecodeError as error:
        return end(2, "bad input", f"not UTF-8 text ({error.reason} at byte {error.start})")
    except OSError as error:
        return end(2, "bad input", f"{error.filename}: {error.strerror}")


def application(arguments: list[str]) -> typer.Typer:
    """The commands; only the one that is called, if it is one, so that it need not wait for what the others import."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_options)
    listed = {name: (panel, place) for panel, commands in COMMANDS.items() for name, place in commands.items()}
    every = listed | {name: ("", place) for name, place in HIDDEN.items()}
    called = arguments[0] if arguments else ""
    for name, (panel, place) in ({called: every[called]} if called in every else listed).items():
        module, function = place.split(".")
        command = getattr(importlib.import_module(f"vram_ledger.commands.{module}"), function)
        app.command(name, rich_help_panel=panel or None)(command)
    return app


def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Measure the memory of hybrid models on a GPU, and hold every formula against it."""
    if version:
        typer.echo(f"vram-ledger {own_version()}")


def end(code: int, kind: str, why: str) -> int:
    """Prints why a command ends and gives the code.

    The reason comes last; lines below its first one, such as what there is to choose from, before it.
    """
    reason, *listed = why.splitlines() or [""]
    print(*listed, f"exit {code}: {kind}: {reason}", sep="\n", file=sys.stderr)
    return code
