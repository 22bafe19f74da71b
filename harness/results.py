"""A results file being written: one environment, append-only, safe against being killed at any moment."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.records import (
    Environment,
    Failure,
    Measured,
    Measurement,
    OutOfMemory,
    ResultsFile,
    Standard,
    Workload,
    complete_lines,
    read,
    to_line,
)


def results_path(root: Path, grid: str, model: str, environment: Environment) -> Path:
    """Where a campaign's lines go: another environment is another file, and a fake one says so in its name."""
    name = f"{model}.{environment.device}.{environment.fingerprint()}.jsonl"
    return root / environment.gpu_label / grid / name


class ResultsWriter:
    """Appends lines to an open results file; each line is on the disk before :meth:`append` returns."""

    def __init__(self, file: IO[str], contents: ResultsFile) -> None:
        self._file = file
        self.contents = contents

    def append(self, record: Measurement | Standard) -> None:
        """Writes one line."""
        self._file.write(to_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def open_results(path: Path, environment: Environment) -> Iterator[ResultsWriter]:
    """The file, ready for more lines, locked against a second writer.

    A last line that its writer did not finish is cut off: it never was a record. :class:`WrongEnvironment` if the
    file was measured in another environment or is being written now, :class:`RecordError` if it can't be read.
    """
    if path.exists() and any(True for _ in complete_lines(path)):
        _check_environment(path, read(path).environment, environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WrongEnvironment(f"{path} is being written by another campaign; wait for it or stop it") from error
        file.truncate(sum(len(line.encode()) for _, line in complete_lines(path)))
        if path.stat().st_size == 0:
            file.write(to_line(environment))
            file.flush()
        yield ResultsWriter(file, read(path))


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
