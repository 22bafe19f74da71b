"""What an emulated card answers with, and the variables that give a process its cards."""

import hashlib
import os
from dataclasses import astuple, dataclass
from pathlib import Path

from vram_ledger.harness.emulation.build import SHARED, Built, built_stubs
from vram_ledger.harness.emulation.wheel import NoEmulation, find_wheel
from vram_ledger.harness.gpus import Gpu

ASSUMED_OUTSIDE_BYTES = 480 * 2**20  # where nobody published it: about what a CUDA context and torch's modules take
INSIDE = Path(__file__).parent / "inside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A card to be emulated: all that a program's memory depends on.

    name: as CUDA prints it. total_bytes: as torch reports them. outside_bytes: in use beside the allocator (context,
    modules): nobody computes these, they are typed in. shared_bytes: what a block may opt in to.
    """

    name: str
    capability: str
    multiprocessors: int
    total_bytes: int
    outside_bytes: int
    shared_bytes: int
    l2_bytes: int


def profile_of(gpu: Gpu) -> Profile:
    """The profile of a section of ``configs/gpus.toml``."""
    return Profile(
        name=gpu.names[0],
        capability=gpu.capability,
        multiprocessors=gpu.multiprocessors,
        total_bytes=gpu.pretended_bytes,
        outside_bytes=ASSUMED_OUTSIDE_BYTES if gpu.outside_bytes is None else gpu.outside_bytes,
        shared_bytes=gpu.shared_memory_bytes,
        l2_bytes=gpu.l2_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """Cards that a process can be given. digest: of the stubs, the wheel and the cards' values."""

    variables: dict[str, str]
    digest: str


def emulation_of(cards: tuple[Profile, ...], compiled: bool = False, stubs: Built | None = None) -> Emulation:
    """How to start a process on these cards; :class:`NoEmulation` if this machine or its PyTorch can't.

    ``compiled``: Triton's kernels are really compiled and tuned, though nothing runs them. ``stubs``: those of another
    interpreter's PyTorch.
    """
    stubs = stubs or built_stubs(find_wheel())
    variables = {
        "LD_PRELOAD": _joined(stubs.preload, os.environ.get("LD_PRELOAD")),
        "PYTHONPATH": _joined(str(INSIDE), os.environ.get("PYTHONPATH")),
        "TRITON_LIBCUDA_PATH": str(stubs.folder),
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(len(cards))),  # the outer one is of other cards
        "EMULATED_CARDS": "\n".join(_line(card, stubs) for card in cards),
        "EMULATED_LIBRARY": str(stubs.folder / SHARED),
        "EMULATED_COMPILE": "1" if compiled else "0",
    }
    values = f"{stubs.digest} {[astuple(card) for card in cards]}"
    return Emulation(variables=variables, digest=hashlib.sha256(values.encode()).hexdigest()[:12])


def _joined(first: str, given: str | None) -> str:
    return first if not given else f"{first}{os.pathsep}{given}"


def _line(card: Profile, stubs: Built) -> str:
    major, minor = (int(part) for part in card.capability.split("."))
    fields = {
        "name": card.name,
        "major": major,
        "minor": minor,
        "multiprocessors": card.multiprocessors,
        "code": _code(card, stubs.architectures),
        "total_bytes": card.total_bytes,
        "outside_bytes": card.outside_bytes,
        "shared_optin_bytes": card.shared_bytes,
        "l2_bytes": card.l2_bytes,
    }
    return ";".join(f"{name}={value}" for name, value in fields.items())


def _code(card: Profile, architectures: tuple[int, ...]) -> int:
    """The architecture whose code the card would run: the newest of its own major that is not newer than it."""
    capability = int(card.capability.replace(".", ""))
    fitting = [a for a in architectures if a // 10 == capability // 10 and a <= capability]
    if not fitting:
        have = ", ".join(f"{a // 10}.{a % 10}" for a in architectures)
        raise NoEmulation(f"{card.name} has capability {card.capability}, and this PyTorch has code for {have} only")
    return max(fitting)
