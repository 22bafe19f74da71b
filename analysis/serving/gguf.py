"""The header of a GGUF file: which tensors it has and what each takes. The tensors themselves are not read.

The format: ggml-org/ggml, docs/gguf.md, versions 2 and 3. There is a package that reads it (gguf 0.19.0), and it is not
used: it builds an array for every token of a vocabulary, which takes a hundred times as long as all that is read here,
wants the whole file, and three more packages. On a file that it wrote both give the same tensors, types and bytes.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vram_ledger.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_KEYS, MOST_TENSORS, MOST_TEXT, MOST_ITEMS, MOST_DEPTH = 10_000, 1_000_000, 2**26, 2**26, 4
# Bytes of a value by the number of its type; 8 is a string, 9 an array.
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, UNSIGNED = 8, 9, {0: "<B", 2: "<H", 4: "<I", 10: "<Q"}
# Number of a tensor's type -> its name, elements of a block and bytes of one (ggml-org/ggml, include/ggml.h, and
# ggml-common.h's structs).
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}


class GgufError(InputError):
    """A file that is no GGUF, or one that can't be read; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a file: its name, type and bytes."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A file's header. sizes: the whole numbers among its keys, such as ``qwen35.block_count``."""

    architecture: str
    sizes: dict[str, int]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> Header:
    """The header of a GGUF file; :class:`GgufError` says what in it is not as the format has it."""
    with path.open("rb") as file:
        try:
            return _header(file)
        except (struct.error, UnicodeDecodeError) as error:
            raise GgufError(f"{path}: the file ends within its header, or is damaged ({error})") from error
        except GgufError as error:
            raise GgufError(f"{path}: {error}") from error


def _header(file: BinaryIO) -> Header:
    if file.read(4) != MAGIC:
        raise GgufError("not a GGUF file")
    version = _number(file, "<I")
    if version not in VERSIONS:
        raise GgufError(f"GGUF version {version}; known are {' and '.join(map(str, VERSIONS))}")
    tensors, keys = _number(file, "<Q"), _number(file, "<Q")
    if keys > MOST_KEYS or tensors > MOST_TENSORS:
        raise GgufError(f"{keys:,} keys and {tensors:,} tensors: a damaged file")
    sizes, architecture = {}, ""
    for _ in range(keys):
        key, kind = _text(file), _number(file, "<I")
        if kind in UNSIGNED:
            sizes[key] = _number(file, UNSIGNED[kind])
        elif kind == STRING and key == "general.architecture":
            architecture = _text(file)
        else:
            _skip(file, kind, 0)
    return Header(architecture=architecture, sizes=sizes, tensors=tuple(_tensors(file, tensors)))


def _tensors(file: BinaryIO, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        name = _text(file)
        dimensions = _number(file, "<I")
        if dimensions > 8:
            raise GgufError(f"tensor {name[:80]!r} has {dimensions:,} dimensions")
        elements = math.prod(_number(file, "<Q") for _ in range(dimensions))
        kind = _number(file, "<I")
        file.seek(8, 1)  # where it lies
        if kind not in TYPES:
            raise GgufError(f"tensor {name[:80]!r} is of type {kind}, whose size is not known here")
        type_name, block, size = TYPES[kind]
        yield Tensor(name=name, type=type_name, bytes=-(-elements // block) * size)


def _number(file: BinaryIO, form: str) -> int:
    value: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _length(file: BinaryIO) -> int:
    """Bytes of the text that follows."""
    length = _number(file, "<Q")
    if length > MOST_TEXT:
        raise GgufError(f"a text of {length:,} bytes: a damaged file")
    return length


def _text(file: BinaryIO) -> str:
    return file.read(_length(file)).decode("utf-8")


def _skip(file: BinaryIO, kind: int, depth: int) -> None:
    """Passes over a value."""
    if kind in VALUE_BYTES:
        file.seek(VALUE_BYTES[kind], 1)
    elif kind == STRING:
        file.seek(_length(file), 1)
    elif kind == ARRAY and depth < MOST_DEPTH:
        item, count = _number(file, "<I"), _number(file, "<Q")
        if count > MOST_ITEMS:
            raise GgufError(f"an array of {count:,} values: a damaged file")
        if item in VALUE_BYTES:
            file.seek(VALUE_BYTES[item] * count, 1)
        else:
            for _ in range(count):
                _skip(file, item, depth + 1)
    else:
        raise GgufError(f"a value of type {kind}, which the format does not have")
