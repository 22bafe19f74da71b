"""Prints "same" if PyTorch's FakeTensorMode gives the event logs that the fake device gives."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import CONFIGS, CONFIGURATION, NANO
from vram_ledger.harness.devices.fake import FakeDevice
from vram_ledger.harness.events import signed_sizes
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.measure import event_log
from vram_ledger.harness.records import Workload
from vram_ledger.harness.runtimes import transformers as runtime


class FakeTensorDevice(FakeDevice):
    """The fake device on fake cpu tensors in place of meta ones."""

    name = "cpu"

    @contextmanager
    def session(self) -> Iterator[None]:
        """Both at once."""
        with super().session(), FakeTensorMode():
            yield


def logs(device: FakeDevice, config: Path) -> list[tuple[int, ...]]:
    """The sizes of a prefill's and a decode's events."""
    configuration = dataclasses.replace(CONFIGURATION, model=NANO)
    with device.session():
        loaded = runtime.load(configuration, config, device, None)
        return [
            signed_sizes(
                event_log(loaded, Workload(configuration=configuration, phase=phase, context_tokens=300, batch=2))
            )
            for phase in ("prefill", "decode")
        ]


def main() -> None:
    """Replays on both."""
    gpu = labelled(read_gpus(CONFIGS / "gpus.toml"), "h200")[0]
    config = CONFIGS / "models" / f"{NANO}.json"
    runtime.choose_kernels(CONFIGURATION)
    meta, fake = logs(FakeDevice(gpu), config), logs(FakeTensorDevice(gpu), config)
    print("same" if meta == fake else f"differ: {[(len(a), len(b)) for a, b in zip(meta, fake, strict=True)]}")


if __name__ == "__main__":
    main()
