"""What a workload runs on, and what tells its bytes. Every module here offers the :class:`Device` interface."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from vram_ledger.harness.events import EventLog
from vram_ledger.harness.records import AllocatorProbe, GuessedRead, Peak


class Recording(Protocol):
    """The counters of one run of one workload, from its first tensor to its last."""

    def requested_bytes(self) -> int:
        """Bytes requested and not yet freed, now."""

    def start(self) -> None:
        """The forward pass begins: forget the peak so far."""

    def call(self) -> None:
        """One call of the model begins: a chunked prefill makes several."""

    def finish(self) -> Peak:
        """The forward pass has returned and its outputs are alive: its peaks."""

    def retries(self) -> int:
        """How often, since the forward pass began, the allocator gave unused segments back to get what it needed."""


class LoggedRecording(Recording, Protocol):
    """A recording that knows every allocation."""

    def log(self) -> EventLog:
        """Every allocation so far, those alive before the run first."""


class Device(Protocol):
    """A card, or what stands in for one."""

    kind: str
    name: str
    counts_only: bool  # a recording only counts; what happened takes a traced run of its own, and a first call differs

    def describe(self) -> dict[str, Any]:
        """The ``gpu_*``, ``mig``, ``driver``, ``cuda`` and ``allocator*`` fields of an Environment."""

    def silicon(self) -> dict[str, int | None]:
        """What sizes depend on beside the capability, for a section of ``configs/gpus.toml``; empty without a card.

        multiprocessors, shared_memory_bytes (a block's opt-in maximum), l2_bytes, and neighbour_bytes as below.
        """

    def session(self) -> AbstractContextManager[None]:
        """Everything torch does for this device happens inside."""

    def recording(self) -> AbstractContextManager[Recording]:
        """Counts one run and disturbs it as little as can be; where ``counts_only``."""

    def tracing(self, model: Any) -> AbstractContextManager[LoggedRecording]:
        """Writes down every allocation of one run."""

    def synchronize(self) -> None:
        """Waits until the device has done what it was told."""

    def release(self) -> None:
        """Gives back what no tensor uses, so that the next workload starts from the same state."""

    def probes(self) -> tuple[AllocatorProbe, ...]:
        """What the allocator makes of fixed requests; empty where there is no allocator."""

    def standard(self) -> tuple[int, int | None]:
        """Bytes that one bf16 matrix product leaves allocated, and device bytes in use beside the allocator's."""

    def neighbour_bytes(self) -> int | None:
        """Device memory that other processes use; ``None`` where that can't be told."""

    def history(self) -> dict[str, Any]:
        """What the allocator recorded, as ``torch.cuda.memory._snapshot`` tells it: address, size, stream, frames."""

    def requests(self) -> list[int]:
        """Everything that was asked of the allocator since the process began; where it was recorded from then on.

        A request is its bytes, -n the end of the n-th request (counted from 1), 0 a release of the cache.
        """

    def tuned(self) -> bool | None:
        """Whether a kernel was tuned since the last call; ``None`` where there are no kernels."""

    def guessed(self) -> tuple[GuessedRead, ...]:
        """The reads since the last call for which values had to be invented."""

    def last_failure(self) -> tuple[int | None, int | None, int | None]:
        """Of the last out-of-memory error, once: bytes asked, bytes free, bytes then held; ``None`` if not told."""

    def state(self) -> object:
        """All that the next run's bytes depend on, to be compared with what it was; ``None`` if that can't be told."""
