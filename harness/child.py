"""The parent's end of a worker process: starts it, gives it commands, and waits no longer than a deadline."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from harness.records import Failure, OutOfMemory, decode, encode

if TYPE_CHECKING:
    from harness.worker import Order

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 5


class WorkerFailed(RuntimeError):
    """A command that got no answer. ``outcome``: what that is for the workload at hand."""

    def __init__(self, outcome: Failure | OutOfMemory) -> None:
        super().__init__(outcome.message if isinstance(outcome, Failure) else "out of memory")
        self.outcome = outcome


class Child:
    """A worker process, running ``module``.

    After a :class:`WorkerFailed` it must be closed: its memory is in an unknown state.
    """

    def __init__(self, order: "Order | dict[str, Any]", module: str = "harness.worker") -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by close)
        environment = os.environ | {"PYTHONPATH": _python_path(), "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        self._unread = b""
        self._send(encode(order))

    @property
    def pid(self) -> int:
        """The process number."""
        return self._process.pid

    def ask(self, command: dict[str, Any], deadline_s: float) -> Any:
        """The answer to one command; :class:`WorkerFailed` if there is none by the deadline, or ever."""
        self._send(command)
        line = self._line(deadline_s)
        reply = json.loads(line)
        if "out_of_memory" in reply:
            raise WorkerFailed(decode(OutOfMemory, reply["out_of_memory"]))
        if "error" in reply:
            raise WorkerFailed(Failure(reason="error", message=reply["error"]))
        return reply["answer"]

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                _close(stream)

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: the wait for its answer says how

    def _line(self, deadline_s: float) -> bytes:
        """The next line of output. Sleeps until there is some: the measurement has both cores to itself."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - monotonic())):
                    raise WorkerFailed(Failure(reason="hang", message=f"no answer within {deadline_s:.0f} s"))
                chunk = os.read(descriptor, 1 << 20)
                if not chunk:
                    raise WorkerFailed(Failure(reason="crash", message=self._last_words()))
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exited with {code}"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip() and "leaked" not in line]
        said = " | ".join(lines[-LAST_LINES:])
        return f"the worker {how}" + (f": {said}" if said else "")


def _close(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        pass  # an unsent command of a process that is gone


def _python_path() -> str:
    given = os.environ.get("PYTHONPATH")
    return str(ROOT) if not given else f"{ROOT}{os.pathsep}{given}"
