"""The reference shapes of a comparison, and the bytes a token that the longest of them give."""

from vram_ledger.analysis.versions.records import Observed, Point
from vram_ledger.harness.records import Configuration, Phase

# Batch and tokens; of one sequence three contexts for the slope, multiples of the delta rule's chunk of 64, whose
# rounding up then adds nothing. The torch reference loops over chunks in Python, which takes its time.
FLA = ((1, 4096), (8, 8192), (1, 32_768), (1, 65_536), (1, 131_072))
REFERENCE = ((1, 2048), (8, 1024), (1, 4096), (1, 8192))


def shapes_of(configuration: Configuration, phase: Phase) -> tuple[tuple[int, int], ...]:
    """The shapes of a phase, in the order in which they are run; the last one is the longest of one sequence."""
    return REFERENCE if configuration.kernels == "torch" and phase == "prefill" else FLA


def point_at(observed: Observed, batch: int, context_tokens: int) -> Point | None:
    """The point of a shape; ``None`` where it was not run."""
    return next((p for p in observed.points if (p.batch, p.context_tokens) == (batch, context_tokens)), None)


def slope_of(observed: Observed) -> int | None:
    """Bytes of the requested peak a token of one sequence, between the two longest contexts.

    ``None`` where three contexts do not lie on one line, to the byte: the peak is at another place of the program.
    """
    alone = sorted((p.context_tokens, p.requested_bytes) for p in observed.points if p.batch == 1)
    if len(alone) < 3:
        return None
    (short, least), (middle, lower), (long, upper) = alone[-3:]
    slope, rest = divmod(upper - lower, long - middle)
    return slope if not rest and least + slope * (middle - short) == lower else None
