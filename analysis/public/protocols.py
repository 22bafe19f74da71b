"""What a protocol told when it was run on an emulated card: numbers by name, or PyTorch's words where it ran out."""

import dataclasses
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vram_ledger.analysis.ground.files import with_rows
from vram_ledger.analysis.ground.printed import FigureError, Range, read_printed

SCHEMA = 1
AMOUNT = r"([\d.]+ [KMG]?i?B(?:ytes)?)"
# c10/cuda/CUDACachingAllocator.cpp, torch 2.1 to 2.14.
PARTS = {
    "asked": rf"Tried to allocate {AMOUNT}",
    "total": rf"has a total capaci?ty of {AMOUNT}",
    "free": rf"of which {AMOUNT} is free",
    "process": rf"this process has {AMOUNT} memory in use",
    "allocated": rf"Of the allocated memory {AMOUNT} is allocated",
    "unallocated": rf"and {AMOUNT} is reserved by PyTorch but unallocated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A protocol's stored result. kind: of the numbers. told: by name; a text is what ran out of memory."""

    protocol: str
    kind: str = "emulated"
    script: str
    card: str
    arguments: tuple[str, ...]
    software: dict[str, str]
    told: dict[str, int | str]


def read_told(path: Path) -> Told:
    """A stored result; :class:`FigureError` if it can't be read, or says how to make one that is not there."""
    if not path.is_file():
        raise FigureError(f"{path}: this protocol was not run yet; make evidence ANEW=1 runs it")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise FigureError(f"{path}: this version reads schema {SCHEMA}")
        return Told(**data | {"arguments": tuple(data["arguments"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise error if isinstance(error, FigureError) else FigureError(f"{path}: no protocol's result") from error


def told_text(told: Told) -> str:
    """The file of a result."""
    return with_rows({"schema": SCHEMA, **dataclasses.asdict(told)})


def told_range(told: Told, at: str, part: str) -> Range:
    """One of the numbers, or of the amounts in a message."""
    if at not in told.told:
        raise FigureError(f"protocol {told.protocol!r} tells nothing called {at!r}; it tells {', '.join(told.told)}")
    value = told.told[at]
    if isinstance(value, int):
        if part:
            raise FigureError(f"protocol {told.protocol!r}: {at} did not run out of memory, so it has no {part!r}")
        return Range(least=Fraction(value), most=Fraction(value))
    if part not in PARTS:
        raise FigureError(f"protocol {told.protocol!r}: {at} ran out of memory; part is one of {', '.join(PARTS)}")
    found = re.search(PARTS[part], value)
    if found is None:
        raise FigureError(f"protocol {told.protocol!r}: the message of {at} does not say {part}: {value[:80]}")
    return read_printed(found[1].replace("bytes", "B")).range
