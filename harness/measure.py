"""Measures one workload on one device, in this process."""

import dataclasses
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

from vram_ledger.harness.devices import LoggedRecording
from vram_ledger.harness.events import EventLog, peak_site
from vram_ledger.harness.records import Fits, GuessedRead, Held, Kernels, Measured, Peak, Vision, Workload
from vram_ledger.harness.runtimes import transformers as runtime

PROBE_TOKENS = 128


@dataclass(slots=True)
class Progress:
    """How far a measurement has come, for the one who must say where it failed.

    "cache", "cold", "warm" or "traced".
    """

    step: str = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    baseline_bytes: int
    held_bytes: int
    held: Held
    peak: Peak
    retries: int
    log: EventLog | None
    setup_s: float
    forward_s: float


def measure(loaded: runtime.Loaded, workload: Workload, progress: Progress, kernels: Kernels | None = None) -> Measured:
    """All numbers of one workload.

    Where a device only counts, cold and warm are two runs, each with its own inputs and cache, and what happened at
    the peak comes from a third, which is traced. Elsewhere one traced run tells everything.

    ``kernels``: what is known to run for this configuration and phase; observed if not given, and then after the
    measurement, since observing runs the kernels and would leave nothing to be cold.
    """
    device = loaded.device
    device.guessed(), device.tuned()  # what went before is not this workload's
    cold = _run(loaded, workload, progress, "cold", traced=False) if device.counts_only else None
    tuned, guessed = device.tuned(), device.guessed()
    warm = _run(loaded, workload, progress, "warm", traced=cold is None)
    vision = _vision(loaded, workload)
    neighbour_bytes = device.neighbour_bytes()
    guessed = _either(guessed, device.guessed())
    log = warm.log or _run(loaded, workload, progress, "traced", traced=True).log
    assert log is not None
    return Measured(
        weights_bytes=loaded.weights_bytes,
        buffers_bytes=loaded.buffers_bytes,
        baseline_bytes=warm.baseline_bytes,
        held_bytes=warm.held_bytes,
        held=warm.held,
        cold=None if cold is None else cold.peak,
        warm=warm.peak,
        site=peak_site(log)[1],
        kernels=kernels or observed_kernels(loaded, workload),
        setup_s=round(warm.setup_s, 4),
        cold_s=None if cold is None else round(cold.forward_s, 4),
        warm_s=round(warm.forward_s, 4),
        neighbour_bytes=neighbour_bytes,
        tuned=tuned,
        guessed=guessed,
        vision=vision,
    )


def once(loaded: runtime.Loaded, workload: Workload, progress: Progress) -> Fits:
    """What one run of a workload takes: the first, cold one of :func:`measure`, and nothing more."""
    device = loaded.device
    device.guessed(), device.tuned()  # what went before is not this workload's
    cold = _run(loaded, workload, progress, "cold", traced=False)
    return Fits(
        baseline_bytes=cold.baseline_bytes,
        peak=cold.peak,
        retries=cold.retries,
        setup_s=round(cold.setup_s, 4),
        forward_s=round(cold.forward_s, 4),
        tuned=device.tuned(),
        guessed=device.guessed(),
    )


def _either(cold: tuple[GuessedRead, ...], warm: tuple[GuessedRead, ...]) -> tuple[GuessedRead, ...]:
    """The reads of the warm run, and those that only the cold one made."""
    known = {read.source for read in warm}
    return warm + tuple(read for read in cold if read.source not in known)


def _run(
    loaded: runtime.Loaded, workload: Workload, progress: Progress, step: str, traced: bool, filled: bool = True
) -> _Run:
    device = loaded.device
    device.release()
    began = perf_counter()
    with device.tracing(loaded.model) if traced else device.recording() as recording:
        baseline_bytes = recording.requested_bytes()
        progress.step = "cache"
        live = runtime.prepare(loaded, workload, filled)
        device.release()
        recording.start()
        progress.step = step
        ready = perf_counter()
        runtime.forward(loaded, workload, live, recording.call)
        device.synchronize()
        done = perf_counter()
        peak, retries = recording.finish(), recording.retries()
        held_bytes, held = recording.requested_bytes(), runtime.held(live)
        log = cast(LoggedRecording, recording).log() if traced else None
        del live
    return _Run(
        baseline_bytes=baseline_bytes,
        held_bytes=held_bytes,
        held=held,
        peak=peak,
        retries=retries,
        log=log,
        setup_s=ready - began,
        forward_s=done - ready,
    )


def _vision(loaded: runtime.Loaded, workload: Workload) -> Vision | None:
    """The vision tower in a run of its own: a device has one high-water mark, and the prompt's is another's."""
    images = workload.configuration.images
    if images is None or workload.phase == "decode":
        return None
    device = loaded.device
    device.release()
    with device.recording() if device.counts_only else device.tracing(loaded.model) as recording:
        _ids, media = runtime.with_images(loaded, workload)
        device.release()
        before_bytes = recording.requested_bytes()
        recording.start()
        result, embeddings = runtime.see(loaded, media)
        device.synchronize()
        peak = recording.finish()
        vision = Vision(
            patches=workload.batch * images.patches,
            tokens=workload.batch * images.tokens,
            peak_bytes=peak.requested_bytes - before_bytes,
            kept_bytes=recording.requested_bytes() - before_bytes,
            embeddings_bytes=runtime.storage_bytes([embeddings]),
        )
        del result, embeddings, media
    return vision


def observed_kernels(loaded: runtime.Loaded, workload: Workload) -> Kernels:
    """See :func:`harness.runtimes.transformers.observe`; the shape is a small one that takes the workload's path.

    Without images, since the kernels of a record are those of the language model.
    """
    chunk = min(workload.configuration.prefill_chunk_tokens, PROBE_TOKENS // 2)
    configuration = dataclasses.replace(workload.configuration, prefill_chunk_tokens=chunk, images=None)
    small = dataclasses.replace(workload, configuration=configuration, batch=1, context_tokens=PROBE_TOKENS)
    kernels = runtime.observe(loaded, small)
    loaded.device.release()
    return kernels


def event_log(loaded: runtime.Loaded, workload: Workload, filled: bool = True) -> EventLog:
    """The event log of one workload; ``filled`` as for ``runtime.prepare``."""
    log = _run(loaded, workload, Progress(), "warm", traced=True, filled=filled).log
    assert log is not None
    return log


def history(loaded: runtime.Loaded, workload: Workload) -> dict[str, Any]:
    """The allocator's history up to the end of one workload; see :meth:`harness.devices.Device.history`."""
    live = runtime.prepare(loaded, workload)
    loaded.device.release()
    runtime.forward(loaded, workload, live)
    loaded.device.synchronize()
    return loaded.device.history()
