"""A worker that does as the environment variable STUB says instead of measuring: "hang", "die", "kill" or "noise"."""

import os
import signal
import sys
import time


def main() -> None:
    """Answers the order by misbehaving at the first command."""
    sys.stdin.readline()
    sys.stdin.readline()
    match os.environ["STUB"]:
        case "hang":
            time.sleep(600)
        case "die":
            print("RuntimeError: the card fell off the bus", file=sys.stderr)
            sys.exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "echo":
            print('{"answer": 5}', flush=True)
            time.sleep(600)


if __name__ == "__main__":
    main()
