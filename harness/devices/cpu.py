"""Real tensors in main memory, every allocation logged: the check that the fake device tells the truth."""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from harness.devices.recorder import Recorder
from harness.records import AllocatorProbe

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


class CpuDevice:
    """See :class:`harness.devices.Device`."""

    kind = "cpu"
    name = "cpu"
    first_call_differs = False

    def describe(self) -> dict[str, Any]:
        """No card, no allocator."""
        return NO_CARD

    def silicon(self) -> dict[str, int | None]:
        """There is no card to profile."""
        return {}

    def session(self) -> AbstractContextManager[None]:
        """Nothing to set up."""
        return nullcontext()

    @contextmanager
    def recording(self, model: Any, watch_stages: bool) -> Iterator[Recorder]:
        """The event log is the counter; stages come with it."""
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

    def last_failure(self) -> tuple[int | None, int | None, int | None]:
        """Main memory does not say."""
        return None, None, None
