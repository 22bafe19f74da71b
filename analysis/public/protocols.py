"""What a protocol told when it was run on an emulated card: numbers by name, or PyTorch's words where it ran out."""

import dataclasses
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vram_ledger.analysis.ground.files import with_rows
from vram_ledger.analysis.ground.printed import FigureError, Range, read_printed
from vram_ledger.analysis.messages.message import read_message

SCHEMA = 1
PARTS = ("asked", "total", "free", "process", "allocated", "unallocated")  # of a message


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
        return Told(**data | {"arguments": tuple(data["arguments"]), "told": checked(data["told"], str(path))})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise error if isinstance(error, FigureError) else FigureError(f"{path}: no protocol's result") from error


def checked(told: Any, where: str) -> dict[str, int | str]:
    """What a protocol told, whole numbers and texts by name; :class:`FigureError` names what is neither."""
    if not isinstance(told, dict):
        raise FigureError(f"{where}: a protocol tells an object of numbers and texts by name, got {str(told)[:80]}")
    for name, value in told.items():
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise FigureError(f"{where}: {name} is neither a whole number nor a text: {str(value)[:80]}")
    return told


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
    found = getattr(read_message(value), part)
    if found is None:
        raise FigureError(f"protocol {told.protocol!r}: the message of {at} does not say {part}: {value[:80]}")
    return read_printed(found.text.replace("bytes", "B")).range
