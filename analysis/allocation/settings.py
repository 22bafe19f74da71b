"""Which of the allocator's rules a machine has, by its settings and its probes, and an allocator that follows them."""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from vram_ledger.analysis.allocation.expandable import ExpandableAllocator
from vram_ledger.analysis.allocation.rules import AllocatorError, CachingAllocator, Segment
from vram_ledger.harness.records import AllocatorProbe, Environment

Rules = Literal["default", "expandable_segments"]

CONFIGURED = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
NEUTRAL = re.compile(r"backend:native|pinned_\w+:\w+|release_lock_on_\w+:\w+|", re.I)
BETWEEN_OPTIONS = re.compile(r",(?![^\[]*\])")  # not the commas of roundup_power2_divisions:[256:1,512:2]


def allocator(
    rules: Rules,
    capacity_bytes: int | None = None,
    total_bytes: int | None = None,
    segments: Iterable[Segment] = (),
) -> CachingAllocator:
    """One that follows these rules. capacity_bytes: all that the driver can give. total_bytes: the card's memory.

    segments: the state to begin with, empty by default.
    """
    if rules == "default":
        return CachingAllocator.holding(segments, capacity_bytes)
    return ExpandableAllocator.holding(segments, capacity_bytes, total_bytes)


def probe(asked_bytes: int, rules: Rules = "default") -> AllocatorProbe:
    """What these rules do with one request while nothing is cached."""
    fresh = allocator(rules)
    fresh.run([0], [asked_bytes])
    return AllocatorProbe(
        asked_bytes=asked_bytes,
        allocated_bytes=fresh.held.allocated_bytes,
        reserved_bytes=fresh.held.reserved_bytes,
    )


def rules_of(environment: Environment) -> Rules:
    """A machine's rules by its settings; :class:`AllocatorError` if they have none here, or if it probed otherwise."""
    rules = rules_set(environment.allocator_settings)
    for measured in environment.allocator:
        if measured != (expected := probe(measured.asked_bytes, rules)):
            raise AllocatorError(f"the allocator does not follow the {rules} rules: {measured}, expected {expected}")
    return rules


def rules_given(setting: str) -> Rules:
    """The rules of one setting as a person writes it, such as "expandable_segments:True"; "" for the default."""
    return rules_set(f"PYTORCH_CUDA_ALLOC_CONF={setting}") if setting else "default"


def rules_set(settings: str) -> Rules:
    """The rules that "NAME=value NAME=value" sets; :class:`AllocatorError` names a setting that is not modelled.

    Both names of the allocator's variable may be set if they agree: which one torch reads depends on its version.
    """
    read: dict[str, Rules] = {}
    for variable in settings.split():
        name, _, value = variable.partition("=")
        if name not in CONFIGURED:
            raise AllocatorError(f"{variable!r} changes what is allocated and is not modelled; unset it")
        read[name] = "default"
        for option in _options(name, value):
            read[name] = "expandable_segments" if option.lower() == "expandable_segments:true" else "default"
    if len(set(read.values())) > 1:
        raise AllocatorError(f"{settings!r} sets expandable_segments in two ways; set one of the two variables")
    return next(iter(read.values()), "default")


def _options(name: str, value: str) -> Iterator[str]:
    """What a variable says of expandable segments, in order; the last counts."""
    for option in BETWEEN_OPTIONS.split(value):
        if option.lower() in ("expandable_segments:true", "expandable_segments:false"):
            yield option
        elif not NEUTRAL.fullmatch(option):
            raise AllocatorError(
                f"allocator setting {option!r} of {name} is not modelled; expandable_segments alone is"
            )
