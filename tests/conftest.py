"""Worker processes shared by the tests: building one costs seconds, asking it costs a half."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vram_ledger.harness.child import Child
from vram_ledger.harness.emulation.profile import emulation_of, profile_of
from vram_ledger.harness.events import EventLog
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.machine import card_there
from vram_ledger.harness.records import Configuration, Measured, Workload, decode, encode

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DEADLINE_S = 240
MOST_WORKERS = 6  # each takes half a gigabyte
BIG, NANO = "qwen3.5-27b", "qwen3.5-64l-nano"

CONFIGURATION = Configuration(
    model=BIG,
    model_class="Qwen3_5ForConditionalGeneration",
    dtype="bfloat16",
    kernels="fla",
    attention="sdpa",
    cache="dynamic",
    logits="last",
    prefill_chunk_tokens=0,
)


class Asked:
    """A built worker, asked in terms of records."""

    def __init__(self, configuration: Configuration, device: str, gpu: str, module: str) -> None:
        self.configuration = configuration
        card = labelled(read_gpus(CONFIGS / "gpus.toml"), gpu)[0]
        order = {
            "device": device,
            "answer_as": encode(card),
            "configuration": encode(configuration),
            "config_file": str(CONFIGS / "models" / f"{configuration.model}.json"),
            "weights": None,
        }
        variables = emulation_of((profile_of(card),)).variables if device == "emulated" else {}
        self.child = Child.alone(order, module, variables)
        self.child.ask({"do": "build"}, DEADLINE_S)

    def workload(self, phase: Any, batch: int, context: int, **axes: Any) -> Workload:
        """A workload of this worker's build; ``axes`` change the configuration."""
        configuration = dataclasses.replace(self.configuration, **axes)
        return Workload(configuration=configuration, phase=phase, context_tokens=context, batch=batch)

    def measure(self, phase: str, batch: int, context: int, **axes: Any) -> Measured:
        """What the worker measures."""
        workload = self.workload(phase, batch, context, **axes)
        answer: Measured = decode(Measured, self.child.ask({"do": "measure", "workload": encode(workload)}, DEADLINE_S))
        return answer

    def log(self, phase: str, batch: int, context: int, filled: bool = True, **axes: Any) -> EventLog:
        """The event log that the worker records."""
        workload = encode(self.workload(phase, batch, context, **axes))
        answer: EventLog = decode(
            EventLog, self.child.ask({"do": "log", "workload": workload, "filled": filled}, DEADLINE_S)
        )
        return answer


Ask = Callable[..., Asked]


@pytest.fixture(scope="session")
def ask() -> Iterator[Ask]:
    """Gives a worker for a build, the same one each time it is asked for while it is among the last few."""
    workers: dict[Any, Asked] = {}

    def worker(
        device: str = "fake", gpu: str = "h200", module: str = "vram_ledger.harness.worker", **fields: Any
    ) -> Asked:  # fmt: skip
        configuration = dataclasses.replace(CONFIGURATION, **fields)
        key = (configuration, device, gpu, module)
        asked = workers.pop(key, None) or Asked(configuration, device, gpu, module)
        workers[key] = asked  # the last one asked for stands last
        if len(workers) > MOST_WORKERS:
            workers.pop(next(iter(workers))).child.close()
        return asked

    yield worker
    for asked in workers.values():
        asked.child.close()


@pytest.fixture(scope="session")
def no_card() -> None:
    """Skips where there is a card: the test is about a machine without one."""
    if card_there():
        pytest.skip("there is a CUDA card here")
