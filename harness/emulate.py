"""Runs any program on emulated cards, and says afterwards what it took of them.

The program is not ours: it runs as it would, in its own words and with its own exit code. What it took is written
down by every Python process of it at its end (:mod:`harness.emulation.program`).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from vram_ledger.errors import InputError
from vram_ledger.harness.emulation.program import REPORT
from vram_ledger.harness.records import GuessedRead

MOST_LINES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPeaks:
    """The high-water marks of one process on one card, in bytes.

    card: its number in that process; name: as CUDA prints it. out_of_memory: how often it was refused memory.
    """

    process: int
    card: int
    name: str
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    out_of_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A program that ended. exit_code: its own, or 128 and the signal that ended it, as shells say it.

    signal: that signal, or 0.
    """

    exit_code: int
    signal: int
    peaks: tuple[CardPeaks, ...]
    guessed: tuple[GuessedRead, ...]


def run(command: list[str], variables: Mapping[str, str]) -> Ran:
    """Runs a command in an environment with emulated cards; :class:`InputError` if there is no such program."""
    program = _program(command[0])
    with tempfile.TemporaryDirectory(prefix="vram-ledger-") as folder:
        code = _ran([program, *command[1:]], os.environ | variables | {REPORT: folder})
        told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))]
    return Ran(
        exit_code=128 - code if code < 0 else code,
        signal=max(0, -code),
        peaks=tuple(CardPeaks(**peak) for process in told for peak in process["peaks"]),
        guessed=_together([GuessedRead(**read) for process in told for read in process["guessed"]]),
    )


def _ran(command: list[str], environment: Mapping[str, str]) -> int:
    """The exit code. Ctrl-C is the program's to answer, since it gets it, too; a request to end is handed on."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            command, env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        return process.wait()
    except OSError as error:
        raise InputError(f"{command[0]} can't be run: {error.strerror}") from error
    finally:
        for number, before in signals.items():
            signal.signal(number, before)


def _program(name: str) -> str:
    """The program's path. A bare "python" is this interpreter: it is the one whose PyTorch the stubs were built for."""
    if name in ("python", "python3"):
        return sys.executable
    found = shutil.which(name)
    if found is None:
        raise InputError(f"no program is called {name!r}; after -- comes a command, such as: python my_script.py")
    return found


def _together(reads: list[GuessedRead]) -> tuple[GuessedRead, ...]:
    """One entry a line of source, the most bytes first."""
    sums: dict[str, tuple[int, int]] = {}
    for read in reads:
        size, count = sums.get(read.source, (0, 0))
        sums[read.source] = (size + read.bytes, count + read.count)
    ordered = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    return tuple(GuessedRead(source=source, bytes=size, count=count) for source, (size, count) in ordered)


def print_ran(ran: Ran, console: Console) -> None:
    """What the program took, as people read it."""
    console.print("\nEMULATED, not measured on a card: real PyTorch and its allocator, no kernels.", style="bold cyan")
    if ran.peaks:
        console.print(_table(ran))
    else:
        ended = (
            f"it was ended by signal {ran.exit_code - 128}" if ran.exit_code > 128 else "none used PyTorch on a card"
        )
        console.print(f"No process told any peaks: {ended}.")
    if ran.guessed:
        console.print(
            "Values that no kernel computed were read from the card; they came back as zeros. Where the program took "
            "a branch by them, it may not be the one it takes on a card:",
            soft_wrap=True,
        )
        for read in ran.guessed[:MOST_LINES]:
            console.print(f"  {read.source}  {read.bytes:,} bytes in {read.count:,} reads", soft_wrap=True)
        if (more := len(ran.guessed) - MOST_LINES) > 0:
            console.print(f"  and {more} more lines")


def _table(ran: Ran) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="peaks, bytes", title_justify="left")
    several = len({peak.process for peak in ran.peaks}) > 1
    table.add_column("card", no_wrap=True)
    for name in (*(["process"] if several else []), "requested", "allocated", "reserved", "no memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for peak in ran.peaks:
        counts = (peak.requested_bytes, peak.allocated_bytes, peak.reserved_bytes)
        table.add_row(
            f"{peak.card} {peak.name.removeprefix('NVIDIA ')}",
            *([str(peak.process)] if several else []),
            *(f"{count:,}" for count in counts),
            f"{peak.out_of_memory} times" if peak.out_of_memory else "-",
        )
    return table
