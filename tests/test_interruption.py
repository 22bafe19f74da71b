"""Ctrl-C, however early: one line, exit code 130, no traceback."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Each waits for its standard input once it is running.
COMMANDS = [["logs"], ["judge", "/dev/stdin"]]


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize("imported", ["signal", "typer", "cli"])
def test_interruption_is_one_line(arguments: list[str], imported: str) -> None:
    command = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "vram_ledger", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    # "signal" is the first that the command imports; at the next one it has said what an interruption does.
    while (line := command.stderr.readline()).split()[-1] not in (imported, f"vram_ledger.{imported}"):
        assert line.startswith("import time:")
    command.stderr.readline()
    command.send_signal(signal.SIGINT)
    said = [line for line in command.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert (130, ["exit 130: interrupted"]) == (command.returncode, said)
