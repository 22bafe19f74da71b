"""Runs first in every Python process on an emulated card: loads ``harness/emulation/program.py``, whoever has it.

The program need not have the project installed, so the file is loaded by its place; then the sitecustomize that this
one hides, if there is one, gets its turn.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_NAME = "vram_ledger.harness.emulation.program"


def _load(name: str, path: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load(_NAME, str(_HERE.parent / "program.py"))
sys.modules[_NAME].begin()

_others = [entry for entry in sys.path if Path(entry).resolve() != _HERE]
_hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _hidden is not None and _hidden.origin is not None:
    _load("sitecustomize", _hidden.origin)
