"""From what a person asked for to a plan: the card, the model, the grid; and whether all of it is on file already."""

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.child import Child, Nurseries, WorkerFailed
from vram_ledger.harness.emulation.profile import Emulation, emulation_of, profile_of
from vram_ledger.harness.emulation.wheel import NoEmulation
from vram_ledger.harness.gpus import Gpu, identified, labelled, read_gpus
from vram_ledger.harness.grid import named_file, read_grid
from vram_ledger.harness.lines import read
from vram_ledger.harness.machine import allocator_settings, card_there, first_card, software_installed
from vram_ledger.harness.models import checkpoint_of, model_file, sha256_of
from vram_ledger.harness.records import DeviceKind, Environment, RecordError, Workload, encode
from vram_ledger.harness.results import ResultsWriter, check_writable, open_results, results_path
from vram_ledger.harness.runner import (
    BUILD_DEADLINE_S,
    NotOnFile,
    Plan,
    Start,
    describe,
    environment_of,
    final_standard,
    has_allocator,
    no_worker,
    survey,
)
from vram_ledger.home import GPUS, GRIDS, MODELS

ROOMY_BYTES = 2 * 10**12  # an emulated card has addresses for 2 TiB
NEEDED = ("torch", "transformers")
MOST_PRETENDED_BYTES = 2**41  # as many addresses has the emulated card (ARENA of emulation/stubs/card.c)
DEFAULT_MODEL, DEFAULT_GRID, DEFAULT_CARD = "qwen3.5-27b", "default", "h200"


class Ran(Protocol):
    """What a run says of itself: how many lines it added to the file."""

    @property
    def measured_now(self) -> int:
        """Lines that were not there before."""


R = TypeVar("R", bound=Ran)
Run = Callable[[Plan, ResultsWriter, Start], R]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a campaign is to run: at most one of the three labels of cards, a model, a grid, a checkpoint, seconds.

    memory_bytes: what an emulated card is to have instead of its own; 0: its own.
    """

    gpu: str = ""
    emulate: str = ""
    fake: str = ""
    compiled: bool = False
    model: str = DEFAULT_MODEL
    grid: str = DEFAULT_GRID
    weights: str = ""
    budget: str = "0"
    memory_bytes: int = 0


def plan_of(asked: Asked, tell: Callable[[str], None] = lambda line: None) -> Plan:
    """Everything that was asked for, checked before any process is started.

    ``tell`` hears why no card is emulated where one would have been. :class:`InputError`, :class:`WrongEnvironment`.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise WrongEnvironment(
            f"{' and '.join(missing)} can't be imported; measuring takes pip install 'vram-ledger[measure]'"
        )
    gpus = read_gpus(GPUS)
    given = {
        name: label for name, label in (("GPU", asked.gpu), ("EMULATE", asked.emulate), ("FAKE", asked.fake)) if label
    }
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(f'{k}={v}' for k, v in given.items())} contradict each other; give one of them"
        )
    card = one_card(gpus, "EMULATE" if asked.emulate else "FAKE", asked.emulate or asked.fake or DEFAULT_CARD)
    if asked.memory_bytes:
        card = _pretending(card, asked)
    if asked.gpu:
        labelled(gpus, asked.gpu)
    config_file = model_file(MODELS, asked.model)
    grid = read_grid(named_file(GRIDS, asked.grid, ".toml", "grid"), config_file.stem)
    budget_s = _seconds(asked.budget)
    device, emulation = _device(asked, card, tell)
    if asked.compiled and device != "emulated":
        raise InputError("COMPILE=1 is for an emulated card; on a card kernels are always compiled, on a replay never")
    return Plan(
        grid=grid,
        config_file=config_file,
        device=device,
        answer_as=card,
        weights=_weights(asked.weights, device, config_file),
        budget_s=budget_s,
        emulation=emulation,
        compiled=asked.compiled,
    )


def with_room(plan: Plan) -> Plan:
    """The same plan; an emulated card has as much memory as its addresses allow, so that any shape can be looked at."""
    if plan.emulation is None:
        return plan
    card = dataclasses.replace(profile_of(plan.answer_as), total_bytes=ROOMY_BYTES)
    return dataclasses.replace(plan, emulation=emulation_of((card,), plan.compiled))


def one_card(gpus: tuple[Gpu, ...], variable: str, label: str) -> Gpu:
    """The only card that a label stands for; :class:`InputError` names the others. ``variable``: where it was given."""
    cards = labelled(gpus, label)
    if len(cards) > 1:
        raise InputError(f"{variable}={label} can be {' or '.join(g.label for g in cards)}; say which")
    return cards[0]


def _pretending(card: Gpu, asked: Asked) -> Gpu:
    """The card with another memory than it has."""
    if not asked.emulate:
        raise InputError("MEMORY is what an emulated card is to have; say which with EMULATE")
    if asked.memory_bytes > MOST_PRETENDED_BYTES:
        raise InputError(
            f"MEMORY is at most {MOST_PRETENDED_BYTES // 2**30:,} GiB: an emulated card has no more addresses"
        )
    return dataclasses.replace(card, total_bytes=asked.memory_bytes, total_from="MEMORY")


def _device(asked: Asked, card: Gpu, tell: Callable[[str], None]) -> tuple[DeviceKind, Emulation | None]:
    """What to run on: as asked; else the card that is there, else an emulated one, else the fake device."""
    if asked.fake:
        return "fake", None
    if asked.gpu or (card_there() and not asked.emulate):
        if not card_there():
            raise WrongEnvironment(
                f"GPU={asked.gpu} asks for a card, and the driver shows none; without GPU `make measure` emulates one"
            )
        return "cuda", None
    try:
        return "emulated", emulation_of((profile_of(card),), asked.compiled)
    except NoEmulation as missing:
        if asked.emulate:
            raise WrongEnvironment(f"EMULATE={asked.emulate}: {missing}") from missing
        tell(f"No card is emulated: {missing}.")
        return "fake", None


def _weights(given: str, device: DeviceKind, config_file: Path) -> Path | None:
    """The checkpoint to read, if one was given and there is a device that holds values."""
    if not given:
        return None
    if device == "fake":
        raise WrongEnvironment("WEIGHTS are read on a card only; the fake device replays shapes and holds no values")
    checkpoint_of(Path(given), config_file)
    return Path(given)


def _seconds(budget: str) -> float:
    """A budget in seconds; 0 is none."""
    try:
        seconds = float(budget)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"BUDGET must be seconds, 0 or more, got {budget!r}")
    return seconds


def on_file(
    plan: Plan, asked: str, results: Path, say: Callable[[Environment], None], run: Run[R]
) -> tuple[Path, R] | None:
    """The results file of this very campaign if ``run`` finds nothing missing in it; found without importing torch.

    ``asked``: the label of a real card. :class:`WrongEnvironment` if the card that is there, and on file, is not it.
    """
    fields = _own_fields(plan) | software_installed() | {"device": plan.device}
    fields["allocator_settings"] = allocator_settings() if has_allocator(plan) else ""
    if plan.device == "cuda":
        fields |= first_card()
        if "gpu_uuid" not in fields:
            return None
    else:
        card = plan.answer_as
        fields |= {"gpu_label": _pretended(plan), "gpu_name": card.names[0], "gpu_capability": card.capability}
    folder = fields.get("gpu_label", "*")
    for path in sorted(results.glob(f"{folder}/{plan.grid.name}/{plan.config_file.stem}.{plan.device}.*.jsonl")):
        try:
            environment = read(path).environment
        except RecordError:  # not ours, or not whole: whoever writes to it will say so
            continue
        if any(getattr(environment, name) != value for name, value in fields.items()):
            continue
        if plan.device == "cuda":
            _environment(plan, asked, encode(environment))
        with open_results(path, environment) as writer:
            try:
                summary = run(plan, writer, no_worker)
            except NotOnFile:
                continue
        say(environment)
        return path, summary
    return None


def measured(
    plan: Plan,
    asked: str,
    results: Path,
    say: Callable[[Environment], None],
    run: Run[R],
) -> tuple[Path, R]:
    """Measures what is not on file: the environment, the check standard of a card, the campaign by ``run``."""
    own = f"{plan.config_file.stem}.{plan.device}.*.jsonl"
    check_writable(results if plan.device == "cuda" else results / _pretended(plan) / plan.grid.name, own)
    nurseries = Nurseries(variables=plan.variables)
    try:
        found, standard = survey(plan, nurseries.start)
        environment = _environment(plan, asked, found)
        say(environment)
        path = results_path(results, plan.grid.name, plan.config_file.stem, environment)
        with open_results(path, environment) as writer:
            if standard is not None:
                writer.append(standard)
            summary = run(plan, writer, nurseries.start)
            if standard is not None and summary.measured_now:
                writer.append(final_standard(plan, nurseries.start))
    finally:
        nurseries.close()
    return path, summary


def _pretended(plan: Plan) -> str:
    """The label of what a card is only pretended on."""
    return f"{plan.device}-{plan.answer_as.label}"


def _own_fields(plan: Plan) -> dict[str, Any]:
    """The environment's fields that the parent knows."""
    return {
        "weights": "random" if plan.weights is None else checkpoint_of(plan.weights, plan.config_file),
        "config_sha256": sha256_of(plan.config_file),
        "grid_sha256": "" if plan.grid.path is None else sha256_of(plan.grid.path),
        "emulation": None if plan.emulation is None else plan.emulation.digest,
        "compiled": plan.compiled,
    }


def _environment(plan: Plan, asked: str, found: dict[str, Any]) -> Environment:
    """The environment that was found, if it is the one that was asked for."""
    if plan.device == "cuda":
        gpus = read_gpus(GPUS)
        label = identified(gpus, asked or None, found["gpu_name"], found["gpu_total_bytes"], found["mig"]).label
    else:
        label = _pretended(plan)
    return environment_of(found, gpu_label=label, **_own_fields(plan))


def answer_about(plan: Plan, what: str, workload: Workload) -> Any:
    """What a worker that built the model answers to the command ``what`` ("log", "history") for one workload."""
    order = plan.order(workload.configuration) | {"recorded": what == "history"}
    child = Child.alone(order, variables=plan.variables)
    try:
        child.ask({"do": "build"}, BUILD_DEADLINE_S)
        return child.ask({"do": what, "workload": encode(workload)}, plan.grid.deadline_s)
    except WorkerFailed as failed:
        raise InputError(f"{describe(workload)} can't be run: {failed}") from failed
    finally:
        child.close()
