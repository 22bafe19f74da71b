"""Where things lie: the package's own configs and published results, and the folder that a user's results go to."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IMPORTED_FROM = PACKAGE.parent
CONFIGS = (PACKAGE / "configs").resolve()
MODELS, GRIDS, GPUS = CONFIGS / "models", CONFIGS / "grids", CONFIGS / "gpus.toml"
RESULTS = (PACKAGE / "results").resolve()
RUNS = Path("runs")
"""Below the folder that a command is run in, and git-ignored: whatever is written without being told where."""

BOUNDARY = "boundary"
"""The folder, below that of the results, for what is no campaign's: probes of what fits."""


def python_path() -> str:
    """PYTHONPATH for a process that has to find this package wherever it is started."""
    given = os.environ.get("PYTHONPATH")
    return str(IMPORTED_FROM) if not given else f"{IMPORTED_FROM}{os.pathsep}{given}"


def own_version() -> str:
    """The version of the distribution; of a checkout that was not installed, what its pyproject.toml says."""
    try:
        return version("vram-ledger")
    except PackageNotFoundError:
        import tomllib

        project = tomllib.loads((IMPORTED_FROM / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
