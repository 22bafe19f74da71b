"""``python -m vram_ledger.from_make COMMAND``: what make was given as variables, as the options of a command.

A variable is named as the option in capitals (``--gpu`` is GPU), or as the argument in the command's help. Values come
through the environment, so that no shell and no make ever reads them as code. A name that the command does not take
is refused; it would change nothing, and the answer would be to another question.
"""

import difflib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from vram_ledger import __main__
from vram_ledger.cli import application, end
from vram_ledger.errors import InputError

GIVEN = "VRAM_LEDGER_GIVEN"  # the names on make's command line
OF_MAKE = ("PYTHON", "BASE_PYTHON")


def arguments_of(command: str, names: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command line that ``make command NAME=value …`` stands for; :class:`InputError` names the near variable.

    names: the variables on make's own command line. A variable of the command that is only in the environment counts,
    too, as it does for make.
    """
    takes = {_variable(parameter): parameter for parameter in _parameters(command)}
    for name in names:
        if name not in takes and name not in OF_MAKE:
            near = difflib.get_close_matches(name.upper(), takes, n=2, cutoff=0.5)
            guess = f"; near: {' or '.join(near)}" if near else ""
            raise InputError(f"make {command} takes no variable {name}{guess}. It takes {', '.join(sorted(takes))}")
    options, positional = [command], []
    for name, parameter in takes.items():
        value = environment.get(name, "")
        if value == "":
            continue
        if parameter.param_type_name == "argument":
            positional += _several(value) if parameter.nargs == -1 else [value]
        elif getattr(parameter, "is_flag", False):
            options += [parameter.opts[0]] if _is_set(name, value) else []
        else:
            values = _several(value) if parameter.multiple else [value]
            options += [f"{parameter.opts[0]}={v}" for v in values]
    return [*options, "--", *positional] if positional else options


def _parameters(command: str) -> list[Any]:
    found: Any = typer.main.get_command(application([command]))
    return [p for p in found.commands[command].params if p.name != "help"]


def _variable(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).strip("[].").upper()
    return str(parameter.opts[0]).lstrip("-").replace("-", "_").upper()


def _is_set(name: str, value: str) -> bool:
    if value.lower() not in ("1", "yes", "true", "0", "no", "false"):
        raise InputError(f"{name} is 1 or 0, got {value!r}")
    return value.lower() in ("1", "yes", "true")


def _several(value: str) -> list[str]:
    """One value where it is a path that is there; else its words, quoted as for a shell."""
    if Path(value).exists():
        return [value]
    try:
        return shlex.split(value)
    except ValueError as error:
        raise InputError(f"{value!r}: {error}") from error


def main() -> None:
    """Translates and runs; ends as the command does."""
    try:
        arguments = arguments_of(sys.argv[1], os.environ.get(GIVEN, "").split(), os.environ)
    except InputError as error:
        raise SystemExit(end(error.exit_code, error.kind, str(error))) from None
    sys.argv[1:] = arguments
    __main__.main()


if __name__ == "__main__":
    main()
