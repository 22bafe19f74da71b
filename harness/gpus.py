"""The cards that a GPU label can name, from ``configs/gpus.toml``."""

import re
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.inputs import InputFields, read_toml
from vram_ledger.names import cards_meant, nearest, plain

# A card reports less than its label where firmware or ECC keeps some (an L40 with ECC: 7 %), never much more.
LEAST_SHARE, MOST_SHARE = 0.90, 1.02
LABEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
NOMINAL = "nominal"  # what total_from says where only the label's memory is known
MOST_BYTES = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What all cards of a capability share: the most shared memory that a block can opt in to, and resident threads."""

    shared_memory_bytes: int
    threads_per_multiprocessor: int


# CUDA C++ programming guide, "Compute capabilities": shared memory and threads of a multiprocessor and of a block.
ARCHITECTURES = {
    "7.5": Architecture(shared_memory_bytes=65_536, threads_per_multiprocessor=1024),
    "8.0": Architecture(shared_memory_bytes=166_912, threads_per_multiprocessor=2048),
    "8.6": Architecture(shared_memory_bytes=101_376, threads_per_multiprocessor=1536),
    "8.7": Architecture(shared_memory_bytes=166_912, threads_per_multiprocessor=1536),
    "8.9": Architecture(shared_memory_bytes=101_376, threads_per_multiprocessor=1536),
    "9.0": Architecture(shared_memory_bytes=232_448, threads_per_multiprocessor=2048),
    "10.0": Architecture(shared_memory_bytes=232_448, threads_per_multiprocessor=2048),
    "10.3": Architecture(shared_memory_bytes=232_448, threads_per_multiprocessor=2048),
    "11.0": Architecture(shared_memory_bytes=232_448, threads_per_multiprocessor=1536),
    "12.0": Architecture(shared_memory_bytes=101_376, threads_per_multiprocessor=1536),
    "12.1": Architecture(shared_memory_bytes=101_376, threads_per_multiprocessor=1536),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card: what sizes depend on. ``names``: how CUDA names it. ``memory_gib``: nominal.

    family: a label for several sections. shared_memory_bytes: the most that a block can opt in to. total_bytes: as
    torch reports it, ``None`` where that is not known. total_from: the printed figure and where it was printed, or
    "nominal". outside_bytes: what one process takes of the card beside its allocator, where that was published.
    """

    label: str
    family: str
    names: tuple[str, ...]
    memory_gib: int
    capability: str
    multiprocessors: int
    shared_memory_bytes: int
    l2_bytes: int
    total_bytes: int | None
    total_from: str
    outside_bytes: int | None = None
    outside_from: str | None = None

    @property
    def is_nominal(self) -> bool:
        """Whether what the card reports is not known, so that its label's memory stands in."""
        return self.total_bytes is None

    @property
    def pretended_bytes(self) -> int:
        """The one total of this card: what it reports where that is known, else its nominal memory, in bytes."""
        return self.memory_gib * 2**30 if self.total_bytes is None else self.total_bytes

    @property
    def threads_per_multiprocessor(self) -> int:
        """Resident threads of a multiprocessor, by the capability."""
        return ARCHITECTURES[self.capability].threads_per_multiprocessor

    def is_card(self, name: str, total_bytes: int) -> bool:
        """Whether a card of this name and memory is this one."""
        nominal = self.memory_gib * 2**30
        return name in self.names and LEAST_SHARE * nominal <= total_bytes <= MOST_SHARE * nominal


def read_gpus(path: Path) -> tuple[Gpu, ...]:
    """All sections; :class:`InputError` names the file, the section and the field that is wrong."""
    gpus = []
    for label, section in read_toml(path).items():
        where = f"{path}: [{label}]"
        if not LABEL.fullmatch(label):
            raise InputError(f"{where}: a label is lower-case letters and digits joined by '-'")
        gpus.append(_gpu(label, InputFields(section, where), where))
    return tuple(gpus)


def _gpu(label: str, fields: InputFields, where: str) -> Gpu:
    gpu = Gpu(
        label=label,
        family=fields.text("family", default=label),
        names=fields.texts("names"),
        memory_gib=fields.count("memory_gib", most=10_000),
        capability=fields.text("capability"),
        multiprocessors=fields.count("multiprocessors", most=10_000),
        shared_memory_bytes=fields.count("shared_memory_bytes", most=2**30),
        l2_bytes=fields.count("l2_bytes", most=2**40),
        total_bytes=fields.count("total_bytes", most=MOST_BYTES, default=0, least=0) or None,
        total_from=fields.text("total_from"),
        outside_bytes=(outside := fields.count("outside_bytes", most=MOST_BYTES, default=0, least=0)) or None,
        outside_from=fields.text("outside_from") if outside else None,
    )
    fields.no_others()
    _check(gpu, where)
    return gpu


def _check(gpu: Gpu, where: str) -> None:
    """:class:`InputError` where fields contradict each other."""
    if gpu.is_nominal != (gpu.total_from == NOMINAL):
        raise InputError(
            f"{where}: total_from says where total_bytes is known from; it is {NOMINAL!r} where there is no total_bytes"
        )
    known = ARCHITECTURES.get(gpu.capability)
    if known is None:
        raise InputError(
            f"{where}: capability {gpu.capability!r} is none of {', '.join(ARCHITECTURES)}; a new one goes into "
            "ARCHITECTURES of harness/gpus.py"
        )
    if gpu.shared_memory_bytes != known.shared_memory_bytes:
        raise InputError(
            f"{where}: shared_memory_bytes is {gpu.shared_memory_bytes:,}, but a block of capability "
            f"{gpu.capability} can opt in to {known.shared_memory_bytes:,}"
        )
    least, most = (round(share * gpu.memory_gib * 2**30) for share in (LEAST_SHARE, MOST_SHARE))
    if not least <= gpu.pretended_bytes <= most:
        raise InputError(
            f"{where}: total_bytes is {gpu.pretended_bytes:,}, but a card of {gpu.memory_gib} GiB reports "
            f"{least:,} to {most:,}"
        )


def labelled(gpus: tuple[Gpu, ...], label: str) -> tuple[Gpu, ...]:
    """The cards that ``label`` can mean, as people write it: a section, else a family, else CUDA's own name.

    :class:`InputError` lists near misses.
    """
    meant = cards_meant("" if "/" in label else label, {g.label: (g.family, g.names) for g in gpus})
    if meant:
        return tuple(g for g in gpus if g.label in meant)
    known = sorted({g.label for g in gpus} | {g.family for g in gpus})
    near = nearest(label, known) or f"; known: {', '.join(known)}"
    raise InputError(f"no GPU is labelled {label!r}{near}. Labels are the sections of configs/gpus.toml")


def _accepted(gpus: tuple[Gpu, ...], label: str) -> tuple[Gpu, ...]:
    """The cards that may be there where ``label`` was asked for: its section, and the others of a family so named."""
    own = labelled(gpus, label)
    return own + tuple(g for g in gpus if g.family == plain(label) and g not in own)


def identified(gpus: tuple[Gpu, ...], asked: str | None, name: str, total_bytes: int, mig: str | None) -> Gpu:
    """The section of the card that is really there; :class:`WrongEnvironment` if it is not what was asked for.

    ``asked`` is a label or ``None`` for whatever is there. A MIG slice is never the whole card.
    """
    card = f"{name} ({total_bytes:,} bytes)"
    if mig is not None:
        raise WrongEnvironment(f"the device is a MIG slice of a {card}: {mig}; a label stands for a whole card")
    candidates = gpus if asked is None else _accepted(gpus, asked)
    for gpu in candidates:
        if gpu.is_card(name, total_bytes):
            return gpu
    if asked is None:
        raise WrongEnvironment(f"{card} has no section in configs/gpus.toml; `make profile LABEL=…` adds it")
    wanted = "; ".join(f"{g.label}: {' or '.join(g.names)} with {g.memory_gib} GiB" for g in candidates)
    raise WrongEnvironment(f"GPU={asked} asks for {wanted}, but the card is a {card}")
