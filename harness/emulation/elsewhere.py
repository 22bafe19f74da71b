"""The stubs for the PyTorch of another interpreter: built by it, since they are made from the wheel that it imports."""

import sys
import tempfile
from pathlib import Path

import elftools

from vram_ledger.harness.emulation.build import Built, built_stubs
from vram_ledger.harness.emulation.wheel import NoEmulation, find_wheel
from vram_ledger.harness.interpreter import told_by
from vram_ledger.home import PACKAGE

# The other interpreter may have neither this package nor the one that reads libraries: it is shown these two alone.
_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from vram_ledger.harness.emulation.elsewhere import told
print(json.dumps(told()))
"""
DEADLINE_S = 600  # to compile them


def stubs_of(interpreter: str) -> Built:
    """The stubs for an interpreter's PyTorch; :class:`NoEmulation` says why there are none.

    :class:`InputError` if it is no Python that can say so.
    """
    if Path(interpreter) == Path(sys.executable):
        return built_stubs(find_wheel())
    with tempfile.TemporaryDirectory(prefix="vram-ledger-") as folder:
        for package in (PACKAGE, Path(elftools.__file__).parent):
            (Path(folder) / package.name).symlink_to(package)
        answer = told_by(interpreter, _PROGRAM, folder, deadline_s=DEADLINE_S)
    if "missing" in answer:
        raise NoEmulation(answer["missing"])
    return Built(folder=Path(answer["folder"]), digest=answer["digest"], architectures=tuple(answer["architectures"]))


def told() -> dict[str, object]:
    """What :func:`stubs_of` asks the other interpreter."""
    try:
        stubs = built_stubs(find_wheel())
    except NoEmulation as missing:
        return {"missing": str(missing)}
    return {"folder": str(stubs.folder), "digest": stubs.digest, "architectures": stubs.architectures}
