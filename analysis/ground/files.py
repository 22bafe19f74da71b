"""Generated files: writing them, and reading those that hold a record."""

import dataclasses
import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError
from vram_ledger.harness.records import RecordError, decode

COLUMNS, ROWS = "columns", "rows"
DITTO = "〃"


def put(path: Path, text: str) -> None:
    """Puts a file in place in one step, its folder too, so that no reader ever sees half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise InputError(f"no space left on {path}" if full else f"{path}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def with_rows(head: dict[str, Any], **rows: Iterable[Any]) -> str:
    """JSON whose lists of records are a line of text a record, so that changes can be read; ``head`` comes first."""
    parts = [json.dumps(head, ensure_ascii=False, indent=1)[:-2]]
    for name, items in rows.items():
        lines = ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items)
        parts.append(f' "{name}": [\n{lines}\n ]')
    return ",\n".join(parts) + "\n}\n"


def with_tables(head: dict[str, Any], tables: dict[str, list[dict[str, Any]]], **rows: Iterable[Any]) -> str:
    """The same, lists of records of one type being tables: the names of the columns, then a line of values a record.

    A text that is that of the line above is :data:`DITTO`.
    """
    parts = [with_rows(head, **rows)[:-3]]
    for name, items in tables.items():
        columns = list(items[0]) if items else []
        above: list[dict[str, Any]] = [{}, *items]
        lines = ",\n".join(
            "  " + _compact([DITTO if _again(item[c], last.get(c)) else item[c] for c in columns])
            for last, item in zip(above, items, strict=False)
        )
        parts.append(f' "{name}": {{"{COLUMNS}": {_compact(columns)}, "{ROWS}": [\n{lines}\n ]}}')
    return ",\n".join(parts) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _again(value: Any, above: Any) -> bool:
    return isinstance(value, str) and value == above and len(value) > len(DITTO)


def _records(value: Any) -> Any:
    """A table as the list of records that it was; anything else as it is."""
    if not (isinstance(value, dict) and set(value) == {COLUMNS, ROWS}):
        return value
    columns, rows = value[COLUMNS], value[ROWS]
    if not isinstance(columns, list) or not isinstance(rows, list):
        return value
    found: list[Any] = []
    above: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, list):
            above = {name: above.get(name) if v == DITTO else v for name, v in zip(columns, row, strict=False)}
        found.append(above if isinstance(row, list) else row)
    return found


def said(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """A record's JSON without the fields that it did not always have and that say nothing: those at their default.

    What is made of it, a key or a digest, does not move when a record gains a field.
    """
    added = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    return {name: value for name, value in data.items() if name not in added or value != added[name]}


def stored(path: Path, cls: type, what: str, schema: int, error: type[ValueError]) -> Any:
    """The record of type ``cls`` that a JSON file holds beside its schema number; its ``name`` is the file's.

    ``error`` is raised, naming the file, for what is not as written; ``what`` the file is, for people.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as at:
        raise error(f"{path}:{at.lineno}: not JSON ({at.msg} at column {at.colno})") from at
    except RecursionError as at:
        raise error(f"{path}: nested deeper than any {what} is") from at
    except UnicodeDecodeError as at:
        raise error(f"{path}: not a text file ({at.reason} at byte {at.start})") from at
    found = data.pop("schema", None) if isinstance(data, dict) else None
    if found != schema:
        raise error(f"{path}: {what} schema {found!r}, but this version reads schema {schema}")
    try:
        return decode(cls, {n: _records(v) for n, v in data.items()} | {"name": path.name}, str(path))
    except RecordError as at:
        raise error(str(at)) from at
