"""The fake device: a card's allocations replayed on tensors without memory, with no card.

Meta tensors stand for the card's: they have a shape, a layout and a storage that knows its size, and every build of
torch has them (a CPU-only one refuses fake *cuda* tensors). Tensors that a program leaves in host memory stay real
and are not counted, as on a card. Four things are made to go the card's way: Triton launches do nothing,
scaled-dot-product attention takes the op that the named card would take (:mod:`harness.devices.attention`), what ops
allocate inside themselves is added where it is known (:mod:`harness.devices.inside`), and the questions that
flash-linear-attention asks about the machine are answered as the named card would. A test shows that
``FakeTensorMode`` gives the same log; it takes two and a half times as long. Another holds the log against the
allocator's own trace on an emulated card, event for event.

Not seen: the workspace of libraries, the caching allocator's rounding, CUDA context and modules. A number from here is
always labelled "fake".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from vram_ledger.harness.devices.attention import attention_on
from vram_ledger.harness.devices.cpu import NO_CARD, CpuDevice
from vram_ledger.harness.devices.inside import Insides
from vram_ledger.harness.devices.recorder import Recorder
from vram_ledger.harness.gpus import Gpu


class FakeDevice(CpuDevice):
    """See :class:`harness.devices.Device`. Make one a process, before fla is imported; ``gpu`` is what to answer as."""

    kind = "fake"
    name = "meta"

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        answer_as(gpu)
        launch_nothing()

    def describe(self) -> dict[str, Any]:
        """The card that is answered for; what only a real one has (UUID, driver, allocator) stays ``None``."""
        return NO_CARD | {"gpu_name": self._gpu.names[0], "gpu_capability": self._gpu.capability}

    @contextmanager
    def tracing(self, model: Any) -> Iterator[Recorder]:
        """See :class:`harness.devices.Device`; with what ops allocate inside themselves."""
        with Recorder(model, self.name, Insides(self._gpu.multiprocessors)) as recorder:
            yield recorder

    @contextmanager
    def session(self) -> Iterator[None]:
        """Attention is pinned until the end, and literals are seen."""
        attention, literal = F.scaled_dot_product_attention, torch.tensor
        F.scaled_dot_product_attention = attention_on(capability_of(self._gpu))  # type: ignore[assignment]
        torch.tensor = literal_as_on_a_card
        try:
            yield
        finally:
            F.scaled_dot_product_attention = attention  # type: ignore[assignment]
            torch.tensor = literal


def launch_nothing() -> None:
    """Replaces Triton's launches by nothing; the Python around them still makes its tensors."""
    try:
        from triton.runtime import autotuner, jit
    except ImportError:
        return

    def launch(*args: Any, **kwargs: Any) -> None:
        return None

    jit.JITFunction.run = launch
    autotuner.Autotuner.run = launch
    autotuner.Heuristics.run = launch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Properties:
    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    shared_memory_per_block: int
    shared_memory_per_block_optin: int
    max_threads_per_multi_processor: int
    L2_cache_size: int


class _Driver:
    """Answers Triton's driver calls that fla makes when it is imported (fla/utils/hardware.py, 0.6.0)."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.utils = self

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", int(self._gpu.capability.replace(".", "")), 32)

    def get_device_properties(self, index: int) -> dict[str, int]:
        return {
            "max_shared_mem": self._gpu.shared_memory_bytes,
            "multiprocessor_count": self._gpu.multiprocessors,
            "warpSize": 32,
        }

    def get_current_device(self) -> int:
        return 0

    def get_benchmarker(self) -> Any:
        return None

    def get_device_interface(self) -> Any:
        return torch.cuda


def capability_of(gpu: Gpu) -> tuple[int, int]:
    """The card's capability as two numbers."""
    major, minor = (int(part) for part in gpu.capability.split("."))
    return major, minor


def answer_as(gpu: Gpu) -> None:
    """Makes torch.cuda's and Triton's questions about the machine answer as ``gpu``, for the rest of the process."""
    major, minor = capability_of(gpu)
    properties = _Properties(
        name=gpu.names[0],
        major=major,
        minor=minor,
        total_memory=gpu.pretended_bytes,
        multi_processor_count=gpu.multiprocessors,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=gpu.shared_memory_bytes,
        max_threads_per_multi_processor=gpu.threads_per_multiprocessor,
        L2_cache_size=gpu.l2_bytes,
    )
    torch.cuda.get_device_name = lambda device=None: gpu.names[0]
    torch.cuda.get_device_capability = lambda device=None: (major, minor)
    torch.cuda.get_device_properties = lambda device=None: properties  # type: ignore[assignment,return-value]
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    try:
        from triton.runtime import driver
    except ImportError:
        return
    driver.set_active(_Driver(gpu))


def literal_as_on_a_card(
    data: Any, *, dtype: torch.dtype | None = None, device: Any = None, requires_grad: bool = False
) -> torch.Tensor:
    """``torch.tensor`` as a card has it: made on the host, then copied.

    Straight onto the meta device it would bypass the dispatcher, and with it the event log.
    """
    made = torch.as_tensor(data, dtype=dtype).clone()
    return (made if device is None else made.to(device)).requires_grad_(requires_grad)
