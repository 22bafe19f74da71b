"""Where a program ends is the same, compiled and by the rules, for made-up programs and for stored ones."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.allocated import MIB, Event, after, random_events
from tests.conftest import ROOT
from vram_ledger.analysis.allocation.compiled import Ended, Room
from vram_ledger.analysis.allocation.rules import CachingAllocator
from vram_ledger.analysis.derivation.derived_files import read_derived
from vram_ledger.analysis.derivation.program import Device, Program, Ran

STORED = sorted((ROOT / "results" / "emulated-a100-80gb" / "derived").glob("qwen3.5-*b.text.*.json"))
CARD = Device(multiprocessors=108, workspace_bytes=8_519_680)


def pieces_of(events: list[Event]) -> tuple[list[list[int]], list[int]]:
    """Events as steps, a piece up to each release of the cache, and sizes."""
    numbers: dict[int, int] = {}
    sizes: list[int] = []
    pieces: list[list[int]] = [[]]
    for kind, key, size in events:
        if kind == "alloc":
            numbers[key] = len(sizes)
            pieces[-1].append(len(sizes))
            sizes.append(size)
        elif kind == "free":
            pieces[-1].append(~numbers.pop(key))
        else:
            pieces.append([])
    return pieces, sizes


def by_the_rules(allocator: CachingAllocator, pieces: list[list[int]], sizes: list[int]) -> Ended | None:
    """Where the pieces find no memory."""
    for number, steps in enumerate(pieces):
        if number:
            allocator.empty_cache()
        before = allocator.steps
        if (failure := allocator.run(steps, sizes)) is not None:
            held = failure.held
            return Ended(
                call=0,
                request=steps[failure.step - before],
                allocated_bytes=held.allocated_bytes,
                reserved_bytes=held.reserved_bytes,
            )
    return None


def capacities(peak: int) -> Iterator[int]:
    """Memories around what a program reserves where none is refused."""
    yield from (peak + more * MIB for more in range(-128, 66, 2))


@pytest.mark.parametrize("seed", range(12))
def test_made_up_programs_end_alike_in_every_memory(seed: int) -> None:
    built = after(*random_events(seed + 100, 150))
    pieces, sizes = pieces_of(random_events(seed, 300))
    room, roomy = Room(built), built.copy()
    assert by_the_rules(roomy, pieces, sizes) is None
    arrays = [np.array(piece, dtype=np.int64) for piece in pieces]
    seen = set()
    for capacity in capacities(roomy.peak.reserved_bytes):
        ended = by_the_rules(built.copy(capacity), pieces, sizes)
        assert room.ended([(arrays, np.array(sizes))], capacity) == ended
        seen.add(ended is None)
    assert {True, False} == seen


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name[:-18])
def test_stored_programs_end_alike_at_random_shapes_and_memories(path: Path) -> None:
    program, choose = Program(read_derived(path)), random.Random(path.name)
    ends = set()
    for _ in range(25):
        chunk = choose.choice((0, 512, 4096)) if program.derived.phase == "prefill" else 0
        batch, context = choose.choice((1, 2, 5, 16)), int(2 ** choose.uniform(4, 14))
        roomy = program.run(CARD, batch, context, chunk)
        assert isinstance(roomy, Ran)
        low, high = roomy.peak.allocated_bytes, roomy.peak.reserved_bytes
        capacity = choose.choice((low - 1, (low + high) // 2, high - 2 * MIB, high, 2 * high))
        ended = program.run(CARD, batch, context, chunk, capacity)
        done, calls = program.calls_held(CARD, batch, context, chunk, capacity)
        assert done == (calls if isinstance(ended, Ran) else ended.calls)
        ends.add(type(ended))
    assert 2 == len(ends)
