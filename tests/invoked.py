"""Runs a command in this process, and gives what it printed and its exit code."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

from vram_ledger.cli import run


@dataclass(frozen=True)
class Result:
    """What a command did. output: both streams, as they came."""

    exit_code: int
    stdout: str
    stderr: str
    output: str


class _Both(io.StringIO):
    def __init__(self, together: io.StringIO) -> None:
        super().__init__()
        self._together = together

    def write(self, text: str) -> int:
        self._together.write(text)
        return super().write(text)


def invoke(*arguments: Any) -> Result:
    """``vram-ledger`` with these arguments; what is no user's error is raised."""
    together = io.StringIO()
    out, err = _Both(together), _Both(together)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue(), together.getvalue())
