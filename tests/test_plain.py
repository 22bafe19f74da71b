"""Snapshot files: what is not whole, too large or not plain values is refused in words, and nothing in it runs."""

import gzip
import io
import json
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recorded import random_card
from vram_ledger.analysis.allocation import plain
from vram_ledger.analysis.allocation.plain import SnapshotError, plain_values

SNAPSHOT = random_card(1, 60).snapshot()
RAN: list[str] = []


def ran(name: str) -> str:
    """What no file may call."""
    RAN.append(name)
    return name


class Called:
    """An object that a pickle makes by calling a function."""

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return ran, ("called",)


class Kept(pickle.Pickler):
    """Pickles with persistent ids."""

    def persistent_id(self, value: Any) -> str | None:
        return "elsewhere" if value == "persistent" else None


def kept(protocol: int) -> bytes:
    """A pickle that refers to an object outside of it."""
    out = io.BytesIO()
    Kept(out, protocol).dump({"segments": "persistent"})
    return out.getvalue()


def refused(path: Path, data: bytes) -> str:
    """Why a file of these bytes is refused."""
    path.write_bytes(data)
    with pytest.raises(SnapshotError) as why:
        plain_values(path)
    assert not RAN
    assert str(why.value).startswith(f"{path}:")
    return str(why.value).removeprefix(f"{path}:").lstrip()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pickle_of_plain_values_is_read(protocol: int, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(pack(pickle.dumps(SNAPSHOT, protocol)))
    assert SNAPSHOT == plain_values(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_json_is_read_whatever_the_file_is_called(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(pack(b"\n " + json.dumps(SNAPSHOT).encode()))
    assert SNAPSHOT == plain_values(path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("value", "name"),
    [(Called(), "ran"), (Called, "Called"), (Path("x"), "pathlib."), (ran, "ran"), (complex(1, 2), "complex")],
    ids=["call", "class", "path", "function", "builtin"],
)
def test_pickle_with_a_class_or_function_is_refused_by_its_name(
    value: object, name: str, protocol: int, tmp_path: Path
) -> None:
    why = refused(tmp_path / "s.pickle", pickle.dumps({"segments": [value]}, protocol))
    assert why.startswith("it has the class or function ")
    assert name in why


def test_a_class_that_no_opcode_was_seen_for_is_refused_when_it_is_looked_up() -> None:
    reader = plain._PlainUnpickler(io.BytesIO(pickle.dumps(Called())))
    with pytest.raises(SnapshotError, match=r"has the class or function .*ran"):
        reader.load()
    assert not RAN


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_that_refers_outside_is_refused(protocol: int, tmp_path: Path) -> None:
    assert "refers to an object outside the file" in refused(tmp_path / "s", kept(protocol))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"\x80\x02c__builtin__\neval\nX\x03\0\0\0ran\x85R.", "__builtin__.eval"),
        (b"\x80\x02(X\x03\0\0\0ranios\nsystem\n.", "os.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02}}b.", "BUILD"),
        (b"\x80\x02)}\x81.", "NEWOBJ"),
        (b"\x80\x02)R.", "REDUCE"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "cut off"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.", "cut off"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "numbers more values than it has bytes"),
        (b"\x80\x04\x95" + b"\xff" * 8 + b".", "cut off"),
        (b"\x80\x02N2.", "DUP"),
        (b"\x80\x02h\x07.", "cut off"),
        (b"\x80\x02a.", "cut off"),
        (b"\x80\x02}Na.", "cut off"),
        (b"\x80\x02.", "cut off"),
        (b"\x80\x7f}.", "cut off"),
        (b"\x80", "cut off"),
    ],
)
def test_pickle_made_by_hand_is_refused(code: bytes, name: str, tmp_path: Path) -> None:
    assert name in refused(tmp_path / "s.pickle", code)


def test_every_opcode_that_is_let_through_exists_and_none_of_them_calls() -> None:
    known = {opcode.name: opcode for opcode in pickletools.opcodes}
    calling = {
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
    }
    assert plain.PLAIN_OPCODES <= set(known) - calling - {"PERSID", "BINPERSID"}


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_file_that_was_cut_off_is_refused_in_words(part: float, tmp_path: Path) -> None:
    whole = pickle.dumps(SNAPSHOT)
    packed, text = gzip.compress(whole), json.dumps(SNAPSHOT).encode()
    assert "not a whole pickle, perhaps cut off" in refused(tmp_path / "s", whole[: int(len(whole) * part)])
    assert "not a whole gzip file" in refused(tmp_path / "s", packed[: int(len(packed) * part)])
    assert "not whole JSON" in refused(tmp_path / "s", text[: int(len(text) * part)])


def test_packed_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json.dumps(SNAPSHOT).encode()))
    packed[len(packed) // 2] ^= 0xFF
    assert "not a whole gzip file" in refused(tmp_path / "s", bytes(packed))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a pickle"),
        (b"<html><script>var snapshot = 1</script>", "neither a pickle"),
        (b"PK\x03\x04zip", "neither a pickle"),
        (b'{"segments": [],\n "device_traces": [}', "2: not whole JSON: Expecting value"),
        (b'{"segments": "\xff"}', "not JSON of a snapshot"),
        (b'{"a":' * 100_000, "not JSON of a snapshot"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON of a snapshot"),
    ],
    ids=["empty", "html", "zip", "broken", "no text", "deep", "long number"],
)
def test_file_of_another_kind_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path / "s", data)


def test_a_gibibyte_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.pickle"
    with path.open("wb") as file:
        file.truncate(2**30)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(SnapshotError, match=r"1,073,741,824 bytes; more than 512 MiB are not.*max_entries"):
        plain_values(path)


def test_small_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "MOST_BYTES", 2**20)
    assert "unpacks to more than 1,048,576 bytes" in refused(tmp_path / "s", gzip.compress(b"{" + b" " * 2**21 + b"}"))
