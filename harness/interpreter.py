"""A small program run by another environment's Python, and what it told."""

import json
import os
import subprocess
from typing import Any

from vram_ledger.errors import InputError, WrongEnvironment

LEAST_PYTHON = (3, 11)
DEADLINE_S = 180


def told_by(
    interpreter: str, program: str, *arguments: str, deadline_s: int = DEADLINE_S, preload: bool = False
) -> Any:
    """The JSON in the last line that a program prints; :class:`InputError` in one line where there is none.

    preload: keep ``LD_PRELOAD``, whose libraries are made for the PyTorch of this interpreter.
    """
    environment = {name: value for name, value in os.environ.items() if preload or name != "LD_PRELOAD"}
    least = ".".join(map(str, LEAST_PYTHON))
    try:
        done = subprocess.run(
            [interpreter, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
            check=False,
        )
    except OSError as error:
        raise InputError(f"{interpreter} can't be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise WrongEnvironment(f"{interpreter} does not tell what it has within {deadline_s} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise InputError(f"{interpreter} is no Python {least} or newer that can tell what it has: {last}")
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        told = None
    if not isinstance(told, dict):
        raise InputError(f"{interpreter} is no Python {least} or newer: it prints something else than it was asked for")
    return told
