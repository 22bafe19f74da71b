"""The libraries' workspace: what the BLAS library keeps beside the program's own tensors once it has multiplied.

It is no part of the program, so no replay has it, and it does not depend on the workload. Where a card was measured or
emulated it is what its check standard left allocated; else PyTorch's default goes by the card's compute capability.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.ground.cards import section_of
from vram_ledger.analysis.ground.kinds import kind_of
from vram_ledger.harness.records import ResultsFile

SMALL_BYTES, LARGE_BYTES = 8_519_680, 33_554_432
BY_CAPABILITY = {8: SMALL_BYTES, 9: LARGE_BYTES, 10: LARGE_BYTES, 12: LARGE_BYTES}  # torch 2.14.1, emulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The least and the most that it can be, and where that comes from."""

    least_bytes: int
    most_bytes: int
    source: str


def workspace_of(label: str, on_card: Iterable[ResultsFile], gpus: Path) -> Workspace:
    """The workspace on the card of a label of ``gpus.toml``, "" for any card.

    on_card: the results of that card, the best first; the first one with a check standard says it.
    """
    for results in on_card:
        if results.standards:
            size = results.standards[-1].workspace_bytes
            word = kind_of(results.environment).word
            return Workspace(least_bytes=size, most_bytes=size, source=f"check standard, {word}")
    capability = capability_of(label, gpus)
    default = BY_CAPABILITY.get(int(capability.partition(".")[0])) if capability else None
    if default is not None:
        return Workspace(
            least_bytes=default, most_bytes=default, source=f"capability {capability} (torch 2.14.1, emulated)"
        )
    source = f"not known of capability {capability}" if capability else "depends on the GPU"
    return Workspace(least_bytes=SMALL_BYTES, most_bytes=LARGE_BYTES, source=source)


def capability_of(label: str, gpus: Path) -> str:
    """The compute capability of the card of a label of ``gpus.toml``, "" for any card."""
    return str(section_of(label, gpus).get("capability", ""))
