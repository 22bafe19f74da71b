"""What a checkpoint's weights take, read from it: safetensors headers, their index, or a GGUF header.

A safetensors file begins with the length of its header, eight bytes, and the header, JSON: dtype, shape and the place
of every tensor (huggingface/safetensors, README). An index (``model.safetensors.index.json``) has the names and a sum.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.analysis.formula.config import MOST_LAYERS
from vram_ledger.analysis.serving.gguf import read_header
from vram_ledger.errors import InputError

INDEX = "model.safetensors.index.json"
MOST_HEADER = 100_000_000  # the format's own limit
MOST_BYTES = 2**62  # of a tensor, or of all
SHARD = re.compile(r"-\d{1,9}-of-(\d{1,9})\.(?:safetensors|gguf)$")  # as both formats' tools name the parts of one
LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")
VISION, MTP, EMBEDDING, HEAD = "vision", "mtp", "embedding", "head"
# Of whose part a tensor is, by a piece of its name: Hugging Face's, then llama.cpp's.
PARTS = (
    (VISION, ("visual.", "vision_tower.", "v.blk.", "mm.")),
    (MTP, ("mtp.", ".nextn.")),
    (EMBEDDING, ("embed_tokens.", "token_embd.")),
    (HEAD, ("lm_head.", "output.weight")),
)


class CheckpointError(InputError):
    """A checkpoint whose weights can't be counted; the message names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Bytes of a checkpoint's tensors by part; "" is the rest. whole_only: an index, which tells no parts apart.

    layers: of the text model, without those of the MTP part; ``None`` where the names don't say.
    """

    path: str
    tensors: int
    parts: dict[str, int]
    gguf: bool
    layers: int | None = None
    whole_only: bool = False

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def of(self, *parts: str) -> int:
        """Bytes of some parts."""
        return sum(self.parts.get(part, 0) for part in parts)


def read_stored(path: Path) -> Stored:
    """The weights of a checkpoint: its folder, its index, one of its safetensors files, or a GGUF file."""
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if (parts := _parts(path)) > 1 and path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: one of {parts} parts; name the folder that has all of them")
    if path.suffix == ".gguf":
        return _of_gguf(path)
    if path.name.endswith(".index.json"):
        return _of_index(path)
    if path.suffix == ".safetensors":
        return _of_headers([path], str(path))
    raise CheckpointError(f"{path}: none of a folder, {INDEX}, a .safetensors file or a .gguf file")


def has_weights(folder: Path) -> bool:
    """Whether a folder has safetensors, or an index of them."""
    return (folder / INDEX).exists() or any(folder.glob("*.safetensors"))


def _of_folder(folder: Path) -> Stored:
    """From the headers where the files are there, all that the index names; else from the index."""
    index, files = folder / INDEX, sorted(folder.glob("*.safetensors"))
    named = set(_read_index(index)[1].values()) if index.exists() else {file.name for file in files}
    if files and not index.exists() and (parts := max(map(_parts, files))) > len(files):
        raise CheckpointError(f"{folder}: {len(files)} of {parts} parts, and no {INDEX}")
    if files and named <= {file.name for file in files}:
        return _of_headers([folder / name for name in sorted(named)], str(folder))
    if index.exists():
        return _of_index(index)
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _of_gguf(ggufs[0])
    raise CheckpointError(f"{folder}: neither {INDEX} nor .safetensors files, and {len(ggufs)} .gguf files")


def _parts(path: Path) -> int:
    """How many files its checkpoint has, by its name."""
    found = SHARD.search(path.name)
    return int(found[1]) if found else 1


def _of_index(path: Path) -> Stored:
    total, names = _read_index(path)
    return Stored(
        path=str(path), tensors=len(names), parts={"": total}, gguf=False, whole_only=True, layers=_layers(names)
    )


def _read_index(path: Path) -> tuple[int, dict[str, str]]:
    data = _json(path.read_bytes(), path)
    total = data.get("metadata", {}).get("total_size") if isinstance(data.get("metadata", {}), dict) else None
    names = data.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{path}: no weight_map of files by tensor")
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    if isinstance(total, bool) or not isinstance(total, int) or not 0 < total <= MOST_BYTES:
        raise CheckpointError(f"{path}: metadata.total_size must be the bytes of all tensors, got {total!r}")
    return total, names


def _of_headers(files: list[Path], where: str) -> Stored:
    sizes = {name: size for file in files for name, size in _header(file).items()}
    parts: dict[str, int] = {}
    for name, size in sizes.items():
        parts[part_of(name)] = parts.get(part_of(name), 0) + size
    return Stored(path=where, tensors=len(sizes), parts=parts, gguf=False, layers=_layers(sizes))


def _layers(names: Iterable[str]) -> int | None:
    """How many layers tensors are named after, of the text model."""
    numbers = {int(found[1]) for name in names if not part_of(name) and (found := LAYER.search(name))}
    return max(numbers) + 1 if numbers else None


def _header(path: Path) -> dict[str, int]:
    """Bytes by tensor of one file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MOST_HEADER:
            raise CheckpointError(f"{path}: not a safetensors file (a header of {length:,} bytes)")
        data = _json(file.read(length), path)
    sizes = {}
    for name, tensor in data.items():
        if name == "__metadata__":
            continue
        place = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(place, list) and len(place) == 2 and all(type(end) is int for end in place)):
            raise CheckpointError(f"{path}: tensor {name[:80]!r} has no data_offsets")
        if not 0 <= place[0] <= place[1] <= MOST_BYTES:
            raise CheckpointError(f"{path}: tensor {name[:80]!r} ends before it begins, or is too large")
        sizes[name] = place[1] - place[0]
    return sizes


def _of_gguf(path: Path) -> Stored:
    header = read_header(path)
    parts: dict[str, int] = {}
    blocks = header.sizes.get(f"{header.architecture}.block_count", 0)
    drafts = header.sizes.get(f"{header.architecture}.nextn_predict_layers", 0)
    if not 0 <= drafts <= blocks <= MOST_LAYERS:
        raise CheckpointError(f"{path}: {drafts:,} layers of the MTP part among {blocks:,}: a damaged file")
    if (files := max(header.sizes.get("split.count", 1), _parts(path))) > 1:
        raise CheckpointError(f"{path}: one of {files:,} parts; llama-gguf-split --merge makes one file of them")
    own = tuple(f"blk.{layer}." for layer in range(blocks - drafts, blocks))  # layers of the MTP part come last
    for tensor in header.tensors:
        part = MTP if tensor.name.startswith(own) else part_of(tensor.name)
        parts[part] = parts.get(part, 0) + tensor.bytes
    layers = blocks - drafts if blocks else None
    return Stored(path=str(path), tensors=len(header.tensors), parts=parts, gguf=True, layers=layers)


def part_of(name: str) -> str:
    """The part of the model that a tensor is of, "" for the layers and the norms."""
    for part, pieces in PARTS:
        if any(piece in name if piece[0] == "." else f".{piece}" in f".{name}" for piece in pieces):
            return part
    return ""


def _json(text: bytes, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not JSON ({str(error)[:80]})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: its header is {type(data).__name__}, not an object")
    return data
