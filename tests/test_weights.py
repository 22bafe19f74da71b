"""A real checkpoint directory is loaded in place of random weights, and takes the same bytes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, CONFIGURATION, DEADLINE_S, NANO, Ask
from vram_ledger.harness.child import Child
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.models import checkpoint_of
from vram_ledger.harness.records import Measured, Workload, decode, encode

NANO_CONFIG = CONFIGS / "models" / f"{NANO}.json"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest model with an MTP-free, sharded layout, as ``save_pretrained`` writes it."""
    import torch
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("checkpoint")
    config = Qwen3_5Config.from_json_file(str(NANO_CONFIG))
    model = Qwen3_5ForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="3MB")
    return folder


def loaded(model_class: Any, weights: Path) -> Measured:
    """A small prefill on real CPU tensors, the weights read from a checkpoint."""
    configuration = dataclasses.replace(
        CONFIGURATION, model=NANO, model_class=model_class, kernels="torch", attention="eager"
    )
    order = {
        "device": "cpu",
        "answer_as": encode(labelled(read_gpus(CONFIGS / "gpus.toml"), "h200")[0]),
        "configuration": encode(configuration),
        "config_file": str(NANO_CONFIG),
        "weights": str(weights),
    }
    child = Child.alone(order)
    try:
        child.ask({"do": "build"}, DEADLINE_S)
        workload = Workload(configuration=configuration, phase="prefill", context_tokens=70, batch=1)
        answer: Measured = decode(Measured, child.ask({"do": "measure", "workload": encode(workload)}, DEADLINE_S))
        return answer
    finally:
        child.close()


@pytest.mark.parametrize("model_class", ["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"])
def test_loaded_weights_take_the_bytes_of_random_ones(ask: Ask, checkpoint: Path, model_class: str) -> None:
    builds = ask(device="cpu", model=NANO, kernels="torch", attention="eager", model_class=model_class)
    random, read = builds.measure("prefill", 1, 70), loaded(model_class, checkpoint)
    assert (random.weights_bytes, random.warm) == (read.weights_bytes, read.warm)


def test_checkpoint_is_named_by_its_files(checkpoint: Path) -> None:
    name = checkpoint_of(checkpoint, NANO_CONFIG)
    assert (True, 23) == (name.startswith("checkpoint "), len(name))
