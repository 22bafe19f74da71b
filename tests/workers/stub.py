"""A worker that does as the environment variable STUB says instead of measuring: "hang", "die", "kill" or "echo"."""

import os
import signal
import sys
import time
from typing import Any

from vram_ledger.harness.nursery import nurse


def misbehave(order: dict[str, Any], answers: int) -> None:
    """At the first command."""
    sys.stdin.readline()
    match os.environ["STUB"]:
        case "hang":
            time.sleep(600)
        case "die":
            print("RuntimeError: the card fell off the bus", file=sys.stderr)
            sys.exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "half":
            os.write(answers, b'{"answ')
            os.kill(os.getpid(), signal.SIGKILL)
        case "echo":
            os.write(answers, b'{"answer": 5}\n')
            time.sleep(600)


if __name__ == "__main__":
    nurse(misbehave)
