"""An estimator that is another program: a request a line on its stdin, a breakdown a line on its stdout.

It is started once and asked one request at a time, each with a deadline. Whatever it does (hang, die, write something
else, start children of its own), it is gone when the block is left, and also when this process is told to end. On
Linux that holds for children that left its session, too: those whose parent is gone are handed up to this process.
"""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from vram_ledger.analysis.estimating.breakdown import Breakdown, EstimatorError, Request, asked_fields, from_answer
from vram_ledger.home import IMPORTED_FROM

DEADLINE_S = 30.0
LONGEST_ANSWER_BYTES = 1 << 20
KEPT_BYTES, MOST_STDERR_BYTES = 1 << 16, 1 << 26
LAST_LINES, LAST_CHARACTERS = 3, 400
LOOK_S = 0.05  # how often to see whether the program itself has ended, whoever still holds its stdout
GOODBYE_S = 0.5  # to end by itself once its stdin or its stdout is closed
ENDING_S = 5.0
LEAVING = signal.SIGTERM, signal.SIGHUP
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Command:
    """A running estimator; made by :func:`running`."""

    def __init__(self, words: Sequence[str], deadline_s: float, name: str) -> None:
        self._deadline_s, self._name = deadline_s, name
        self._unread, self._said, self._said_bytes = b"", b"", 0
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                words,
                bufsize=0,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,  # so that its children can be ended with it
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in a word
            why = error.strerror if isinstance(error, OSError) else error
            raise EstimatorError(f"{words[0]}: can't be started ({why})") from error
        self._selector = selectors.DefaultSelector()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        for stream in (self._in, self._out, self._err):
            os.set_blocking(stream.fileno(), False)
        self._selector.register(self._out, selectors.EVENT_READ)
        self._selector.register(self._err, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        """The process number, which is also its group's."""
        return self._process.pid

    def estimate(self, request: Request) -> Breakdown:
        """The answer to a request; :class:`EstimatorError` names the request if there is none, or none that counts."""
        if self._unread:
            raise EstimatorError(f"{request.text}: before it was asked, {self._name} wrote {self._unread[:80]!r}")
        line = json.dumps(asked_fields(request), separators=(",", ":")).encode() + b"\n"
        try:
            self._exchange(line)
            line, _, self._unread = self._unread.partition(b"\n")
            return from_answer(line.decode(), request.text)
        except _NoAnswer as error:
            raise EstimatorError(f"{request.text}: {error}") from error
        except UnicodeDecodeError as error:
            raise EstimatorError(f"{request.text}: not UTF-8 ({error.reason} at byte {error.start})") from error

    def close(self) -> None:
        """Ends the process and every process of its session."""
        self._in.close()
        with suppress(subprocess.TimeoutExpired):  # it did not take the hint
            self._process.wait(GOODBYE_S)
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        self._out.close()
        self._err.close()

    def _exchange(self, line: bytes) -> None:
        """Sends a request while reading whatever comes, until there is a line of an answer."""
        end = monotonic() + self._deadline_s
        self._selector.register(self._in, selectors.EVENT_WRITE)
        while b"\n" not in self._unread:
            ended = self._process.poll() is not None  # before the look, so that all it wrote is there by then
            ready = [key.fileobj for key, _ in self._selector.select(0 if ended else LOOK_S)]
            if self._in in ready:
                line = self._sent(line)
            if self._err in ready:
                self._listen()
            if self._out in ready and not self._read():
                end = min(end, monotonic() + GOODBYE_S)
            if len(self._unread) > LONGEST_ANSWER_BYTES:
                raise _NoAnswer(f"more than {LONGEST_ANSWER_BYTES:,} B and no end of the line")
            if ended and self._out not in ready:
                code = self._process.returncode
                how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
                raise _NoAnswer(f"{self._name} {how} without an answer; {self._last_words()}")
            if monotonic() > end and b"\n" not in self._unread:
                raise _NoAnswer(f"{self._why_late()}; {self._last_words()}")
        with suppress(KeyError):  # it answered without reading all
            self._selector.unregister(self._in)

    def _sent(self, line: bytes) -> bytes:
        """What is still to be sent."""
        try:
            rest = line[os.write(self._in.fileno(), line) :]
        except BrokenPipeError:
            rest = b""  # it died, or does not read: the wait for its answer says how
        if not rest:
            self._selector.unregister(self._in)
        return rest

    def _read(self) -> bool:
        chunk = os.read(self._out.fileno(), 1 << 16)
        self._unread += chunk
        if not chunk:
            self._selector.unregister(self._out)
        return bool(chunk)

    def _listen(self) -> None:
        chunk = os.read(self._err.fileno(), 1 << 16)
        self._said = (self._said + chunk)[-KEPT_BYTES:]
        self._said_bytes += len(chunk)
        if not chunk:
            self._selector.unregister(self._err)
        if self._said_bytes > MOST_STDERR_BYTES:
            raise _NoAnswer(f"{self._name} wrote more than {MOST_STDERR_BYTES:,} B to stderr; {self._last_words()}")

    def _why_late(self) -> str:
        if self._out not in self._selector.get_map():
            return f"{self._name} closed its stdout"
        return f"no answer within {self._deadline_s:g} s"

    def _last_words(self) -> str:
        with suppress(BlockingIOError):
            self._said = (self._said + os.read(self._err.fileno(), KEPT_BYTES))[-KEPT_BYTES:]
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        said = " | ".join(lines[-LAST_LINES:])
        return f"its last words: {said[-LAST_CHARACTERS:]}" if said else "it said nothing on stderr"


class _NoAnswer(Exception):
    """Why there is no answer."""


@contextmanager
def running(words: Sequence[str], deadline_s: float = DEADLINE_S, name: str = "the command") -> Iterator[Command]:
    """A started command, ended with all its children when the block is left; a SIGTERM leaves the block too.

    name: what to call it in errors.
    """
    before = {s: signal.signal(s, _leave) for s in LEAVING if signal.getsignal(s) != signal.SIG_IGN}
    others = _children()
    _adopt(True)
    command = None
    try:
        command = Command(words, deadline_s, name)
        yield command
    finally:
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *LEAVING))  # a second Ctrl-C waits
        if command is not None:
            command.close()
        _end(others)
        _adopt(False)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def python_function(target: str) -> list[str]:
    """The command that serves ``path/file.py:function``, so that a function can hang or crash no more than others."""
    start = f"import sys; sys.path.insert(0, {str(IMPORTED_FROM)!r}); import vram_ledger.analysis.estimating.serve as s"
    return [sys.executable, "-c", f"{start}; s.main({target!r})"]


def _adopt(on: bool) -> None:
    """Whether processes below this one whose parent has gone are handed to this one, and not to init."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _end(others: set[int]) -> None:
    """Ends this process's children but the others, and those that are handed to it by that."""
    end = monotonic() + ENDING_S
    while (left := _children() - others) and monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    """This process's children; none where there is no /proc."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(path.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
