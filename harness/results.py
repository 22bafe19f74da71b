"""A results file being written: one environment, append-only, safe against being killed at any moment."""

import dataclasses
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.lines import Line, complete_lines, read, to_line
from vram_ledger.harness.records import (
    Environment,
    Failure,
    Measured,
    OutOfMemory,
    ResultsFile,
    Workload,
)


def results_path(root: Path, grid: str, model: str, environment: Environment) -> Path:
    """Where a campaign's lines go: another environment is another file, and a fake one says so in its name."""
    name = f"{model}.{environment.device}.{environment.fingerprint()}.jsonl"
    return root / environment.gpu_label / grid / name


class Unwritable(InputError):
    """A place that results can't be written to; the message names it. What was on file is whole."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns an error of the disk into one that says which file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Unwritable(f"no space left on {path}" if full else f"{path}: {error.strerror}") from error


def check_writable(folder: Path, pattern: str) -> None:
    """:class:`Unwritable` if no file could be made in the folder, or one that is there could not be added to."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise Unwritable(f"{there} is a file, not a folder of results")
    for place in (there, *folder.glob(pattern)):
        if not os.access(place, os.W_OK):
            raise Unwritable(f"{place} can't be written to")


class ResultsWriter:
    """Appends lines to an open results file; each line is on the disk before :meth:`append` returns."""

    def __init__(self, file: BinaryIO, contents: ResultsFile) -> None:
        self._file = file
        self.contents = contents

    def append(self, record: Line) -> None:
        """Writes one line, or nothing of it: :class:`Unwritable`."""
        with _naming(self.contents.path):
            _append(self._file, to_line(record))


def _append(file: BinaryIO, line: str) -> None:
    size = os.fstat(file.fileno()).st_size
    left = line.encode()
    try:
        while left:
            left = left[os.write(file.fileno(), left) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


@contextmanager
def open_results(path: Path, environment: Environment) -> Iterator[ResultsWriter]:
    """The file, ready for more lines, locked against a second writer.

    A last line that its writer did not finish is cut off: it never was a record. :class:`WrongEnvironment` if the
    file was measured in another environment or is being written now, :class:`RecordError` if it can't be read.
    """
    notes: tuple[str, ...] = ()
    with _naming(path):
        if path.exists() and any(True for _ in complete_lines(path)):
            before = read(path)
            _check_environment(path, before.environment, environment)
            notes = before.notes
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WrongEnvironment(f"{path} is being written by another campaign; wait for it or stop it") from error
        with _naming(path):
            file.truncate(sum(len(line.encode()) for _, line in complete_lines(path)))
            if path.stat().st_size == 0:
                _append(file, to_line(environment))
        yield ResultsWriter(file, dataclasses.replace(read(path), notes=notes))


def _check_environment(path: Path, theirs: Environment, ours: Environment) -> None:
    if theirs.fingerprint() != ours.fingerprint():
        fields = ", ".join(theirs.differences(ours))
        raise WrongEnvironment(
            f"{path} was measured in another environment; it differs in: {fields}. It is left as it is"
        )


def settled(contents: ResultsFile, repeat: int) -> dict[Workload, Measured | OutOfMemory]:
    """The result of each workload that has one; the last counts. A failure is no result: it is tried again."""
    done: dict[Workload, Measured | OutOfMemory] = {}
    for m in contents.measurements:
        if m.repeat == repeat and not isinstance(m.outcome, Failure):
            done[m.workload] = m.outcome
    return done
