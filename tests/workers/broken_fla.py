"""A worker on a machine whose flash-linear-attention is installed but can't be imported."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from vram_ledger.harness.worker import main


class Broken(MetaPathFinder):
    """Fails every import of fla, as a package with a missing library does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:  # fmt: skip
        """Nothing for other packages."""
        if fullname == "fla":
            raise ImportError("libsomething.so.1: cannot open shared object file")
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, Broken())
    main()
