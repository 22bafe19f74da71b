"""Which requests ask the driver for what a message prints."""

from collections.abc import Iterator

from vram_ledger.analysis.allocation.rules import (
    LARGE_SEGMENT_BYTES,
    MIN_BLOCK_BYTES,
    OWN_SEGMENT_BYTES,
    SEGMENT_STEP_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
)
from vram_ledger.analysis.messages.message import Printed


def sizes_printed(asked: Printed) -> Iterator[tuple[int, int]]:
    """The ranges of sizes, least and most, whose segment is printed so (``get_allocation_size``)."""
    if asked.has(SMALL_SEGMENT_BYTES):
        yield 1, SMALL_BYTES
    if asked.has(LARGE_SEGMENT_BYTES):
        yield SMALL_BYTES + 1, OWN_SEGMENT_BYTES - MIN_BLOCK_BYTES
    least = -(-asked.least_bytes // SEGMENT_STEP_BYTES) * SEGMENT_STEP_BYTES
    most = asked.most_bytes // SEGMENT_STEP_BYTES * SEGMENT_STEP_BYTES
    if max(least, OWN_SEGMENT_BYTES) <= most:
        yield max(least - SEGMENT_STEP_BYTES + 1, OWN_SEGMENT_BYTES - MIN_BLOCK_BYTES + 1), most
