"""What an out-of-memory message of PyTorch says, in bytes, each figure as an interval of what it may have been.

The forms are those of ``c10/cuda/CUDACachingAllocator.cpp`` (``malloc``, ``format_size``): one bracket of totals up to
torch 2.0, sentences from 2.1 on. A figure is printed with two digits after the point, so it is known to half a
hundredth of its unit; with another allocator, or none, there is no message.
"""

import dataclasses
import re
from dataclasses import dataclass
from math import ceil, floor

from vram_ledger.analysis.ground.printed import read_printed
from vram_ledger.errors import InputError

UNITS = {"bytes": "B"}  # as torch has it, where others have it otherwise
SIZE = r"(\d{1,12}(?:\.\d{1,9})?) (bytes|KiB|MiB|GiB|TiB)"
LONGEST = 50_000_000  # characters of a text that is looked through
ASKED = re.compile(rf"Tried to allocate {SIZE}")
# What is said of it, by field: torch 2.1 and later; then 2.0 and before.
FIELDS = {
    "total": (rf"total capac?i?ty of {SIZE}", rf"{SIZE} total capacity"),
    "free": (rf"of which {SIZE} is free", rf"{SIZE} free"),
    "process": (rf"this process has {SIZE} memory in use",),
    "allocated": (rf"{SIZE} is allocated by PyTorch", rf"{SIZE} already allocated"),
    "unallocated": (rf"{SIZE} is reserved by PyTorch but unallocated",),
    "reserved": (rf"{SIZE} reserved in total by PyTorch", rf"{SIZE} cached"),
    "allowed": (rf"{SIZE} allowed",),
}
OTHERS = re.compile(rf"Process \d+ has {SIZE} memory in use")


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A figure as it was printed, and the least and the most bytes that are printed so."""

    text: str
    least_bytes: int
    most_bytes: int

    @property
    def middle_bytes(self) -> int:
        """What was printed, as it is read."""
        return (self.least_bytes + self.most_bytes) // 2

    def has(self, size: int) -> bool:
        """Whether so many bytes are printed so."""
        return self.least_bytes <= size <= self.most_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What torch said when it had no memory. asked: the segment that the request would have got.

    total, free: of the card. process: this process's, in and outside the allocator. allocated: in tensors.
    unallocated: reserved beside them. reserved: both. allowed: a share of the card that was set. others: processes.
    """

    asked: Printed
    total: Printed | None
    free: Printed | None
    process: Printed | None
    allocated: Printed | None
    unallocated: Printed | None
    reserved: Printed | None
    allowed: Printed | None
    others: tuple[Printed, ...]

    @property
    def reserved_middle_bytes(self) -> int | None:
        """What the allocator held, as far as it is printed."""
        if self.reserved is not None:
            return self.reserved.middle_bytes
        if self.allocated is None or self.unallocated is None:
            return None
        return self.allocated.middle_bytes + self.unallocated.middle_bytes

    @property
    def spare_bytes(self) -> int | None:
        """What was reserved beside the allocated bytes."""
        if self.unallocated is not None:
            return self.unallocated.middle_bytes
        if self.reserved is None or self.allocated is None:
            return None
        return max(0, self.reserved.middle_bytes - self.allocated.middle_bytes)

    @property
    def capacity_bytes(self) -> int | None:
        """What the allocator could have, as far as it is printed: what it held and what was free, or its share."""
        reserved = self.reserved_middle_bytes
        if reserved is None or self.free is None:
            return None
        room = reserved + self.free.middle_bytes
        return room if self.allowed is None else min(room, self.allowed.middle_bytes)

    @property
    def lacking_bytes(self) -> int | None:
        """What was asked for beyond what was free; ``None`` where that is not said, or a share was full and not the
        card."""
        if self.free is None or self.allowed is not None:
            return None
        lacking = self.asked.middle_bytes - self.free.middle_bytes
        return lacking if lacking > 0 else None

    @property
    def reserved_spread_bytes(self) -> int:
        """How far the allocator's bytes may be from their middle, as they are printed."""
        parts = [self.reserved] if self.reserved is not None else [self.allocated, self.unallocated]
        return sum((part.most_bytes - part.least_bytes) // 2 for part in parts if part is not None)

    def agrees(self, allocated_bytes: int, reserved_bytes: int) -> bool:
        """Whether an allocator in that state would print these figures."""
        return (
            (self.allocated is None or self.allocated.has(allocated_bytes))
            and (self.unallocated is None or self.unallocated.has(reserved_bytes - allocated_bytes))
            and (self.reserved is None or self.reserved.has(reserved_bytes))
        )


def read_message(text: str) -> Message:
    """The first out-of-memory message in a text; :class:`InputError` if there is none."""
    if len(text) > LONGEST:
        raise InputError(f"MESSAGE has {len(text):,} characters; give the message, or the last lines of the log")
    said = " ".join(text.split())
    asked = ASKED.search(said)
    if asked is None:
        raise InputError(
            'MESSAGE has no "Tried to allocate …", as PyTorch has it when a card is out of memory; give all of it'
        )
    end = said.find("Tried to allocate", asked.end())
    own = said[asked.start() : end if end > 0 else None]
    found = Message(
        asked=_printed(asked),
        others=tuple(map(_printed, OTHERS.finditer(own))),
        **{name: _first(forms, own) for name, forms in FIELDS.items()},
    )
    return _with_own_process(found)


def _with_own_process(found: Message) -> Message:
    """In a container the driver knows a process by another number, and torch names its own as one of the others: what
    is more than the card has beside this process's reserved memory is this process."""
    reserved, total = found.reserved_middle_bytes, found.total
    if found.process is not None or reserved is None or total is None:
        return found
    for place, other in enumerate(found.others):
        if other.most_bytes >= reserved and reserved + other.least_bytes > total.most_bytes:
            rest = found.others[:place] + found.others[place + 1 :]
            return dataclasses.replace(found, process=other, others=rest)
    return found


def _first(forms: tuple[str, ...], text: str) -> Printed | None:
    found = next((match for form in forms if (match := re.search(form, text))), None)
    return None if found is None else _printed(found)


def _printed(match: "re.Match[str]") -> Printed:
    return printed(match.group(1), match.group(2))


def printed(figure: str, unit: str) -> Printed:
    """A figure in a unit of bytes, of which half of its last digit is open."""
    found = read_printed(f"{figure} {UNITS.get(unit, unit)}").range
    least, most = max(0, ceil(found.least)), floor(found.most)
    return Printed(text=f"{figure} {unit}", least_bytes=least, most_bytes=most)
