"""The stubs for the PyTorch of another interpreter: built by it, since they are made from the wheel that it imports."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import elftools

from vram_ledger.errors import InputError
from vram_ledger.harness.emulation.build import Built, built_stubs
from vram_ledger.harness.emulation.wheel import NoEmulation, find_wheel
from vram_ledger.home import PACKAGE

# The other interpreter may have neither this package nor the one that reads libraries: it is shown these two alone.
_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from vram_ledger.harness.emulation.elsewhere import told
print(json.dumps(told()))
"""
LEAST_PYTHON = (3, 11)


def stubs_of(interpreter: str) -> Built:
    """The stubs for an interpreter's PyTorch; :class:`NoEmulation` says why there are none.

    :class:`InputError` if it is no Python that can say so.
    """
    if Path(interpreter) == Path(sys.executable):
        return built_stubs(find_wheel())
    with tempfile.TemporaryDirectory(prefix="vram-ledger-") as folder:
        for package in (PACKAGE, Path(elftools.__file__).parent):
            (Path(folder) / package.name).symlink_to(package)
        answer = json.loads(asked(interpreter, _PROGRAM, folder))
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


def asked(interpreter: str, program: str, *arguments: str) -> str:
    """The last line that a small program prints; :class:`InputError` if the interpreter can't be run or fails."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    try:
        done = subprocess.run(
            [interpreter, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InputError(f"{interpreter} can't be run: {error.strerror}") from error
    if done.returncode or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise InputError(f"{interpreter} is no Python {'.'.join(map(str, LEAST_PYTHON))} or newer: {last}")
    return done.stdout.strip().splitlines()[-1]
