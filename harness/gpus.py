"""The cards that a GPU label can name, from ``configs/gpus.toml``."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from harness.inputs import InputError, InputFields, WrongEnvironment, read_toml

# A card reports less than its label where firmware or ECC keeps some (an L40 with ECC: 7 %), never much more.
LEAST_SHARE, MOST_SHARE = 0.90, 1.02
LABEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card. ``names``: how CUDA names it. ``memory_gib``: nominal. ``family``: a label for several sizes."""

    label: str
    family: str
    names: tuple[str, ...]
    memory_gib: int
    capability: str
    multiprocessors: int
    shared_memory_bytes: int

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
        fields = InputFields(section, where)
        gpus.append(
            Gpu(
                label=label,
                family=fields.text("family", default=label),
                names=fields.texts("names"),
                memory_gib=fields.count("memory_gib", most=10_000),
                capability=fields.text("capability"),
                multiprocessors=fields.count("multiprocessors", most=10_000),
                shared_memory_bytes=fields.count("shared_memory_bytes", most=2**30),
            )
        )
        fields.no_others()
    return tuple(gpus)


def labelled(gpus: tuple[Gpu, ...], label: str) -> tuple[Gpu, ...]:
    """The cards that ``label`` can mean: its section, else its family; :class:`InputError` lists near misses."""
    exact = tuple(g for g in gpus if g.label == label)
    family = tuple(g for g in gpus if g.family == label)
    if exact or family:
        return exact or family
    known = sorted({g.label for g in gpus} | {g.family for g in gpus})
    near = difflib.get_close_matches(label, known, n=4, cutoff=0.4)
    raise InputError(
        f"no GPU is labelled {label!r}; "
        + (f"near misses: {', '.join(near)}" if near else f"known: {', '.join(known)}")
        + ". Labels are the sections of configs/gpus.toml"
    )


def identified(gpus: tuple[Gpu, ...], asked: str | None, name: str, total_bytes: int, mig: str | None) -> Gpu:
    """The section of the card that is really there; :class:`WrongEnvironment` if it is not what was asked for.

    ``asked`` is a label or ``None`` for whatever is there. A MIG slice is never the whole card.
    """
    card = f"{name} ({total_bytes:,} bytes)"
    if mig is not None:
        raise WrongEnvironment(f"the device is a MIG slice of a {card}: {mig}; a label stands for a whole card")
    candidates = gpus if asked is None else labelled(gpus, asked)
    for gpu in candidates:
        if gpu.is_card(name, total_bytes):
            return gpu
    if asked is None:
        raise WrongEnvironment(f"{card} has no section in configs/gpus.toml; add one (README: adding a GPU)")
    wanted = "; ".join(f"{g.label}: {' or '.join(g.names)} with {g.memory_gib} GiB" for g in candidates)
    raise WrongEnvironment(f"GPU={asked} asks for {wanted}, but the card is a {card}")
