"""How much memory a card has to give: ``configs/gpus.toml``, what a card reported when it was measured, or the user."""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError
from vram_ledger.names import cards_meant, nearest, plain

LEAST_REPORTED = 0.9  # of the nominal memory: error correction and firmware take the rest (configs/gpus.toml)
MOST_BYTES = 2**50  # more than any card has, or any node of them
UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}


class CardError(InputError):
    """A card that is not known, or an amount of memory that is none."""


GIVEN = "as given"  # the source of what the user said


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU by its label, and the least and the most that it has to give. source: where that comes from."""

    label: str
    least_bytes: int
    most_bytes: int
    source: str


def read_cards(path: Path) -> dict[str, Card]:
    """Every section of ``gpus.toml``, by label: what such a card reported; if that is not known, nominal memory."""
    return _cards(_sections(path))


def _cards(sections: dict[str, dict[str, Any]]) -> dict[str, Card]:
    return {label: _card(label, section) for label, section in sections.items()}


def _card(label: str, section: dict[str, Any]) -> Card:
    """What torch reports of the card where the section knows it; a range under the nominal memory where it does not."""
    if (total := section.get("total_bytes")) is not None:
        return Card(label=label, least_bytes=total, most_bytes=total, source=section["total_from"])
    nominal = section["memory_gib"] * 2**30
    return Card(
        label=label,
        least_bytes=int(nominal * LEAST_REPORTED),
        most_bytes=nominal,
        source="nominal, of which a card may report up to a tenth less",
    )


def card_of(label: str, path: Path, memory: str = "") -> Card:
    """The card of a label, with ``memory`` (such as "79.1GiB") where the user knows what it reports.

    :class:`CardError` names near labels, or the sizes that a family's label stands for.
    """
    sections = _sections(path)
    found = _labels(label, sections)
    if len(found) > 1:
        raise CardError(f"{label} is {' or '.join(found)}: name the size")
    cards = _cards(sections)
    if not found:
        raise CardError(f"no GPU is labelled {label!r}{nearest(label, cards) or '; known: ' + ', '.join(cards)}")
    if not memory:
        return cards[found[0]]
    size = read_amount(memory)
    return Card(label=found[0], least_bytes=size, most_bytes=size, source=GIVEN)


def card_asked(label: str, path: Path, memory: str) -> Card | None:
    """The card that a question names, ``None`` if it names none; :class:`CardError` for a memory without one."""
    if memory and not label:
        raise CardError("memory is that of a card: name the GPU, too")
    return card_of(label, path, memory) if label else None


def _labels(name: str, sections: dict[str, dict[str, Any]]) -> list[str]:
    """The labels that a name can mean, also one whose words are run together, such as rtx4090."""
    meant = cards_meant(name, {label: (s.get("family", label), s["names"]) for label, s in sections.items()})
    together = plain(name).replace("-", "")
    return meant or [label for label in sections if label.replace("-", "") == together]


def sizes_text(least_bytes: int, most_bytes: int | None = None) -> str:
    """Bytes in both units, "54.71 GB (50.96 GiB)", for cards are sold in one and report the other; or a range."""
    ends = [least_bytes] if most_bytes in (None, least_bytes) else [least_bytes, most_bytes]
    gb, gib = (" to ".join(f"{end / unit:,.2f}" for end in ends if end is not None) for unit in (10**9, 2**30))
    return f"{gb} GB ({gib} GiB)"


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    return _sections_of(path, path.stat().st_mtime_ns)


@functools.cache
def _sections_of(path: Path, changed_ns: int) -> dict[str, dict[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_amount(text: str) -> int:
    """Bytes of an amount such as "79.1GiB", "81,002 MiB"; :class:`CardError` for anything else, or beyond any card."""
    found = re.fullmatch(r"(\d{1,3}(?:,\d{3})+|\d{1,20}(?:\.\d{1,20})?)\s*([GM]I?B|B)", text.strip().upper(), re.ASCII)
    units = {name.upper(): size for name, size in UNITS.items()}
    size = int(float(found[1].replace(",", "")) * units.get(found[2], 1)) if found else 0
    if not 0 < size <= MOST_BYTES:
        raise CardError(f"{text[:60]!r} is not an amount of memory such as 79.1GiB or 24564MiB")
    return size


def section_of(label: str, gpus: Path) -> dict[str, Any]:
    """What ``gpus.toml`` says of a label; nothing of one that it does not have."""
    return _sections(gpus).get(label, {})


def multiprocessors_of(label: str, gpus: Path) -> int | None:
    """The number of multiprocessors of the card of a label of ``gpus.toml``; ``None`` if it is not said."""
    found: int | None = section_of(label, gpus).get("multiprocessors")
    return found
