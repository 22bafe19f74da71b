"""``python -m harness``: runs campaigns, and writes event logs. ``--help`` says how; the README, what comes of it."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.child import Child, Nurseries, WorkerFailed
from harness.emulate import print_ran, run
from harness.emulation.profile import Emulation, emulation_of, profile_of
from harness.emulation.wheel import NoEmulation
from harness.gpus import Gpu, identified, labelled, read_gpus
from harness.grid import Grid, named_file, read_grid
from harness.inputs import InputError, WrongEnvironment
from harness.machine import allocator_settings, card_there, first_card, software_installed
from harness.models import checkpoint_of, model_file, sha256_of
from harness.profile import section_text, store, take
from harness.records import DeviceKind, Environment, ModelClass, RecordError, encode, read
from harness.replay import Replays, serve
from harness.results import ResultsWriter, open_results, results_path
from harness.runner import (
    BUILD_DEADLINE_S,
    Campaign,
    Plan,
    Start,
    Summary,
    complete,
    describe,
    environment_of,
    final_standard,
    has_allocator,
    survey,
)
from harness.summary import measurements_tables

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RESULTS = Path(__file__).resolve().parents[1] / "results"
DEFAULT_MODEL, DEFAULT_GRID, DEFAULT_CARD = "qwen3.5-27b", "default", "h200"
EXIT_FAULT, EXIT_BAD_INPUT, EXIT_ENVIRONMENT = 1, 2, 3

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

GpuOption = Annotated[str, typer.Option(help="Label of the card that must be there, such as a100 or rtx-4090.")]
FakeOption = Annotated[str, typer.Option(help="Use the fake device even if there is a card, answering as this one.")]
EmulateOption = Annotated[str, typer.Option(help="Emulate this card, whether or not there is one in the machine.")]
ModelOption = Annotated[str, typer.Option(help="Name in configs/models, or path of a config.json.")]
GridOption = Annotated[str, typer.Option(help="Name in configs/grids, or path of a grid file.")]
WeightsOption = Annotated[str, typer.Option(help="Checkpoint directory to load instead of random weights.")]


@contextmanager
def exits() -> Iterator[None]:
    """Turns the errors that a user can mend into one line and an exit code; anything else is a defect and shows."""
    try:
        yield
    except (InputError, RecordError) as error:
        _leave(EXIT_BAD_INPUT, f"bad input: {error}")
    except WrongEnvironment as error:
        _leave(EXIT_ENVIRONMENT, f"environment not as asked: {error}")


def _leave(code: int, why: str) -> None:
    print(f"exit {code}: {why}", file=sys.stderr)
    raise SystemExit(code)


@app.callback()
def main() -> None:
    """Measure the memory of hybrid models on a GPU, or replay their allocations without one."""


@app.command()
def measure(
    gpu: GpuOption = "",
    emulate: EmulateOption = "",
    fake: FakeOption = "",
    model: ModelOption = DEFAULT_MODEL,
    grid: GridOption = DEFAULT_GRID,
    weights: WeightsOption = "",
    budget: Annotated[str, typer.Option(help="Seconds after which no workload is started; 0: no limit.")] = "0",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    compile_kernels: Annotated[
        bool, typer.Option("--compile", help="On an emulated card: compile and tune Triton's kernels for real.")
    ] = False,
    path_to: Annotated[
        str, typer.Option(help="File to write two lines to, for the next command: the results file and the config.")
    ] = "",
) -> None:
    """Run a campaign, or the rest of one, and append every measurement to its results file."""
    with exits():
        gpus = read_gpus(CONFIGS / "gpus.toml")
        plan = _plan(gpus, Asked(gpu=gpu, emulate=emulate, fake=fake, compiled=compile_kernels), model, grid)
        plan = dataclasses.replace(plan, weights=_weights(weights, plan), budget_s=_seconds(budget))
        path, summary = _on_file(plan, gpus, gpu, results) or _measured(plan, gpus, gpu, results)
        console.print(measurements_tables(read(path)))
        if path_to:
            Path(path_to).write_text(f"{path}\n{plan.config_file}\n", encoding="utf-8")
        _conclude(summary, plan.grid, path)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a campaign is to run on; at most one of the three labels is given."""

    gpu: str = ""
    emulate: str = ""
    fake: str = ""
    compiled: bool = False


def _plan(gpus: tuple[Gpu, ...], asked: Asked, model: str, grid: str) -> Plan:
    """Everything that was asked for, checked before any process is started."""
    given = {
        name: label for name, label in (("GPU", asked.gpu), ("EMULATE", asked.emulate), ("FAKE", asked.fake)) if label
    }
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(f'{k}={v}' for k, v in given.items())} contradict each other; give one of them"
        )
    card = _one_card(gpus, "EMULATE" if asked.emulate else "FAKE", asked.emulate or asked.fake or DEFAULT_CARD)
    if asked.gpu:
        labelled(gpus, asked.gpu)
    config_file = model_file(CONFIGS / "models", model)
    grid_read = read_grid(named_file(CONFIGS / "grids", grid, ".toml", "grid"), config_file.stem)
    device, emulation = _device(asked, card)
    if asked.compiled and device != "emulated":
        raise InputError("COMPILE=1 is for an emulated card; on a card kernels are always compiled, on a replay never")
    return Plan(
        grid=grid_read,
        config_file=config_file,
        device=device,
        answer_as=card,
        weights=None,
        budget_s=0,
        emulation=emulation,
        compiled=asked.compiled,
    )


def _one_card(gpus: tuple[Gpu, ...], variable: str, label: str) -> Gpu:
    cards = labelled(gpus, label)
    if len(cards) > 1:
        raise InputError(f"{variable}={label} can be {' or '.join(g.label for g in cards)}; say which")
    return cards[0]


def _device(asked: Asked, card: Gpu) -> tuple[DeviceKind, Emulation | None]:
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
        console.print(f"No card is emulated: {missing}.", style="yellow", soft_wrap=True)
        return "fake", None


def _weights(given: str, plan: Plan) -> Path | None:
    """The checkpoint to read, if one was given and there is a device that holds values."""
    if not given:
        return None
    if plan.device == "fake":
        raise WrongEnvironment("WEIGHTS are read on a card only; the fake device replays shapes and holds no values")
    checkpoint_of(Path(given), plan.config_file)
    return Path(given)


def _on_file(plan: Plan, gpus: tuple[Gpu, ...], asked: str, results: Path) -> tuple[Path, Summary] | None:
    """The results file of this very campaign if nothing is missing in it; found without importing torch.

    :class:`WrongEnvironment` if the card that is there, and on file, is not the one that was asked for.
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
            _environment(plan, gpus, asked, encode(environment))
        with open_results(path, environment) as writer:
            if summary := complete(plan, writer):
                _say_where(environment)
                return path, summary
    return None


def _pretended(plan: Plan) -> str:
    """The label of what a card is only pretended on."""
    return f"{plan.device}-{plan.answer_as.label}"


def _own_fields(plan: Plan) -> dict[str, Any]:
    """The environment's fields that the parent knows."""
    return {
        "weights": "random" if plan.weights is None else checkpoint_of(plan.weights, plan.config_file),
        "config_sha256": sha256_of(plan.config_file),
        "grid_sha256": sha256_of(plan.grid.path),
        "emulation": None if plan.emulation is None else plan.emulation.digest,
        "compiled": plan.compiled,
    }


def _measured(plan: Plan, gpus: tuple[Gpu, ...], asked: str, results: Path) -> tuple[Path, Summary]:
    """Measures what is not on file."""
    nurseries = Nurseries(variables=plan.variables)
    try:
        found, standard = survey(plan, nurseries.start)
        environment = _environment(plan, gpus, asked, found)
        _say_where(environment)
        path = results_path(results, plan.grid.name, plan.config_file.stem, environment)
        with open_results(path, environment) as writer:
            if standard is not None:
                writer.append(standard)
            summary = _run(plan, writer, nurseries.start)
            if standard is not None and summary.measured_now:
                writer.append(final_standard(plan, nurseries.start))
    finally:
        nurseries.close()
    return path, summary


def _seconds(budget: str) -> float:
    """A budget in seconds; 0 is none."""
    try:
        seconds = float(budget)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"BUDGET must be seconds, 0 or more, got {budget!r}")
    return seconds


def _environment(plan: Plan, gpus: tuple[Gpu, ...], asked: str, found: dict[str, Any]) -> Environment:
    """The environment that was found, if it is the one that was asked for."""
    if plan.device == "cuda":
        label = identified(gpus, asked or None, found["gpu_name"], found["gpu_total_bytes"], found["mig"]).label
    else:
        label = _pretended(plan)
    return environment_of(found, gpu_label=label, **_own_fields(plan))


def _say_where(environment: Environment) -> None:
    """The first line: what is measured on."""
    e = environment
    software = f"torch {e.torch}, transformers {e.transformers}, fla {e.fla or 'not installed'}"
    if e.device == "fake":
        console.print(
            f"FAKE DEVICE: no CUDA device is used. Allocations are replayed as on {e.gpu_name}; nothing here was "
            f"measured on a card.  ({software})",
            style="bold yellow",
            soft_wrap=True,
        )
    elif e.device == "emulated":
        console.print(
            f"EMULATED CARD: the real PyTorch and its allocator on a pretended {e.gpu_name} of {e.gpu_total_bytes:,} "
            f"bytes; no kernel runs, and nothing here was measured on a card.  ({software})",
            style="bold cyan",
            soft_wrap=True,
        )
    else:
        console.print(f"{e.gpu_name}, {e.gpu_total_bytes:,} bytes, driver {e.driver}  ({software})", soft_wrap=True)


def _run(plan: Plan, writer: ResultsWriter, start: Start) -> Summary:
    """The campaign under a progress bar; without a terminal, a line every tenth of it."""
    columns = (
        TextColumn("{task.description:<48}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    total = len(plan.grid.workloads)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=total)

        def report(left: int, name: str) -> None:
            again = name.startswith("again")
            progress.update(task, completed=total if again else total - left, description=name[:48])
            if not console.is_terminal and name and (again or left % max(1, total // 10) == 0):
                console.print(f"{total - left if not again else total}/{total}  {name}", soft_wrap=True)

        try:
            return Campaign(plan, writer, report, start).run()
        except KeyboardInterrupt:
            console.print("Every finished workload is on file; the same command goes on from there.")
            raise


def _conclude(summary: Summary, grid: Grid, path: Path) -> None:
    """The last lines; leaves with 1 if something failed or a repeat was not identical."""
    total = len(grid.workloads)
    console.print(
        f"{summary.settled} of {total} workloads on file ({summary.measured_now} now): {path}", soft_wrap=True
    )
    if summary.measured_now == 0 and summary.settled + summary.beyond_memory == total:
        console.print("All were measured before; delete the file to measure them again.")
    if summary.forward_s:
        share = (summary.elapsed_s - summary.build_s) / summary.forward_s
        console.print(
            f"{summary.elapsed_s:.0f} s, {summary.build_s:.0f} s of it starting and building; the rest is "
            f"{share:.2f} × the {summary.forward_s:.0f} s of forward passes."
        )
    if summary.unbuilt:
        console.print(
            "The model does not fit this card: it was out of memory while it was being built. "
            f"{summary.beyond_memory} not run.",
            soft_wrap=True,
        )
    elif summary.beyond_memory:
        console.print(f"{summary.beyond_memory} not run: a smaller workload of their kind was out of memory.")
    if summary.stopped_by_budget:
        console.print("Stopped by the budget; the same command goes on from here.")
    if summary.unequal:
        _leave(EXIT_FAULT, "repeatability fault: " + "; ".join(summary.unequal))
    if summary.failed:
        _leave(EXIT_FAULT, f"{len(summary.failed)} failed, the first: {describe(summary.failed[0])}; see {path}")


PhaseOption = Annotated[str, typer.Option(help="prefill or decode")]
ContextOption = Annotated[int, typer.Option(help="Tokens of the prompt, or already cached.")]
BatchOption = Annotated[int, typer.Option(help="Sequences.")]
OutOption = Annotated[str, typer.Option(help="File to write; standard output if not given.")]


@app.command()
def log(
    phase: PhaseOption,
    context: ContextOption,
    batch: BatchOption = 1,
    fake: FakeOption = "",
    emulate: EmulateOption = "",
    gpu: GpuOption = "",
    model: ModelOption = DEFAULT_MODEL,
    out: OutOption = "",
) -> None:
    """Write the event log of one workload as JSON: every allocation (harness/events.py says what is in it)."""
    with exits():
        asked = Asked(gpu=gpu, emulate=emulate, fake=fake or ("" if gpu or emulate else DEFAULT_CARD))
        _write_json(_told(asked, model, "log", phase, context, batch), out)


@app.command()
def history(
    phase: PhaseOption,
    context: ContextOption,
    batch: BatchOption = 1,
    emulate: EmulateOption = "",
    gpu: GpuOption = "",
    model: ModelOption = DEFAULT_MODEL,
    out: OutOption = "",
) -> None:
    """Write what the caching allocator recorded of a build and one workload: a memory snapshot of torch's, as JSON."""
    with exits():
        asked = Asked(gpu=gpu, emulate=emulate or ("" if gpu or card_there() else DEFAULT_CARD))
        _write_json(_told(asked, model, "history", phase, context, batch), out)


def _write_json(value: Any, out: str) -> None:
    text = json.dumps(value) + "\n"
    if out:
        Path(out).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


@app.command()
def logs(
    model: ModelOption = DEFAULT_MODEL,
    fake: FakeOption = DEFAULT_CARD,
    model_class: Annotated[str, typer.Option(help="The class that is built first.")] = "",
) -> None:
    """Replay workloads for another program: requests on standard input, answers on standard output.

    harness/replay.py says what the lines are.
    """
    with exits():
        plan = _plan(read_gpus(CONFIGS / "gpus.toml"), Asked(fake=fake), model, DEFAULT_GRID)
        configuration = plan.grid.workloads[0].configuration
        if model_class:
            if model_class not in get_args(ModelClass):
                raise InputError(f"--model-class is {' or '.join(get_args(ModelClass))}, got {model_class!r}")
            configuration = dataclasses.replace(configuration, model_class=cast(ModelClass, model_class))
        serve(Replays(plan), configuration, sys.stdin, sys.stdout)


@app.command()
def emulate(
    command: Annotated[list[str], typer.Argument(help="After --: the program and its arguments.")],
    card: Annotated[str, typer.Option(help="Labels of the cards that it gets, joined by commas.")] = DEFAULT_CARD,
    compile_kernels: Annotated[bool, typer.Option("--compile", help="Compile and tune Triton's kernels.")] = False,
    report: Annotated[str, typer.Option(help="JSON file to write what it took to.")] = "",
) -> None:
    """Run any PyTorch program on emulated cards, and say what it took of them; the exit code is the program's."""
    with exits():
        gpus = read_gpus(CONFIGS / "gpus.toml")
        cards = tuple(_one_card(gpus, "--card", label.strip()) for label in card.split(","))
        try:
            emulation = emulation_of(tuple(profile_of(gpu) for gpu in cards), compile_kernels)
        except NoEmulation as missing:
            raise WrongEnvironment(str(missing)) from missing
        if report and not Path(report).resolve().parent.is_dir():
            raise InputError(f"--report {report}: there is no such folder")
        ran = run(command, emulation.variables)
        print_ran(ran, Console(stderr=True))
        if report:
            try:
                Path(report).write_text(json.dumps(dataclasses.asdict(ran), indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                raise InputError(f"--report {report}: {error.strerror}") from error
    raise SystemExit(ran.exit_code)


@app.command()
def profile(
    label: Annotated[str, typer.Option(help="Label of its section; made from the card's name if not given.")] = "",
    to: Annotated[Path, typer.Option(help="File that the section is added to.")] = CONFIGS / "gpus.toml",
) -> None:
    """Add the card that is there to configs/gpus.toml: what sizes depend on, as the card reports it."""
    with exits():
        if not card_there():
            raise WrongEnvironment("a profile is taken of a card, and the driver shows none")
        plan = _plan(read_gpus(CONFIGS / "gpus.toml"), Asked(), DEFAULT_MODEL, DEFAULT_GRID)
        gpu = take(plan.order(plan.grid.workloads[0].configuration), label)
        sys.stdout.write(section_text(gpu))
        done = "added to" if store(to, gpu) else "says the same as a section of"
        console.print(f"[{gpu.label}] {done} {to}", soft_wrap=True, markup=False)


def _told(asked: Asked, model: str, what: str, phase: str, context: int, batch: int) -> Any:
    """What a worker that built the model answers to the command ``what`` for a workload of the default grid."""
    plan = _plan(read_gpus(CONFIGS / "gpus.toml"), asked, model, DEFAULT_GRID)
    like = next((w for w in plan.grid.workloads if w.phase == phase), None)
    if like is None or not context >= 1 or not batch >= 1:
        raise InputError("--phase is prefill or decode; --context and --batch are 1 or more")
    workload = dataclasses.replace(like, context_tokens=context, batch=batch)
    order = plan.order(workload.configuration) | {"recorded": what == "history"}
    child = Child.alone(order, variables=plan.variables)
    try:
        child.ask({"do": "build"}, BUILD_DEADLINE_S)
        return child.ask({"do": what, "workload": encode(workload)}, plan.grid.deadline_s)
    except WorkerFailed as failed:
        raise InputError(f"{describe(workload)} can't be run: {failed}") from failed
    finally:
        child.close()
