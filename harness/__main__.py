"""``python -m harness``: the commands of ``harness/cli.py``, and Ctrl-C, which is one line and exit code 130."""

import os
import signal
import sys

INTERRUPTED = 130
LAST_LINE = f"exit {INTERRUPTED}: interrupted\n"


def main() -> None:
    """Runs the command. An interruption runs its ``finally`` blocks; before and after it there is nothing to undo."""
    signal.signal(signal.SIGINT, _end_now)
    from harness.cli import app

    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            app(prog_name="python -m harness")
        finally:
            signal.signal(signal.SIGINT, _end_now)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:  # which typer makes of a KeyboardInterrupt
            raise
        sys.stderr.write(LAST_LINE)
        raise SystemExit(INTERRUPTED) from None


def _end_now(number: int, frame: object) -> None:
    os.write(2, LAST_LINE.encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
