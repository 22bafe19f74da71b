"""A release of a library in a folder of its own, put first on a process's path: nothing that is installed changes.

Each distribution is unpacked by pip (``--target``, ``--no-deps``) into ``<folder>/<name>-<version>`` and stays there.
What a release needs and the environment has not, such as an older tokenizers, gets a folder in the same way; PyTorch
and Triton are never among them, since the emulated card is made for those that are installed.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vram_ledger.errors import InputError, WrongEnvironment

KEPT = ("torch", "triton", "nvidia")  # how the names begin of what is used as it is installed
PIP = ("-m", "pip", "--disable-pip-version-check")
OFFERED = re.compile(r"Available versions: (.*)")
Tell = Callable[[str], None]


class NotOverlaid(WrongEnvironment):
    """A release that can't be had here; the message says why, in one line."""


def overlaid(wanted: Mapping[str, str], folder: Path, tell: Tell = lambda line: None) -> tuple[Path, ...]:
    """The folders that give a process these releases (version by distribution), in the order of its path.

    What is installed in that very version needs none. ``tell`` hears what is fetched. :class:`NotOverlaid`.
    """
    waiting = [Requirement(f"{name}=={version}") for name, version in wanted.items()]
    pinned = {canonicalize_name(name) for name in wanted}
    found: dict[str, Path] = {}
    for requirement in waiting:  # it grows by what each of them needs
        name = canonicalize_name(requirement.name)
        own = requirement in waiting[: len(pinned)]
        if name in found or (name in pinned and not own) or _is_installed(requirement):
            continue
        if name.startswith(KEPT):
            raise NotOverlaid(f"{_text(wanted)} needs {requirement}, and this environment has {_installed(name)}")
        found[name] = _unpacked(requirement, folder, tell)
        waiting += needs(found[name])
    return tuple(found.values())


def needs(path: Path) -> list[Requirement]:
    """What the distribution in a folder requires, without its extras."""
    every = [Requirement(text) for text in _distribution(path).requires or ()]
    return [r for r in every if r.marker is None or r.marker.evaluate({"extra": ""})]


def _is_installed(requirement: Requirement) -> bool:
    version = _installed(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unpacked(requirement: Requirement, folder: Path, tell: Tell) -> Path:
    """The folder of the newest distribution there that will do; else of one that pip fetches now."""
    name = canonicalize_name(requirement.name)
    there = {path: _version_of(path, name) for path in folder.glob(f"{name}-*")}
    fitting = {p: v for p, v in there.items() if v and requirement.specifier.contains(v, prereleases=True)}
    if fitting:
        return max(fitting, key=lambda path: fitting[path]).resolve()
    tell(f"fetching {name}{requirement.specifier}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
        whole = Path(unfinished) / name
        _pip("install", "--no-deps", "--no-compile", "--quiet", "--target", str(whole), str(requirement))
        path = folder / f"{name}-{_distribution(whole).version}"
        _put(whole, path)
    return path.resolve()


def _put(whole: Path, path: Path) -> None:
    """In one step, so that what is there is whole; what lies there without a distribution in it is replaced."""
    if not _is_whole(path):
        shutil.rmtree(path, ignore_errors=True)
    try:
        whole.rename(path)
    except OSError as error:
        if not _is_whole(path):  # else another process was first, and its release is the same
            raise NotOverlaid(f"{path}: {error.strerror}") from error


def _distribution(path: Path) -> importlib.metadata.Distribution:
    (distribution,) = importlib.metadata.distributions(path=[str(path)])
    return distribution


def _is_whole(path: Path) -> bool:
    """Whether a folder holds one distribution and says which."""
    return len(list(importlib.metadata.distributions(path=[str(path)]))) == 1


def _version_of(path: Path, name: str) -> Version | None:
    """The version in a folder's name, "transformers-5.17.0"; ``None`` where it is another's or no whole release."""
    try:
        version = Version(path.name.removeprefix(f"{name}-"))
    except InvalidVersion:
        return None
    return version if _is_whole(path) else None


def offered(name: str) -> tuple[str, ...]:
    """Every release of a distribution that pip can fetch, the oldest first; :class:`NotOverlaid` without an answer."""
    found = OFFERED.search(_pip("index", "versions", name))
    if found is None:
        raise NotOverlaid(f"pip does not say which releases of {name} there are")
    return tuple(sorted((text.strip() for text in found[1].split(",")), key=Version))


def _pip(*arguments: str) -> str:
    """What pip prints; :class:`NotOverlaid` with its last word."""
    done = subprocess.run([sys.executable, *PIP, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise NotOverlaid(f"pip {' '.join(arguments[:1])}: {said[-1].removeprefix('ERROR: ').strip()}")
    return done.stdout


def checked(text: str, what: str) -> str:
    """A version as people write it, in full, as runs are stored; :class:`InputError` names ``what``."""
    if not re.fullmatch(r"v?\d+(\.\d+){2,}\w*", text):
        raise InputError(f"{what} is a version in full, such as 5.17.0; got {text!r}")
    return text.removeprefix("v")


def _text(wanted: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in wanted.items())
