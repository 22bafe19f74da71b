"""The calls of servers that the stubs do not know: a library of its own, preloaded before them.

The stubs themselves stay as they were: their source is part of what stored campaigns are identified by.
"""

import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path

from vram_ledger.harness.emulation.build import _SHARED_FLAGS, Built, _compile, _compiler
from vram_ledger.harness.emulation.profile import Emulation
from vram_ledger.harness.emulation.wheel import NoEmulation

SOURCE = Path(__file__).parent / "more" / "served.c"


def for_servers(emulation: Emulation, stubs: Built) -> Emulation:
    """The same cards with these calls; :class:`NoEmulation` if they can't be built."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    library = stubs.folder.parent / f"served-{digest}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}.part")
        try:
            _compile([*_compiler(), *_SHARED_FLAGS, "-o", part, SOURCE])
            part.replace(library)
        except OSError as error:
            raise NoEmulation(f"the calls of servers can't be kept: {error.filename}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):  # it is not there: in place, or never begun
                part.unlink()
    preload = f"{library}:{emulation.variables['LD_PRELOAD']}"
    both = hashlib.sha256(f"{emulation.digest} {digest}".encode()).hexdigest()[:12]
    return dataclasses.replace(emulation, variables=emulation.variables | {"LD_PRELOAD": preload}, digest=both)
