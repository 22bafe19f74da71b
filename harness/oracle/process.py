"""A server's process: started, waited for no longer than a deadline, ended with all that it started."""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from vram_ledger.errors import Fault, InputError

UNKNOWN_CALL = re.compile(r"emulated card: the program called (.+) of (\S+), which the emulated card does not know")
RAISED = re.compile(r"^(?:\[rank\d+\]: )?(?:\w+\.)*(\w*(?:Error|Exception|Interrupt)\b.*)")
STEP_S = 0.2
GRACE_S = 5


def answer_of(
    command: list[str], variables: Mapping[str, str], deadline_s: int, tell: Callable[[str], None]
) -> tuple[Any, str]:
    """The JSON that a command writes to the file named last on its command line, and its whole output.

    ``tell`` hears every new line. :class:`Fault` says in one line why there is no answer; whatever the command started
    has ended by then, also on Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="vram-ledger-") as folder:
        log, answer = Path(folder) / "log", Path(folder) / "answer.json"
        with log.open("wb") as output:
            process = _started([*command, str(answer)], variables, output.fileno(), folder)
            try:
                code = _ended(process, log, deadline_s, tell)
            finally:
                _end_all(process)
        text = log.read_text(encoding="utf-8", errors="replace")
        if code is None:
            raise Fault(f"it was not ready after {deadline_s} s; the last that it said: {_last(text)}")
        if not answer.exists():
            raise Fault(why(text, code))
        return json.loads(answer.read_text(encoding="utf-8")), text


def _started(command: list[str], variables: Mapping[str, str], output: int, folder: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"{command[0]} can't be run: {error.strerror}") from error


def _ended(process: "subprocess.Popen[bytes]", log: Path, deadline_s: int, tell: Callable[[str], None]) -> int | None:
    """Its exit code, or ``None`` at the deadline."""
    until, read = monotonic() + deadline_s, 0
    while monotonic() < until:
        code = process.poll()
        with log.open("rb") as file:
            file.seek(read)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        read += whole
        for line in new[:whole].decode("utf-8", "replace").splitlines():
            tell(line)
        if code is not None:
            return code
        sleep(STEP_S)
    return None


def _end_all(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and its own: it leads a session, so that the terminal's Ctrl-C does not reach it before us.

    Another Ctrl-C shortens the grace.
    """
    try:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def why(text: str, code: int) -> str:
    """Why a server did not start, in one line: a call that is not emulated, what was raised, or its last words."""
    if call := UNKNOWN_CALL.search(text):
        return f"it called {call[1]} of {call[2]}, which the emulated card does not know"
    raised = [found[1] for line in text.splitlines() if (found := RAISED.match(line))]
    if raised:
        return f"it stopped: {raised[-1]}"
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"it stopped with {ended}: {_last(text)}"


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"
