"""Replays of a model small enough to be replayed hundreds of times: four layers of the scaled-down one."""

import json
from pathlib import Path
from typing import Any

from tests.conftest import CONFIGS, NANO
from vram_ledger.analysis.derivation.derived_files import configuration_of
from vram_ledger.analysis.derivation.replays import NotReplayed
from vram_ledger.harness.asked import with_room
from vram_ledger.harness.child import Child
from vram_ledger.harness.emulation.profile import emulation_of, profile_of
from vram_ledger.harness.events import EventLog, unpack
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.grid import read_grid
from vram_ledger.harness.records import Configuration, Environment, Kernels, Measured, Workload, decode, encode
from vram_ledger.harness.replay import Replays
from vram_ledger.harness.runner import Plan
from vram_ledger.harness.splits import Heads

LAYERS = 4
HEADS = Heads(queries=8, keys=4, dim=32)
SMALL = "qwen3.5-4l-nano"


def small_config(folder: Path) -> Path:
    """The config file of the small model."""
    config = json.loads((CONFIGS / "models" / f"{NANO}.json").read_text(encoding="utf-8"))
    text = config["text_config"]
    text["num_hidden_layers"], text["layer_types"] = LAYERS, text["layer_types"][:LAYERS]
    path = folder / f"{SMALL}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


class Answers:
    """The harness's replays, asked without a process of its own between; see ``analysis.derivation.replays``."""

    def __init__(self, config: Path, module: str = "vram_ledger.harness.worker") -> None:
        card = labelled(read_gpus(CONFIGS / "gpus.toml"), "a100-80gb")[0]
        plan = Plan(
            grid=read_grid(CONFIGS / "grids" / "default.toml", SMALL),
            config_file=config,
            device="emulated",
            answer_as=card,
            weights=None,
            budget_s=0,
            emulation=emulation_of((profile_of(card),)),
        )
        plan = with_room(plan)
        self.replays = Replays(plan, lambda order: Child.alone(order, module, plan.variables))
        self.environment: Environment = self.replays.environment(small("text"))

    def log(self, workload: Workload) -> EventLog:
        """The workload's event log."""
        return unpack(self._ask("log", workload))

    def kernels(self, workload: Workload) -> Kernels:
        """The implementations that run."""
        kernels: Kernels = decode(Kernels, self._ask("kernels", workload))
        return kernels

    def measured(self, workload: Workload) -> Measured:
        """What a card counts of the workload."""
        child = self.replays._worker(workload.configuration)
        measured: Measured = decode(Measured, child.ask({"do": "measure", "workload": encode(workload)}, 60))
        return measured

    def built(self, workload: Workload) -> list[int]:
        """What building the model asks of the allocator."""
        return list(self._ask("built", workload))

    def _ask(self, what: str, workload: Workload) -> Any:
        answer = self.replays.answer({what: encode(workload)})
        if "refused" in answer:
            raise NotReplayed(answer["refused"])
        return answer[what]


def small(variant: str) -> Configuration:
    """A configuration of the small model."""
    return configuration_of(SMALL, variant)
