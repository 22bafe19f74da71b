"""Under which releases of transformers a prefill in chunks is the model's: gives the logits of a single shot.

Up to some release the delta rule takes the state that a cache holds only for a single token, and starts a second chunk
from nothing. Compared by values on a small model (:mod:`harness.runtimes.chunked`); the answers are stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from vram_ledger.analysis.derivation.derived_files import version
from vram_ledger.analysis.ground.files import put, stored, with_rows
from vram_ledger.analysis.versions.records import FOLDER, VersionsError
from vram_ledger.harness.records import decode, encode
from vram_ledger.home import RESULTS, RUNS

SCHEMA, FILE = 1, "chunked.json"
SAYS = {True: "a single shot's logits", False: "other logits"}
TOLERANCE = 1e-3  # of the largest logit; in float32 the order of sums makes about 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prefill in chunks beside a single shot; the fields are those of ``harness.runtimes.chunked.Compared``."""

    batch: int
    chunk_tokens: int
    tokens: int
    failed: str
    largest: float
    difference: float
    other_tokens: int
    decode_difference: float

    @property
    def is_the_models(self) -> bool:
        """Whether the logits are those of a single shot, and of one more token, too."""
        least = TOLERANCE * self.largest
        return not self.failed and not self.other_tokens and max(self.difference, self.decode_difference) <= least


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """All cases under one release. failed: why there are none."""

    transformers: str
    torch: str
    failed: str
    cases: tuple[Case, ...]

    @property
    def is_the_models(self) -> bool | None:
        """Whether every case is the model's; ``None``: it could not be told."""
        return None if self.failed or not self.cases else all(case.is_the_models for case in self.cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked:
    """The file: of each release the answer, the oldest first."""

    name: str
    releases: tuple[Compared, ...]


def compared(told: dict[str, Any]) -> Compared:
    """What a process printed, as a record."""
    return decode(Compared, told)  # type: ignore[no-any-return]


def store_compared(found: Iterable[Compared], results: Path) -> None:
    """Adds answers to the file of a folder of results; a release's older answer is replaced."""
    path = results / FOLDER / FILE
    releases = {c.transformers: c for c in (*(_read(path) if path.is_file() else ()), *found)}
    ordered = sorted(releases.values(), key=lambda c: version(c.transformers))
    put(path, with_rows({"schema": SCHEMA}, releases=map(encode, ordered)))
    stored_compared.cache_clear()


def _read(path: Path) -> tuple[Compared, ...]:
    return stored(path, Chunked, "chunked", SCHEMA, VersionsError).releases  # type: ignore[no-any-return]


@cache
def stored_compared(results: Path = RUNS) -> tuple[Compared, ...]:
    """What is published and what the user's own runs add to it, the oldest release first."""
    paths = [folder / FOLDER / FILE for folder in (RESULTS, results)]
    every = {c.transformers: c for path in paths if path.is_file() for c in _read(path)}
    return tuple(sorted(every.values(), key=lambda c: version(c.transformers)))


def chunked_text(release: str = "", results: Path = RUNS) -> str:
    """A line for people: whether a prefill in chunks is the model's under a release, and under which it is."""
    known = stored_compared(results)
    own = next((c.is_the_models for c in known if c.transformers == release), None)
    if not release or own is None:
        untried = f"; {release} was not tried" if release else ""
        return f"In chunks, transformers gives {spans_text(known)}{untried}."
    return f"In chunks, transformers {release} gives {SAYS[own]}; of all, {spans_text(known)}."


def spans_text(known: Iterable[Compared]) -> str:
    """Under which releases the logits are those of a single shot, and under which not."""
    spans = _spans(known)
    named = {kind: " and ".join(text for same, text in spans if same is kind) for kind in SAYS}
    return ", ".join(f"{SAYS[kind]} in {text}" for kind, text in named.items() if text) or "no known logits"


def _spans(known: Iterable[Compared]) -> list[tuple[bool, str]]:
    """Neighbouring releases with one answer: "5.2.0 to 5.4.0"."""
    told = [c for c in known if c.is_the_models is not None]
    found = []
    for same, group in groupby(told, key=lambda c: c.is_the_models):
        ends = [c.transformers for c in group]
        found.append((bool(same), ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"))
    return found
