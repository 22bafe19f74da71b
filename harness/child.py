"""The parent's end of a worker process: starts it, gives it commands, and waits no longer than a deadline."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vram_ledger.harness.records import Failure, OutOfMemory, decode, encode
from vram_ledger.home import python_path

if TYPE_CHECKING:
    from vram_ledger.harness.worker import Order

LAST_LINES = 5
START_DEADLINE_S = 300


class WorkerFailed(RuntimeError):
    """A command that got no answer. ``outcome``: what that is for the workload at hand."""

    def __init__(self, outcome: Failure | OutOfMemory) -> None:
        super().__init__(outcome.message if isinstance(outcome, Failure) else "out of memory")
        self.outcome = outcome


class Nursery:
    """A process, running ``module``, that forks workers for orders; see :mod:`harness.nursery`.

    ``variables`` are added to its environment: an emulated card is made of them.
    """

    def __init__(
        self, module: str = "vram_ledger.harness.worker", variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by close)
        paths = os.pathsep.join(p for p in (variables.get("PYTHONPATH"), python_path()) if p)
        own = {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=os.environ | variables | own,
            start_new_session=True,
        )

    @property
    def lives(self) -> bool:
        """Whether it can fork another worker."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the process, and with it the worker that it may have."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                _close(stream)


class Nurseries:
    """Starts workers from one nursery, and starts that anew should it have died."""

    def __init__(
        self, module: str = "vram_ledger.harness.worker", variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._module = module
        self._variables = variables
        self._nursery: Nursery | None = None

    def start(self, order: "Order | dict[str, Any]") -> "Child":
        """A worker for an order; the one before it must be closed."""
        if self._nursery is None or not self._nursery.lives:
            self.close()
            self._nursery = Nursery(self._module, self._variables)
        return Child(order, self._nursery)

    def close(self) -> None:
        """Ends the nursery."""
        if self._nursery is not None:
            self._nursery.close()
        self._nursery = None


class Child:
    """A worker process, forked by a nursery.

    After a :class:`WorkerFailed` it must be closed: its memory is in an unknown state.
    """

    def __init__(self, order: "Order | dict[str, Any]", nursery: Nursery) -> None:
        self._alone = False
        self._nursery = nursery
        self._process, self._log = self._nursery.process, self._nursery.log
        self._log.seek(0)
        self._log.truncate()
        self._unread = bytearray()
        self._ended = False
        self._send({"order": encode(order)})
        self.pid = self._started()

    @classmethod
    def alone(
        cls,
        order: "Order | dict[str, Any]",
        module: str = "vram_ledger.harness.worker",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> "Child":
        """A worker whose nursery is nobody else's and ends with it."""
        child = cls(order, Nursery(module, variables))
        child._alone = True
        return child

    def _started(self) -> int:
        """The worker's number; 0 if there is none, which the next command notices."""
        try:
            while True:
                reply = self._reply(START_DEADLINE_S)
                if "started" in reply:  # else the end of the one before
                    return int(reply["started"])
        except WorkerFailed:
            return 0

    def ask(self, command: dict[str, Any], deadline_s: float) -> Any:
        """The answer to one command; :class:`WorkerFailed` if there is none by the deadline, or ever."""
        self._send(command)
        reply = self._reply(deadline_s)
        if "ended" in reply:
            self._ended = True
            raise WorkerFailed(Failure(reason="crash", message=self._last_words(reply["ended"])))
        if "out_of_memory" in reply:
            raise WorkerFailed(decode(OutOfMemory, reply["out_of_memory"]))
        if "error" in reply:
            raise WorkerFailed(Failure(reason="error", message=reply["error"]))
        return reply["answer"]

    def _reply(self, deadline_s: float) -> Any:
        """The next line that is whole: a worker that died may have left half of one."""
        end = monotonic() + deadline_s
        while True:
            line = self._line(end - monotonic())
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue

    def close(self) -> None:
        """Ends the process, whatever it is doing; a shared nursery is then ready for the next order, or ended, too."""
        if self._alone or not self.pid:
            self._nursery.close()
            return
        if not self._ended:
            self._kill()
        try:
            while not self._ended:
                self._ended = "ended" in self._reply(START_DEADLINE_S)
        except WorkerFailed:
            self._nursery.close()

    def _kill(self) -> None:
        """Kills the worker, unless it has ended and its number is another process's now."""
        try:
            if os.getpgid(self.pid) == self._process.pid:
                os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself; the nursery says so

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
            looked = 0
            while (newline := self._unread.find(b"\n", looked)) <= 0:
                if newline == 0:  # an empty line
                    del self._unread[0]
                    continue
                looked = len(self._unread)
                if not selector.select(max(0.0, end - monotonic())):
                    raise WorkerFailed(Failure(reason="hang", message=f"no answer within {max(deadline_s, 0):.0f} s"))
                chunk = os.read(descriptor, 1 << 20)
                if not chunk:
                    raise WorkerFailed(Failure(reason="crash", message=self._last_words(self._process.wait())))
                self._unread += chunk
        line = bytes(self._unread[:newline])
        del self._unread[: newline + 1]
        return line

    def _last_words(self, code: int) -> str:
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
