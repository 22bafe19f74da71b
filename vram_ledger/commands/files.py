"""Which results files a command is about: files, folders and patterns, as they were written."""

from collections.abc import Iterable
from glob import glob
from pathlib import Path

from vram_ledger.errors import InputError
from vram_ledger.home import BOUNDARY, RESULTS, RUNS


def results_files(given: Iterable[Path]) -> list[Path]:
    """The files that are named, all campaigns' below a folder that is, and those that a name with * or ? fits.

    Each once, in order; :class:`InputError` for a name that stands for none.
    """
    found: dict[Path, None] = {}
    for path in given:
        if path.is_dir():
            own = sorted(p for p in path.rglob("*.jsonl") if BOUNDARY not in p.relative_to(path).parts)
        elif path.exists():
            own = [path]
        else:
            own = [Path(name) for name in sorted(glob(str(path), recursive=True))]
        if not own:
            if path == RUNS:
                raise InputError(f"there is nothing in {RUNS}/ yet; RESULTS=results are the published ones")
            raise InputError(f"no results file under {path}" if path.is_dir() else f"{path}: no such results file")
        found |= dict.fromkeys(own)
    return list(found)


def main_files(files: Iterable[Path] | None, results: Path | None) -> list[Path]:
    """The files that are named; else the main campaigns below a folder that is; else the published ones."""
    from vram_ledger.analysis.judging.campaign import main_campaigns

    if files:
        return results_files(files)
    folder = results or RESULTS
    if not (found := main_campaigns(folder)):
        raise InputError(f"no campaigns: no results file under {folder}/*/default")
    return found
