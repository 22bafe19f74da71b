"""The section of ``configs/gpus.toml`` of the card that is there: taken from it in a worker process, and stored."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.child import START_DEADLINE_S, Child, WorkerFailed
from vram_ledger.harness.gpus import LABEL, Gpu, read_gpus
from vram_ledger.harness.records import Standard, decode

GIB = 2**30
PRINTED_BYTES = GIB // 200  # what a figure in GiB with two decimals can be off by
ALIKE = ("capability", "multiprocessors", "shared_memory_bytes", "l2_bytes")


def take(order: dict[str, Any], label: str, start: Callable[[dict[str, Any]], Child] = Child.alone) -> Gpu:
    """The card that a worker of this order finds; ``label`` may be empty, then it is made from CUDA's name.

    :class:`WrongEnvironment` where there is no whole card, or no worker can be started. ``start`` starts a worker.
    """
    if label and not LABEL.fullmatch(label):
        raise InputError(f"a label is lower-case letters and digits joined by '-', got {label!r}")
    child = start(order)
    try:
        found = child.ask({"do": "describe"}, START_DEADLINE_S)
        if found["mig"] is not None:
            raise WrongEnvironment(f"the device is a MIG slice: {found['mig']}; a profile is of a whole card")
        silicon = child.ask({"do": "silicon"}, START_DEADLINE_S)
        standard = decode(Standard, child.ask({"do": "standard", "when": "start"}, START_DEADLINE_S))
    except WorkerFailed as failed:
        raise WrongEnvironment(f"the card could not be asked: {failed}") from failed
    finally:
        child.close()
    return _profiled(label or label_of(found["gpu_name"]), found, silicon, standard)


def label_of(name: str) -> str:
    """A label from CUDA's name: "NVIDIA GeForce RTX 4090" is "rtx-4090"."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join(word for word in words if word not in ("nvidia", "geforce", "tesla", "generation")) or "card"


def _profiled(label: str, found: dict[str, Any], silicon: dict[str, Any], standard: Standard) -> Gpu:
    total = found["gpu_total_bytes"]
    source = f"torch {found['torch']}, driver {found['driver']}, this card"
    outside = standard.context_bytes
    known = bool(outside) and silicon["neighbour_bytes"] is not None  # else a neighbour's memory would be in it
    return Gpu(
        label=label,
        family=label,
        names=(found["gpu_name"],),
        memory_gib=math.ceil(total / GIB),
        capability=found["gpu_capability"],
        multiprocessors=silicon["multiprocessors"],
        shared_memory_bytes=silicon["shared_memory_bytes"],
        l2_bytes=silicon["l2_bytes"],
        total_bytes=total,
        total_from=source,
        outside_bytes=outside if known else None,
        outside_from=source if known else None,
    )


def section_text(gpu: Gpu) -> str:
    """The section as ``configs/gpus.toml`` has it, with a line's end."""
    lines = [f"[{gpu.label}]"]
    if gpu.family != gpu.label:
        lines.append(f"family = {json.dumps(gpu.family)}")
    lines.append(f"names = {json.dumps(gpu.names)}")
    for name in ("memory_gib", *ALIKE, "total_bytes", "total_from", "outside_bytes", "outside_from"):
        if (value := getattr(gpu, name)) is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def store(path: Path, gpu: Gpu) -> bool:
    """Appends the card's section to the file, whole or not at all; false where a section says the same already.

    :class:`InputError` names the section that is of this card or has its label, and what in it differs.
    """
    path = path.resolve()
    for known in read_gpus(path) if path.exists() else ():
        if known.label == gpu.label or known.is_card(gpu.names[0], gpu.pretended_bytes):
            if differences := _differences(known, gpu):
                raise InputError(
                    f"{path}: [{known.label}] has this label or is this card, and differs: {differences}; "
                    "edit that section, or give another label to another card"
                )
            return False
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before = text.rstrip("\n") + "\n\n" if text.strip() else text
    _write(path, before + section_text(gpu), gpu)
    return True


def _differences(known: Gpu, gpu: Gpu) -> str:
    """What a section says of a card and the card does not, in words; empty if it says the same."""
    found = [(name, getattr(known, name), getattr(gpu, name)) for name in ALIKE]
    told = [f"{name} is {there} there and {here} here" for name, there, here in found if there != here]
    if gpu.names[0] not in known.names:
        told.insert(0, f"names has no {gpu.names[0]!r}")
    if known.is_nominal:
        told.append(f"total_bytes is nominal there and {gpu.pretended_bytes:,} here")
    elif abs(known.pretended_bytes - gpu.pretended_bytes) > PRINTED_BYTES:
        told.append(f"total_bytes is {known.pretended_bytes:,} there and {gpu.pretended_bytes:,} here")
    return "; ".join(told)


def _write(path: Path, text: str, gpu: Gpu) -> None:
    """Puts the text in the file's place once it was read back, so that no reader ever sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        if read_gpus(draft)[-1] != gpu:
            raise InputError(f"{path}: the section of {gpu.names[0]} can't be read back as it was written")
        draft.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
