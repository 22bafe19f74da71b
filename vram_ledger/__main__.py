"""``vram-ledger``, or ``python -m vram_ledger``: the commands, and Ctrl-C, which is one line and exit code 130."""

import io
import os
import signal
import sys

INTERRUPTED = 130
LAST_LINE = f"exit {INTERRUPTED}: interrupted\n"


def main() -> None:
    """Runs the command. An interruption runs its ``finally`` blocks; before and after it there is nothing to undo."""
    signal.signal(signal.SIGINT, _end_now)
    for stream in (sys.stdout, sys.stderr):  # what a locale such as C can't write is no reason to end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    from vram_ledger.cli import run

    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = run(sys.argv[1:])
        finally:
            signal.signal(signal.SIGINT, _end_now)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write(LAST_LINE)
    raise SystemExit(code)


def _end_now(number: int, frame: object) -> None:
    os.write(2, LAST_LINE.encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
