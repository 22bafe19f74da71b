"""Options that several commands have, and words that they read alike."""

from pathlib import Path
from typing import Annotated

import typer

from vram_ledger.errors import InputError
from vram_ledger.harness.records import PHASES, Phase

FilesOption = Annotated[
    list[Path] | None, typer.Option("--file", help="Results file, folder or pattern; else all main campaigns.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text and tables.")]


def phase_of(text: str) -> Phase:
    """The phase that is meant, in any case; :class:`InputError` for anything else."""
    for phase in PHASES:
        if text.lower() == phase:
            return phase
    raise InputError(f"phase {text!r} is neither prefill nor decode")
