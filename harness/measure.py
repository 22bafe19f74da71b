"""Measures one workload on one device, in this process."""

import dataclasses
from dataclasses import dataclass
from time import perf_counter

from harness.events import EventLog
from harness.records import Held, Kernels, Measured, Peak, PeakSite, Vision, Workload
from harness.runtimes import transformers as runtime

PROBE_TOKENS = 128


@dataclass(slots=True)
class Progress:
    """How far a measurement has come, for the one who must say where it failed: "cache", "cold" or "warm"."""

    step: str = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    baseline_bytes: int
    held_bytes: int
    held: Held
    peak: Peak
    site: PeakSite
    setup_s: float
    forward_s: float


def measure(loaded: runtime.Loaded, workload: Workload, progress: Progress, kernels: Kernels | None = None) -> Measured:
    """All numbers of one workload. Cold and warm are two runs, each with its own inputs and cache.

    ``kernels``: what is known to run for this configuration and phase; observed if not given, and then after the
    measurement, since observing runs the kernels and would leave nothing to be cold.
    """
    device = loaded.device
    cold = None
    if device.first_call_differs:
        cold = _run(loaded, workload, progress, "cold", watch_stages=True)
    warm = _run(loaded, workload, progress, "warm", watch_stages=cold is None)
    vision = _vision(loaded, workload)
    neighbour_bytes = device.neighbour_bytes()
    return Measured(
        weights_bytes=loaded.weights_bytes,
        buffers_bytes=loaded.buffers_bytes,
        baseline_bytes=warm.baseline_bytes,
        held_bytes=warm.held_bytes,
        held=warm.held,
        cold=None if cold is None else cold.peak,
        warm=warm.peak,
        site=warm.site if cold is None else cold.site,
        kernels=kernels or observed_kernels(loaded, workload),
        setup_s=round(warm.setup_s, 4),
        cold_s=None if cold is None else round(cold.forward_s, 4),
        warm_s=round(warm.forward_s, 4),
        neighbour_bytes=neighbour_bytes,
        vision=vision,
    )


def _run(loaded: runtime.Loaded, workload: Workload, progress: Progress, step: str, watch_stages: bool) -> _Run:
    device = loaded.device
    device.release()
    began = perf_counter()
    with device.recording(loaded.model, watch_stages) as recording:
        baseline_bytes = recording.requested_bytes()
        progress.step = "cache"
        live = runtime.prepare(loaded, workload)
        device.release()
        recording.start()
        progress.step = step
        ready = perf_counter()
        runtime.forward(loaded, workload, live)
        device.synchronize()
        done = perf_counter()
        peak, site = recording.finish()
        held_bytes, held = recording.requested_bytes(), runtime.held(live)
        del live
    return _Run(
        baseline_bytes=baseline_bytes,
        held_bytes=held_bytes,
        held=held,
        peak=peak,
        site=site,
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
    with device.recording(loaded.model, watch_stages=False) as recording:
        _ids, media = runtime.with_images(loaded, workload)
        device.release()
        before_bytes = recording.requested_bytes()
        recording.start()
        result, embeddings = runtime.see(loaded, media)
        device.synchronize()
        peak, _site = recording.finish()
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
    """The event log of one workload, on a device that records one; ``filled`` as for ``runtime.prepare``."""
    device = loaded.device
    device.release()
    with device.recording(loaded.model, watch_stages=True) as recording:
        live = runtime.prepare(loaded, workload, filled)
        device.release()
        recording.start()
        runtime.forward(loaded, workload, live, recording.call)
        recording.finish()
        log = recording.log()
        del live
    return log
