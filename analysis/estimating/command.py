"""An estimator that is another program: a request a line on its stdin, a breakdown a line on its stdout.

It is started once and asked one request at a time, each with a deadline. Whatever it does (hang, die, write something
else, start children of its own), it is gone when the block is left, and also when this process is told to end.
"""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import NoReturn

from vram_ledger.analysis.estimating.breakdown import Breakdown, EstimatorError, Request, from_answer, to_request_line

DEADLINE_S = 30.0
LONGEST_ANSWER_BYTES = 1 << 20
LAST_LINES, LAST_CHARACTERS = 3, 400
GOODBYE_S = 0.5  # to end by itself once its stdin is closed


class Command:
    """A running estimator; made by :func:`running`."""

    def __init__(self, words: Sequence[str], deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._unread = b""
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed by close)
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # so that its children can be ended with it
            )
        except OSError as error:
            self._log.close()
            raise EstimatorError(f"{words[0]}: can't be started ({error.strerror})") from error

    @property
    def pid(self) -> int:
        """The process number, which is also its group's."""
        return self._process.pid

    def estimate(self, request: Request) -> Breakdown:
        """The answer to a request; :class:`EstimatorError` names the request if there is none, or none that counts."""
        if self._unread:
            raise EstimatorError(f"{request.text}: before it was asked, the command wrote {self._unread[:80]!r}")
        self._send(to_request_line(request).encode())
        return from_answer(self._line(request.text), request.text)

    def close(self) -> None:
        """Ends the process and every process it started."""
        try:
            self._process.stdin.close()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # it is gone, and did not read what it was sent last
        try:
            self._process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            pass  # it did not take the hint
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody is left
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._log.close()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: the wait for its answer says how

    def _line(self, where: str) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = monotonic() + self._deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - monotonic())):
                    raise EstimatorError(f"{where}: no answer within {self._deadline_s:g} s; {self._last_words()}")
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    self._died(where)
                self._unread += chunk
                if len(self._unread) > LONGEST_ANSWER_BYTES:
                    raise EstimatorError(f"{where}: more than {LONGEST_ANSWER_BYTES:,} B and no end of the line")
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise EstimatorError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error

    def _died(self, where: str) -> NoReturn:
        try:
            code = self._process.wait(self._deadline_s)
        except subprocess.TimeoutExpired as error:
            raise EstimatorError(f"{where}: the command closed its stdout; {self._last_words()}") from error
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        raise EstimatorError(f"{where}: the command {how} without an answer; {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        said = " | ".join(lines[-LAST_LINES:])
        return f"its last words: {said[-LAST_CHARACTERS:]}" if said else "it said nothing on stderr"


@contextmanager
def running(words: Sequence[str], deadline_s: float = DEADLINE_S) -> Iterator[Command]:
    """A started command, ended with all its children when the block is left; a SIGTERM leaves the block too."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        command = Command(words, deadline_s)
        try:
            yield command
        finally:
            command.close()
    finally:
        signal.signal(signal.SIGTERM, before)


def python_function(target: str) -> list[str]:
    """The command that serves ``path/file.py:function``, so that a function can hang or crash no more than others."""
    return [sys.executable, "-m", "vram_ledger.analysis.estimating.serve", target]


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
