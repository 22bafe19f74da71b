"""A model run under a release: the real thing on an emulated card, in a process that finds the release first."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.replayed import small_config
from tests.test_overlays import unpacked
from vram_ledger.analysis.derivation.derived_files import configuration_of
from vram_ledger.analysis.versions.observed import observed, software_of
from vram_ledger.analysis.versions.steps import peak_bytes
from vram_ledger.harness.records import Phase, Workload
from vram_ledger.harness.runtimes import transformers as runtime
from vram_ledger.harness.versions.running import Job, Phased, run_under

PHASES: tuple[Phase, ...] = ("prefill", "decode")


def ran(folder: Path, overlay: tuple[Path, ...] = ()) -> dict[Phase, Phased]:
    """Two shapes of a model of four layers, in both phases."""
    config = small_config(folder)
    configuration = configuration_of(config.stem, "text-reference")
    workloads = {
        phase: tuple(Workload(configuration=configuration, phase=phase, context_tokens=c, batch=1) for c in (128, 256))
        for phase in PHASES
    }
    ((_, phases),) = run_under(
        overlay, [Job(config_file=config, configuration=configuration, workloads=workloads)], "l4"
    )
    return phases


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> dict[Phase, Phased]:
    return ran(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("phase", PHASES)
def test_record_of_a_run_closes_to_the_byte(phases: dict[Phase, Phased], phase: Phase) -> None:
    p = phases[phase]
    assert "" == p.failed
    record = observed(phase, p.failed, p.kernels, p.fits, p.log)
    assert [128, 256] == [point.context_tokens for point in record.points]
    assert record.points[-1].requested_bytes == peak_bytes(record)
    assert all(q.requested_bytes <= q.allocated_bytes <= q.reserved_bytes for q in record.points)


def test_kernels_that_were_asked_for_are_those_that_ran(phases: dict[Phase, Phased]) -> None:
    kernels = phases["prefill"].kernels
    assert kernels is not None
    assert (kernels.delta_rule or "").endswith("torch_chunk_gated_delta_rule")


def test_a_release_that_cannot_build_the_model_says_so(tmp_path: Path) -> None:
    """A folder whose "transformers" has no such model is on the path first."""
    release = unpacked(tmp_path, "transformers", "4.0.0")
    phases = ran(tmp_path, (release,))
    assert {"the model can't be built"} == {p.failed.partition(":")[0] for p in phases.values()}
    assert all("Qwen3_5Config" in p.failed for p in phases.values())
    assert {"4.0.0"} == {software_of(p.environment).transformers for p in phases.values() if p.environment}


class Bare:
    """A cache as the family's own was up to transformers 5.4: lists that layers write to; keys are kept as given."""

    def __init__(self, layers: int) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.conv_states: list[torch.Tensor | None] = [None] * layers
        self.recurrent_states: list[torch.Tensor | None] = [None] * layers

    def update(self, keys: torch.Tensor, values: torch.Tensor, index: int) -> None:
        self.keys.append(keys)
        self.values.append(values)


def test_a_cache_of_bare_lists_is_filled_as_a_prefill_leaves_it(tmp_path: Path) -> None:
    config = json.loads(small_config(tmp_path).read_text(encoding="utf-8"))["text_config"]
    configuration = configuration_of("small", "text")
    loaded: Any = SimpleNamespace(
        text_config=SimpleNamespace(**config), configuration=configuration, device=SimpleNamespace(name="cpu")
    )
    cache = Bare(len(config["layer_types"]))
    runtime._fill(loaded, Workload(configuration=configuration, phase="decode", context_tokens=5, batch=2), cache)
    full = config["layer_types"].count("full_attention")
    assert full == len(cache.keys) > 0
    assert all(k.data_ptr() != v.data_ptr() for k, v in zip(cache.keys, cache.values, strict=True))
    linear = [n for n, kind in enumerate(config["layer_types"]) if kind == "linear_attention"]
    assert {torch.float32} == {s.dtype for n in linear if (s := cache.recurrent_states[n]) is not None}
    assert len(linear) == sum(state is not None for state in cache.conv_states)
