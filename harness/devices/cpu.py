"""Real tensors in main memory, every allocation logged: the check that the fake device tells the truth."""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from vram_ledger.harness.devices.recorder import Recorder
from vram_ledger.harness.records import AllocatorProbe, GuessedRead

NO_CARD: dict[str, Any] = {
    "gpu_name": None,
    "gpu_uuid": None,
    "gpu_total_bytes": None,
    "gpu_capability": None,
    "mig": None,
    "driver": None,
    "cuda": None,
    "allocator_settings": "",
    "allocator": (),
}

NO_ALLOCATOR = "there is no caching allocator on this device; take a card, or an emulated one"


class CpuDevice:
    """See :class:`harness.devices.Device`."""

    kind = "cpu"
    name = "cpu"
    counts_only = False

    def describe(self) -> dict[str, Any]:
        """No card, no allocator."""
        return NO_CARD

    def silicon(self) -> dict[str, int | None]:
        """There is no card to profile."""
        return {}

    def session(self) -> AbstractContextManager[None]:
        """Nothing to set up."""
        return nullcontext()

    def recording(self) -> AbstractContextManager[Recorder]:
        """Never asked for: every run is traced here."""
        raise NotImplementedError("every run on this device is traced")

    @contextmanager
    def tracing(self, model: Any) -> Iterator[Recorder]:
        """The event log is the counter."""
        with Recorder(model, self.name) as recorder:
            yield recorder

    def synchronize(self) -> None:
        """Nothing runs behind the program's back."""

    def release(self) -> None:
        """Ends the storages that only reference cycles keep alive."""
        gc.collect()

    def probes(self) -> tuple[AllocatorProbe, ...]:
        """There is no allocator to ask."""
        return ()

    def standard(self) -> tuple[int, int | None]:
        """No library workspace is visible here."""
        return 0, None

    def neighbour_bytes(self) -> int | None:
        """Not a card."""
        return None

    def history(self) -> dict[str, Any]:
        """Never asked for: there is no allocator."""
        raise NotImplementedError(NO_ALLOCATOR)

    def requests(self) -> list[int]:
        """Never asked for, either."""
        raise NotImplementedError(NO_ALLOCATOR)

    def tuned(self) -> bool | None:
        """Nothing is tuned."""
        return None

    def guessed(self) -> tuple[GuessedRead, ...]:
        """A value that is not there is an error here."""
        return ()

    def last_failure(self) -> tuple[int | None, int | None, int | None]:
        """Main memory does not say."""
        return None, None, None

    def state(self) -> None:
        """There is no allocator to ask."""
