"""``make bench``: how fast the emulated card is, beside the fake device and PyTorch's own MemTracker, in one run.

The same model, the same points, one machine. The emulated card counts allocations of the real allocator; the fake
device and MemTracker count storages; all must give the same requested peak, the card's library workspace apart. Times
are the best of three (MemTracker: of one) and ratios are what to compare between machines. The emulated card is
measured in a worker process of its own, as a campaign does; the rest in this one.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed._tools.mem_tracker import MemTracker

from tests.conftest import BIG, CONFIGS, CONFIGURATION, ROOT, Asked
from tests.workers.fake_tensor_mode import FakeTensorDevice
from vram_ledger.harness.devices.fake import FakeDevice
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.measure import Progress, measure
from vram_ledger.harness.records import Kernels, Measured, Workload
from vram_ledger.harness.runtimes import transformers as runtime

UNSEEN = Kernels(delta_rule=None, convolution=None, attention=None, norm=None)
CARD = "a100-80gb"
CONTEXTS = (4096, 65_536)


def best_of(count: int, call: Callable[[], int]) -> tuple[float, int]:
    """Seconds of the fastest of ``count`` calls, and what the last one returned."""
    times = []
    result = 0
    for _ in range(count):
        began = perf_counter()
        result = call()
        times.append(perf_counter() - began)
    return min(times), result


def loaded_on(device: FakeDevice) -> runtime.Loaded:
    """The 27B on a device."""
    return runtime.load(CONFIGURATION, CONFIGS / "models" / f"{BIG}.json", device, None)


def replayed(loaded: runtime.Loaded, workload: Workload) -> int:
    """The fake device's requested peak."""
    return measure(loaded, workload, Progress(), UNSEEN).warm.requested_bytes


def tracked(loaded: runtime.Loaded, workload: Workload) -> int:
    """MemTracker's peak, in bytes."""
    tracker = MemTracker()
    tracker.track_external(loaded.model)
    with tracker:
        live = runtime.prepare(loaded, workload)
        runtime.forward(loaded, workload, live)
        del live
    peaks = tracker.get_tracker_snapshot("peak")
    return int(sum(device["Total"] for device in peaks.values()))


class EmulatedCard:
    """A worker on the emulated card, the 27B built."""

    def __init__(self) -> None:
        self._worker = Asked(CONFIGURATION, "emulated", CARD, "vram_ledger.harness.worker")
        self.last: Measured | None = None

    def forward_s(self, workload: Workload) -> tuple[float, int]:
        """Seconds of the best of three warm forward passes, and the requested peak without the library workspace."""
        runs = [self._worker.measure(workload.phase, workload.batch, workload.context_tokens) for _ in range(3)]
        last = runs[-1]
        workspace = last.baseline_bytes - last.weights_bytes - last.buffers_bytes
        return min(m.setup_s + m.warm_s for m in runs), last.warm.requested_bytes - workspace

    def close(self) -> None:
        """Ends the worker."""
        self._worker.child.close()


def seconds_of(*arguments: str, times: int = 3) -> float:
    """Seconds that a command takes from start to end, the best of some."""
    return started_s(times, "-m", "vram_ledger", *arguments)


def started_s(times: int, *arguments: str) -> float:
    """The same of the interpreter with any arguments."""
    command = [sys.executable, *arguments]
    return best_of(times, lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode)[0]


def prefill_and_decode(context: int) -> tuple[Workload, Workload]:
    """The two workloads of a context."""
    prefill = Workload(configuration=CONFIGURATION, phase="prefill", context_tokens=context, batch=1)
    return prefill, dataclasses.replace(prefill, phase="decode")


def measured_times() -> tuple[dict[str, dict[int, float]], dict[str, dict[int, int]]]:
    """Seconds and prefill peaks, by method and context."""
    runtime.choose_kernels(CONFIGURATION)
    gpu = labelled(read_gpus(CONFIGS / "gpus.toml"), CARD)[0]
    seconds: dict[str, dict[int, float]] = {"emulated card": {}, "fake device": {}, "MemTracker": {}}
    peaks: dict[str, dict[int, int]] = {name: {} for name in seconds}
    card = EmulatedCard()
    for context in CONTEXTS:
        timed = [card.forward_s(w) for w in prefill_and_decode(context)]
        seconds["emulated card"][context] = sum(t for t, _ in timed)
        peaks["emulated card"][context] = timed[0][1]
    card.close()
    device = FakeDevice(gpu)
    with device.session():
        loaded = loaded_on(device)
        for context in CONTEXTS:
            timed = [best_of(3, lambda w=w: replayed(loaded, w)) for w in prefill_and_decode(context)]  # type: ignore[misc]
            seconds["fake device"][context] = sum(t for t, _ in timed)
            peaks["fake device"][context] = timed[0][1]
    peer = FakeTensorDevice(gpu)
    with peer.session():
        peer_loaded = loaded_on(peer)
        timed = [best_of(1, lambda w=w: tracked(peer_loaded, w)) for w in prefill_and_decode(CONTEXTS[0])]  # type: ignore[misc]
        seconds["MemTracker"][CONTEXTS[0]] = sum(t for t, _ in timed)
        peaks["MemTracker"][CONTEXTS[0]] = timed[0][1]
    return seconds, peaks


def whole_commands() -> list[tuple[str, float]]:
    """Seconds of what people type, from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        campaign = ("measure", "--emulate", CARD, "--results", folder)
        first = seconds_of(*campaign, times=1)
        again = seconds_of(*campaign)
        (file,) = Path(folder).rglob("*.jsonl")
        judged = seconds_of("judge", str(file))
    return [
        (f"make measure EMULATE={CARD}: the 27B's default campaign", first),
        ("the same again: all is on file", again),
        ("vram-ledger judge FILE", judged),
        ("vram-ledger --help", seconds_of("--help")),
    ]


def main() -> None:
    """Times and prints; exits with 1 if the peaks differ."""
    seconds, peaks = measured_times()
    table = Table(title=f"{BIG}, prefill and decode of one workload, torch {torch.__version__}", title_style="bold")
    for name in ("tokens", *seconds, "fake ÷ emulated", "MemTracker ÷ emulated"):
        table.add_column(name, justify="right")
    for context in CONTEXTS:
        ours = seconds["emulated card"][context]
        others = [seconds[name].get(context) for name in ("fake device", "MemTracker")]
        table.add_row(
            f"{context:,}",
            f"{ours:.3f} s",
            *("–" if s is None else f"{s:.2f} s" for s in others),
            *("–" if s is None else f"{s / ours:.0f} ×" for s in others),
        )
    console = Console()
    console.print(table)
    yardstick = started_s(3, "-c", "import typer, rich.table")
    for what, took in whole_commands():
        line = f"{took:8.2f} s, {took / yardstick:6.1f} × an interpreter that imports typer and rich  {what}"
        console.print(line, soft_wrap=True, highlight=False)
    equal = all(len({peaks[name][c] for name in peaks if c in peaks[name]}) == 1 for c in CONTEXTS)
    print(f"requested peaks without the workspace: {json.dumps(peaks)}: {'equal' if equal else 'DIFFERENT'}")
    sys.stdout.flush()
    # Triton's bindings print pages about leaks when an interpreter that used them is taken down.
    os._exit(0 if equal else 1)


if __name__ == "__main__":
    main()
