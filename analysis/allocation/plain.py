"""Plain values of a file that nobody vouches for: a pickle or JSON, packed by gzip or not.

A pickle may only build lists, dictionaries, strings and numbers; no class, function or persistent id is ever looked up.
What is too large is refused before it is read.
"""

import gzip
import io
import json
import pickle
import pickletools
import re
import zlib
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError

MOST_BYTES = 512 * 2**20  # of a file, and of what it unpacks to; 100,000 events with Python frames take about 20 MB
GZIP, PICKLE = b"\x1f\x8b", b"\x80"
HOW_TO_RECORD = "docs/recordings.md says how to record one"

# Opcodes of plain values. None of them looks anything up outside the file or calls anything.
PLAIN_OPCODES = frozenset(
    re.split(
        r"\s+",
        "PROTO FRAME STOP MARK POP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE INT "
        "BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
        "EMPTY_DICT SETITEM SETITEMS DICT EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3",
    )
)
# Of a pickle that is not whole. Its documentation names the first, and says that others may come.
UNREADABLE = (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError)
MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")


class SnapshotError(InputError):
    """A file that is no snapshot, or one that can't be told without a wrong number; the message names the place."""


def plain_values(path: Path) -> Any:
    """What a file holds, as lists, dictionaries, strings and numbers."""
    data = _bytes(path)
    if data.startswith(PICKLE):
        return _unpickled(data, path)
    if data.lstrip()[:1] not in (b"{", b"["):
        raise SnapshotError(f"{path}: neither a pickle of torch.cuda.memory._dump_snapshot nor JSON; {HOW_TO_RECORD}")
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        cut = "it ends in the middle; " if error.pos >= len(data.rstrip()) else ""
        raise SnapshotError(f"{path}:{error.lineno}: not whole JSON: {cut}{error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{path}: not JSON of a snapshot: {error}") from error


def _bytes(path: Path) -> bytes:
    """The file, unpacked; refused by its size before it is read, or while it is unpacked."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise SnapshotError(f"{path}: {size:,} bytes; {_too_large()}")
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            return file.read()
        try:
            with gzip.open(file) as unpacked:
                data = unpacked.read(MOST_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SnapshotError(f"{path}: not a whole gzip file: {error}") from error
    if len(data) > MOST_BYTES:
        raise SnapshotError(f"{path}: unpacks to more than {MOST_BYTES:,} bytes; {_too_large()}")
    return data


def _too_large() -> str:
    return (
        f"more than {MOST_BYTES // 2**20} MiB are not read. Record fewer events (max_entries=100_000) or no C++ frames "
        '(stacks="python")'
    )


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values; every name that a file wants looked up is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise SnapshotError(f"it has the class or function {module}.{name}, and a snapshot has none; it was not loaded")

    def persistent_load(self, pid: Any) -> Any:
        raise SnapshotError("it refers to an object outside the file, and a snapshot does not; it was not loaded")


def _unpickled(data: bytes, path: Path) -> Any:
    """A pickle's plain values. Every opcode is looked at before any is carried out."""
    try:
        _check_opcodes(data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise SnapshotError(f"{path}: not a whole pickle, perhaps cut off: {error}") from error


def _check_opcodes(data: bytes) -> None:
    strings: list[str] = []
    for opcode, argument, at in pickletools.genops(data):
        if opcode.name in PLAIN_OPCODES:
            if opcode.name in MEMO_OPCODES and int(str(argument)) > len(data):
                raise SnapshotError(f"byte {at}: it numbers more values than it has bytes")
            if isinstance(argument, str):
                strings = [*strings[-1:], argument]
        elif opcode.name == "STACK_GLOBAL":
            _PlainUnpickler(io.BytesIO()).find_class(*(["?", "?", *strings][-2:]))
        elif opcode.name in ("GLOBAL", "INST"):
            _PlainUnpickler(io.BytesIO()).find_class(*str(argument).split(" ", 1))
        elif opcode.name in ("PERSID", "BINPERSID"):
            _PlainUnpickler(io.BytesIO()).persistent_load(argument)
        else:
            raise SnapshotError(f"byte {at}: it has {opcode.name}, which a snapshot does not need; it was not loaded")
