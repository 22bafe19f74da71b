"""Writing generated files."""

import os
from pathlib import Path


def put(path: Path, text: str) -> None:
    """Puts a file in place in one step, its folder too, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
