"""The progress bar of what runs for long and keeps every finished piece."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


@contextmanager
def resumable(console: Console, piece: str, *more: ProgressColumn) -> Iterator[Progress]:
    """A bar, gone at its end and not there without a terminal; on Ctrl-C it says that every ``piece`` is kept."""
    columns = TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *more
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            console.print(f"Every finished {piece} is on file; the same command goes on from there.")
            raise
