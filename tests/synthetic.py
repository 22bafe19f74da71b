"""Results made from known forms instead of a device.

The forms are the peaks of the 27B text-only class as derived from its allocations, for torch 2.11.0, transformers
5.17.0 and fla 0.6.0; the decode of one sequence, for which there is no published form, has one that is made up.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from tests import conftest
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.formula.terms import predict
from vram_ledger.harness.lines import to_line
from vram_ledger.harness.records import (
    Configuration,
    Environment,
    Held,
    Kernels,
    Measured,
    Measurement,
    Peak,
    PeakSite,
    Phase,
    ResultsFile,
    Workload,
)

CONFIG = conftest.CONFIGS / "models" / f"{conftest.BIG}.json"
SHAPES = read_shapes(CONFIG)
STATE_27B, CACHE_27B = 154_927_104, 65_536  # bytes a sequence, bytes a token
CONTEXTS = (512, 1000, 4097, 16384, 32768)
BATCHES = (1, 2, 8)

CONFIGURATION = dataclasses.replace(conftest.CONFIGURATION, model_class="Qwen3_5ForCausalLM")
ENVIRONMENT = Environment(
    device="fake",
    gpu_label="fake-h100",
    gpu_name=None,
    gpu_uuid=None,
    gpu_total_bytes=None,
    gpu_capability="9.0",
    mig=None,
    driver=None,
    cuda=None,
    torch="2.11.0",
    transformers="5.17.0",
    triton="3.6.0",
    fla="0.6.0",
    causal_conv1d=None,
    allocator_settings="",
    allocator=(),
    weights="random",
    config_sha256=hashlib.sha256(CONFIG.read_bytes()).hexdigest(),
    grid_sha256="0" * 64,
    python="3.11.9",
    platform="Linux",
)


def workload(phase: Phase, batch: int, tokens: int, configuration: Configuration = CONFIGURATION) -> Workload:
    """A workload of the synthetic campaign."""
    return Workload(configuration=configuration, phase=phase, context_tokens=tokens, batch=batch)


def workloads(configuration: Configuration = CONFIGURATION) -> list[Workload]:
    """The campaign's grid: both phases at every context and batch."""
    phases: tuple[Phase, ...] = ("prefill", "decode")
    return [workload(p, b, t, configuration) for p in phases for t in CONTEXTS for b in BATCHES]


def transient(w: Workload) -> tuple[int, PeakSite]:
    """Bytes beyond what is held, of the highest form at this shape, and the site of that form."""
    b, t = w.batch, w.context_tokens
    if w.phase == "prefill":
        forms = [
            (
                STATE_27B * b + 242_976 * b * t + 1_572_864 * b * -(-t // 64) + 8 * t,
                "empty_like",
                "fla/ops/chunk.py:88",
            ),
            (158_072_832 * b + 224_160 * b * t + 8 * t, "silu", "transformers/modeling_qwen3_5.py:601"),
        ]
    elif b == 1:
        forms = [(155_400_000 + 67_592 * t, "cat", "transformers/cache_utils.py:99")]
    else:
        forms = [
            (158_296_992 * b + 65_544 * b * t + 8, "silu", "transformers/modeling_qwen3_5.py:601"),
            (155_499_520 * b + 67_592 * b * t, "mm", "transformers/modeling_qwen3_5.py:701"),
        ]
    peak, op, source = max(forms)
    site = PeakSite(stage="linear_attn", op=op, module="model.layers.62", source=source, largest=())
    return peak - STATE_27B * b - CACHE_27B * b * t, site


def measured(w: Workload, terms: dict[str, int], noise: int = 0, **changes: object) -> Measured:
    """The record of a workload that holds these terms; ``noise`` is added to its transient."""
    held = Held(**{f"{name}_bytes": value for name, value in terms.items() if name != "weights"})
    baseline = terms["weights"] + 4096
    extra, site = transient(w)
    cache_before = held.kv_cache_bytes
    if w.configuration.cache == "dynamic":
        cache_before = cache_before * w.context_tokens // w.cached_tokens
    states = held.recurrent_state_bytes + held.conv_state_bytes
    peak = baseline + held.inputs_bytes + cache_before + states + extra + noise
    record = Measured(
        weights_bytes=terms["weights"],
        buffers_bytes=4096,
        baseline_bytes=baseline,
        held_bytes=baseline + held.total_bytes,
        held=held,
        cold=None,
        warm=Peak(
            requested_bytes=peak, allocated_bytes=None, reserved_bytes=None, process_bytes=None, device_bytes=None
        ),
        site=site,
        kernels=Kernels(delta_rule="fla.ops.chunk", convolution="torch", attention="flash", norm="fla"),
        setup_s=0.1,
        cold_s=None,
        warm_s=1.0,
        neighbour_bytes=None,
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def campaign(
    terms_of: Callable[[Workload], dict[str, int]] = lambda w: predict(SHAPES, w),
    *,
    points: Iterable[Workload] | None = None,
    environment: Environment = ENVIRONMENT,
    noise_bytes: int = 0,
    seed: int = 0,
) -> ResultsFile:
    """A results file in memory; ``noise_bytes`` is the standard deviation of noise on every transient."""
    chance = random.Random(seed)
    lines = [
        Measurement(workload=w, repeat=0, outcome=measured(w, terms_of(w), round(chance.gauss(0, noise_bytes))))
        for w in (workloads() if points is None else points)
    ]
    path = Path("qwen3.5-27b.jsonl")
    return ResultsFile(path=path, environment=environment, measurements=tuple(lines), standards=())


def on_card(results: ResultsFile, label: str = "h100") -> ResultsFile:
    """The same bytes as if a card had counted them."""
    environment = dataclasses.replace(
        results.environment, device="cuda", gpu_label=label, gpu_name="NVIDIA H100", gpu_uuid="0c1e",
        gpu_total_bytes=85_000_000_000, driver="580.1", cuda="13.0",
    )  # fmt: skip
    lines = []
    for line in results.measurements:
        assert isinstance(line.outcome, Measured)
        counted = line.outcome.warm.requested_bytes
        warm = dataclasses.replace(line.outcome.warm, allocated_bytes=counted, reserved_bytes=counted)
        lines.append(dataclasses.replace(line, outcome=dataclasses.replace(line.outcome, warm=warm)))
    return dataclasses.replace(results, environment=environment, measurements=tuple(lines))


def reshaped(**changes: int) -> Callable[[Workload], dict[str, int]]:
    """The terms of a model that differs from the 27B in these shapes."""
    changed: Shapes = dataclasses.replace(SHAPES, **changes)  # type: ignore[arg-type]
    return lambda w: predict(changed, w)


def revalued(**factors: float) -> Callable[[Workload], dict[str, int]]:
    """The terms of the 27B, some of them multiplied."""
    return lambda w: {name: int(value * factors.get(name, 1)) for name, value in predict(SHAPES, w).items()}


def write(results: ResultsFile, path: Path) -> Path:
    """The results as a file at ``path``."""
    standards, measurements = map(to_line, results.standards), map(to_line, results.measurements)
    path.write_text("".join((to_line(results.environment), *standards, *measurements)), encoding="utf-8")
    return path
