"""``make bench``: how fast the fake device is, beside PyTorch's own MemTracker, in one run on one machine.

The same model, the same point, the same process. MemTracker counts storages under FakeTensorMode; both must give the
same peak. Times are the best of three (MemTracker: of one) and ratios are what to compare between machines.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed._tools.mem_tracker import MemTracker

from harness.devices.fake import FakeDevice
from harness.gpus import labelled, read_gpus
from harness.measure import Progress, measure
from harness.records import Kernels, Workload
from harness.runtimes import transformers as runtime
from tests.conftest import BIG, CONFIGS, CONFIGURATION, ROOT
from tests.workers.fake_tensor_mode import FakeTensorDevice

UNSEEN = Kernels(delta_rule=None, convolution=None, attention=None, norm=None)
CONTEXTS = (4096, 262_144)


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


def seconds_of(*arguments: str) -> float:
    """Seconds that a command takes from start to end, best of three."""
    command = [sys.executable, "-m", *arguments]
    return best_of(3, lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=True).returncode)[0]


def main() -> None:
    """Times and prints; exits with 1 if the peaks differ or a limit is missed."""
    runtime.choose_kernels(CONFIGURATION)
    gpu = labelled(read_gpus(CONFIGS / "gpus.toml"), "h200")[0]
    table = Table(title=f"FAKE DEVICE, {BIG}, torch {torch.__version__}, best of 3", title_style="bold yellow")
    for name in ("what", "seconds", "limit"):
        table.add_column(name, justify="left" if name == "what" else "right")
    missed = []

    def row(what: str, value: float, limit: float, unit: str = "s", at_least: bool = False) -> None:
        table.add_row(what, f"{value:.2f} {unit}", f"{'≥' if at_least else '≤'} {limit:g} {unit}")
        if value < limit if at_least else value > limit:
            missed.append(what)

    prefill = Workload(configuration=CONFIGURATION, phase="prefill", context_tokens=CONTEXTS[0], batch=1)
    device = FakeDevice(gpu)
    with device.session():
        loaded = loaded_on(device)
        for context in CONTEXTS:
            first = dataclasses.replace(prefill, context_tokens=context)
            second = dataclasses.replace(first, phase="decode")
            seconds = sum(best_of(3, lambda w=w: replayed(loaded, w))[0] for w in (first, second))  # type: ignore[misc]
            row(f"prefill and decode of {context:,} tokens", seconds, 2.5)
        ours_s, ours = best_of(3, lambda: replayed(loaded, prefill))
    peer = FakeTensorDevice(gpu)
    with peer.session():
        peer_loaded = loaded_on(peer)
        tracked_s, theirs = best_of(1, lambda: tracked(peer_loaded, prefill))
    table.add_row(f"MemTracker, prefill of {CONTEXTS[0]:,} tokens", f"{tracked_s:.2f} s", "")
    table.add_row("the same prefill here", f"{ours_s:.2f} s", "")
    row("MemTracker ÷ fake device", tracked_s / ours_s, 10, "×", at_least=True)
    row("python -m analysis --help", seconds_of("analysis", "--help"), 1)
    results = sorted((ROOT / "results").rglob("*.fake.*.jsonl"))
    if results:
        row("python -m analysis judge FILE", seconds_of("analysis", "judge", str(results[0])), 1)
    Console().print(table)
    print(f"peaks: fake device {ours:,} B, MemTracker {theirs:,} B: {'equal' if ours == theirs else 'DIFFERENT'}")
    sys.stdout.flush()
    # Triton's bindings print pages about leaks when an interpreter that used them is taken down.
    os._exit(1 if missed or ours != theirs else 0)


if __name__ == "__main__":
    main()
