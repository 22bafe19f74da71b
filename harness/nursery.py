"""Forks worker processes that have their imports behind them: a fresh one costs a fraction of a second.

A nursery reads ``{"order": …}``, a line of JSON, from standard input and forks a worker for it, which goes on with the
same standard input and output. ``{"started": pid}`` and, once the worker is gone, ``{"ended": status}`` are the
nursery's own lines. Any other line that reaches it was meant for a worker that is gone, and is dropped. It never
touches a card: a process that has can't be forked.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1


def nurse(work: Callable[[dict[str, Any], int], None]) -> None:
    """Forks a worker for each order until standard input ends.

    ``work`` gets the order and the descriptor to answer on; whatever libraries print goes to standard error.
    """
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    sink = os.dup(1)
    os.dup2(2, 1)
    while line := _line():
        order = json.loads(line).get("order")
        if order is None:
            continue
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            _die_with_parent()
            if os.getppid() != nursery:
                os._exit(1)  # it was gone before it could be watched
            work(order, sink)
            # Triton's bindings print pages about leaks when an interpreter that used them is taken down.
            os._exit(0)
        _say(sink, {"started": pid})
        _, status = os.waitpid(pid, 0)
        _say(sink, {"ended": os.waitstatus_to_exitcode(status)})


def _say(sink: int, message: dict[str, int]) -> None:
    """A line of its own: a worker that was killed may have left half of one."""
    os.write(sink, b"\n" + json.dumps(message).encode() + b"\n")


def _line() -> bytes:
    """The next line, byte by byte: what comes after it is the worker's to read."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
