"""Builds the stub libraries with the machine's C compiler, once for each wheel and each state of their source.

The names that a library must have come from the real one beside torch (or, for the driver, which no wheel brings,
from its header). A name with a body in ``stubs/`` does what that says; every other aborts and says its own name.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection

from vram_ledger.harness.emulation.wheel import NoEmulation, Wheel

STUBS = Path(__file__).parent / "stubs"
SHARED = "libemulatedcard.so"
ARCHITECTURES = "import torch; print(torch._C._cuda_getArchFlags())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """One library to stand in for. soname: the file name that programs load it by. source: its file in ``stubs/``.

    from_wheel: whether the real one lies beside torch; the driver and NVML come with a driver only.
    """

    soname: str
    source: str
    from_wheel: bool = True


LIBRARIES = (
    Stub(soname="libcudart.so.13", source="cudart.c"),
    Stub(soname="libcublas.so.13", source="cublas.c"),
    Stub(soname="libcublasLt.so.13", source="cublaslt.c"),
    Stub(soname="libcudnn.so.9", source="cudnn.c"),
    Stub(soname="libcuda.so.1", source="driver.c", from_wheel=False),
    Stub(soname="libnvidia-ml.so.1", source="nvml.c", from_wheel=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The stubs of one wheel. folder: where they are. digest: of what they were made from. architectures: the wheel's.

    An architecture is ten times the capability that its code was built for, such as 86.
    """

    folder: Path
    digest: str
    architectures: tuple[int, ...]

    @property
    def preload(self) -> str:
        """The value for ``LD_PRELOAD``: the stubs by their paths."""
        return ":".join(str(self.folder / stub.soname) for stub in LIBRARIES)


def cache_folder() -> Path:
    """Where built stubs are kept: ``vram-ledger/emulation`` in the user's cache folder.

    :class:`NoEmulation` if the loader can't take its path, in whose lists spaces and colons separate.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(given) if given else Path.home() / ".cache"
    except RuntimeError as error:
        raise NoEmulation("there is no home folder to keep the stubs in; set XDG_CACHE_HOME") from error
    folder = base.resolve() / "vram-ledger" / "emulation"
    if re.search(r"[\s:]", str(folder)):
        raise NoEmulation(f"the stubs can't be kept in {folder}, for its spaces or colons; set XDG_CACHE_HOME")
    return folder


def source_digest() -> str:
    """The stubs' source, this file included, as a hash; what this file imports, and from where, is no part of it."""
    recipe = re.sub(r"(?m)^(from|import) .*\n", "", Path(__file__).read_text(encoding="utf-8"))
    digest = hashlib.sha256(recipe.encode())
    for path in sorted(p for p in STUBS.rglob("*") if p.is_file()):
        digest.update(path.relative_to(STUBS).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def built_stubs(wheel: Wheel) -> Built:
    """The stubs for a wheel, built if they are not there yet; :class:`NoEmulation` says why they can't be."""
    digest = hashlib.sha256(f"{source_digest()} {wheel.torch} {_versions(wheel)}".encode()).hexdigest()[:12]
    folder = cache_folder() / f"{wheel.torch}-{digest}"
    told = folder / "wheel.json"
    if not told.exists():
        _build(wheel, folder)
    return Built(folder=folder, digest=digest, architectures=tuple(json.loads(told.read_text())["architectures"]))


def _versions(wheel: Wheel) -> list[str]:
    """The vendor's packages beside torch, with their versions: another cuDNN has other names."""
    return sorted(path.name for path in wheel.site.glob("nvidia_*.dist-info"))


def _build(wheel: Wheel, folder: Path) -> None:
    """Builds into a folder beside the final one and renames it, so that a second process never sees half of it."""
    compiler = _compiler()
    work = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        shared = (*compiler, *_SHARED_FLAGS, f"-Wl,-soname,{SHARED}")
        _compile([*shared, "-o", work / SHARED, STUBS / "card.c", "-lpthread"])
        for stub in LIBRARIES:
            _library(compiler, wheel, stub, work)
        (work / "wheel.json").write_text(json.dumps({"architectures": _architectures()}), encoding="utf-8")
        _put(work, folder)
    except OSError as error:
        where = error.filename or folder.parent
        raise NoEmulation(f"the stubs of the emulated card can't be kept: {where}: {error.strerror}") from error
    finally:
        if work != folder:
            shutil.rmtree(work, ignore_errors=True)


def _put(work: Path, folder: Path) -> None:
    if folder.exists() and not (folder / "wheel.json").exists():
        shutil.rmtree(folder)  # somebody deleted a part of it
    try:
        work.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first, and its result is the same
            raise


_SHARED_FLAGS = ("-O2", "-fPIC", "-shared", "-w")


def _compiler() -> tuple[str, ...]:
    """The compiler's command: CC's, such as "ccache gcc", or the first that is there."""
    given = shlex.split(os.environ.get("CC", ""))
    wanted = [given] if given else [["cc"], ["gcc"], ["clang"]]
    for command in wanted:
        if shutil.which(command[0]):
            return tuple(command)
    names = " or ".join(command[0] for command in wanted)
    raise NoEmulation(f"an emulated card needs a C compiler, and {names} is not there (install gcc)")


def _compile(command: Iterable[object]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise NoEmulation(f"the stubs of the emulated card do not compile: {first}")


def _library(compiler: tuple[str, ...], wheel: Wheel, stub: Stub, work: Path) -> None:
    """One stub library: the source's bodies, and an abort for every other name of the real one."""
    includes = [
        STUBS / "include",
        wheel.cuda_include,
        wheel.site / "nvidia" / "cudnn" / "include",
        wheel.site / "triton" / "backends" / "nvidia" / "include",  # the wheel's headers lack crt/
    ]
    flags = [f"-DEMULATED_CUDART_VERSION={int(float(wheel.cuda) * 10) * 100}", *(f"-I{path}" for path in includes)]
    body = work / f"{stub.source}.o"
    _compile([*compiler, "-O2", "-fPIC", "-w", *flags, "-c", STUBS / stub.source, "-o", body])
    rest = work / f"rest-{stub.source}"
    rest.write_text(_rest(stub, _names(wheel, stub) - set(_defined(body))), encoding="utf-8")
    version: list[object] = []
    if stub.from_wheel:
        script = work / f"{stub.source}.map"
        script.write_text(f"{_version_node(wheel.library(stub.soname))} {{ global: *; }};\n", encoding="utf-8")
        version = [f"-Wl,--version-script={script}"]
    _compile(
        [
            *(*compiler, *_SHARED_FLAGS, f"-Wl,-soname,{stub.soname}", "-Wl,-rpath,$ORIGIN", *version),
            *("-o", work / stub.soname, body, rest, f"-I{STUBS}", work / SHARED, "-ldl", "-lpthread"),
        ]
    )


def _rest(stub: Stub, names: set[str]) -> str:
    """The source of every name without a body. NVML only answers questions: there "not supported" is an answer."""
    lines = ['#include "card.h"']
    for name in sorted(names):
        does = "return 3;" if stub.source == "nvml.c" else f'emulated_unknown("{stub.soname}", "{name}");'
        lines.append(f"int {name}(void) {{ {does} }}")
    return "\n".join(lines) + "\n"


def _names(wheel: Wheel, stub: Stub) -> set[str]:
    if stub.from_wheel:
        return set(_exported(wheel.library(stub.soname)))
    if stub.source == "nvml.c":
        bindings = wheel.site / "pynvml.py"
        text = bindings.read_text(encoding="utf-8") if bindings.exists() else ""
        return set(re.findall(r'"(nvml[A-Z]\w+)"', text))
    text = (wheel.cuda_include / "cuda.h").read_text(encoding="utf-8", errors="replace")
    declared = re.findall(r"CUresult CUDAAPI (cu[A-Z]\w+)\(", text)
    renamed = re.findall(r"#define\s+cu[A-Z]\w+\s+(?:\w+\()?(cu[A-Z]\w+_v\d+)\)?", text)
    return {*declared, *renamed}


def _symbols(path: Path, section: str) -> Iterator[tuple[str, str, bool]]:
    with path.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(section)
        for symbol in table.iter_symbols():
            yield symbol.name, symbol["st_info"]["type"], symbol["st_shndx"] != "SHN_UNDEF"


def _exported(path: Path) -> list[str]:
    return [name for name, kind, defined in _symbols(path, ".dynsym") if kind == "STT_FUNC" and defined]


def _defined(path: Path) -> list[str]:
    return [name for name, kind, defined in _symbols(path, ".symtab") if kind == "STT_FUNC" and defined]


def _version_node(path: Path) -> str:
    """The version that the library's symbols carry; the loader wants it of a stand-in, too."""
    with path.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if isinstance(section, GNUVerDefSection):
                names = [aux.name for _, auxiliaries in section.iter_versions() for aux in auxiliaries]
                return str(
                    next(name for name in reversed(names) if name != path.name) if len(set(names)) > 1 else names[0]
                )
    return path.name


def _architectures() -> list[int]:
    """The architectures that the wheel has code for, as it says itself."""
    done = subprocess.run([sys.executable, "-c", ARCHITECTURES], capture_output=True, text=True)
    if done.returncode:
        raise NoEmulation(f"torch can't be imported: {done.stderr.strip().splitlines()[-1]}")
    return sorted({int(found) for found in re.findall(r"sm_(\d+)", done.stdout)})
