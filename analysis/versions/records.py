"""What a model took under one release after another: the stored record, and its files.

A file is a model's variant on one emulated card; its runs are in the order of the releases. Schema history
    1  the first published layout
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.derivation.derived_files import variant_of, version
from vram_ledger.analysis.ground.files import put, stored, with_rows
from vram_ledger.errors import InputError
from vram_ledger.harness.records import Configuration, Kernels, Phase, encode
from vram_ledger.home import MODELS, RESULTS, RUNS

SCHEMA = 1
FOLDER = "versions"
PACKAGES = ("transformers", "fla", "torch")  # what releases are compared of, in the order of a table's columns


class VersionsError(InputError):
    """A file of releases that can't be read; the message starts with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """The releases that a run had. ``None``: not installed. fla says so where its import fails."""

    transformers: str
    fla: str | None
    torch: str
    triton: str | None
    causal_conv1d: str | None
    cudnn: str | None

    @property
    def rank(self) -> tuple[tuple[int, ...], ...]:
        """By which runs are put in order: torch, fla, transformers."""
        return version(self.torch), version(self.fla or ""), version(self.transformers)

    def of(self, package: str) -> str:
        """The version of a package of :data:`PACKAGES`, without what a build adds to it."""
        return str(getattr(self, package) or "none").partition("+")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The high-water marks of one shape, in bytes."""

    batch: int
    context_tokens: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Tensors alive at the peak that are alike: how many, and their bytes together. module: "*" for a layer's number.

    shape: of one sequence and ``Observed.at``'s tokens.
    """

    group: str
    module: str
    op: str
    source: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One phase of a run. failed: what could not be done, and why; "" if all was. guessed: lines that read values which
    an emulated card lacks. running, tensors: at the peak of the last point."""

    phase: Phase
    failed: str
    kernels: Kernels | None
    points: tuple[Point, ...]
    guessed: tuple[str, ...]
    running: str
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A model under one set of releases. emulation: of the card, as a hash."""

    software: Software
    emulation: str | None
    phases: tuple[Observed, ...]

    def observed(self, phase: Phase) -> Observed:
        """One of its phases."""
        return next(o for o in self.phases if o.phase == phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """A file. name: its own, "" before it has one."""

    name: str
    gpu_label: str
    gpu_name: str
    gpu_capability: str
    configuration: Configuration
    config_sha256: str
    runs: tuple[Run, ...]

    def with_runs(self, runs: Iterable[Run]) -> "Versions":
        """The same with these runs, too; a run of the same releases is replaced."""
        kept = {run.software: run for run in (*self.runs, *runs)}
        return dataclasses.replace(self, runs=tuple(sorted(kept.values(), key=lambda r: r.software.rank)))


def versions_path(results: Path, gpu_label: str, configuration: Configuration, config_sha256: str) -> Path:
    """Where the file of a model's variant on a card belongs.

    A name that is no shipped model's is only its config's, which may be edited: each state has a file of its own.
    """
    name = f"{configuration.model}.{variant_of(configuration)}"
    shipped = (MODELS / f"{configuration.model}.json").is_file()
    return results / FOLDER / gpu_label / f"{name if shipped else f'{name}.{config_sha256[:12]}'}.json"


def write_versions(versions: Versions, path: Path) -> None:
    """Puts the file in place, a line a run."""
    head = {"schema": SCHEMA, **encode(dataclasses.replace(versions, runs=()))}
    del head["name"], head["runs"]
    put(path, with_rows(head, runs=map(encode, versions.runs)))


def read_versions(path: Path) -> Versions:
    """A stored file; :class:`VersionsError` names it and what in it is not as written."""
    return stored(path, Versions, "versions", SCHEMA, VersionsError)  # type: ignore[no-any-return]


def stored_versions(
    gpu_label: str, configuration: Configuration, config_sha256: str, results: Path = RUNS
) -> Versions | None:
    """What is published of a model on a card, and what the user's own runs add to it; ``None`` if there is neither."""
    paths = [versions_path(folder, gpu_label, configuration, config_sha256) for folder in (RESULTS, results)]
    found = [read_versions(path) for path in dict.fromkeys(paths) if path.is_file()]
    return found[0].with_runs(run for more in found[1:] for run in more.runs) if found else None
