"""The commands that look into one workload or program: log, record, logs, emulate; and profile, into a card."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console

from vram_ledger.commands.measure import EmulateOption, FakeOption, GpuOption, ModelOption
from vram_ledger.commands.options import phase_of
from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.asked import DEFAULT_CARD, DEFAULT_MODEL, Asked, answer_about, one_card, plan_of, with_room
from vram_ledger.harness.emulate import print_ran, run
from vram_ledger.harness.emulation.profile import emulation_of, profile_of
from vram_ledger.harness.emulation.wheel import NoEmulation
from vram_ledger.harness.gpus import read_gpus
from vram_ledger.harness.machine import card_there
from vram_ledger.harness.profile import section_text, store, take
from vram_ledger.harness.records import ModelClass
from vram_ledger.harness.replay import Replays, serve
from vram_ledger.home import GPUS
from vram_ledger.names import sequences, tokens

PhaseOption = Annotated[str, typer.Option(help="prefill or decode")]
ContextOption = Annotated[str, typer.Option(help="Tokens of the prompt, or already cached.")]
BatchOption = Annotated[str, typer.Option(help="Sequences.")]
OutOption = Annotated[str, typer.Option(help="File to write; standard output if not given.")]


def log(
    phase: PhaseOption,
    context: ContextOption,
    batch: BatchOption = "1",
    fake: FakeOption = "",
    emulate: EmulateOption = "",
    gpu: GpuOption = "",
    model: ModelOption = DEFAULT_MODEL,
    out: OutOption = "",
) -> None:
    """Write the event log of one workload as JSON: every allocation (docs/formats.md says what is in it)."""
    asked = Asked(gpu=gpu, emulate=emulate, fake=fake or ("" if gpu or emulate else DEFAULT_CARD), model=model)
    _write_json(_told(asked, "log", phase, context, batch), out)


def record(
    phase: PhaseOption,
    context: ContextOption,
    batch: BatchOption = "1",
    emulate: EmulateOption = "",
    gpu: GpuOption = "",
    model: ModelOption = DEFAULT_MODEL,
    out: OutOption = "",
) -> None:
    """Write what the caching allocator recorded of a build and one workload: a memory snapshot of torch's, as JSON."""
    asked = Asked(gpu=gpu, emulate=emulate or ("" if gpu or card_there() else DEFAULT_CARD), model=model)
    _write_json(_told(asked, "history", phase, context, batch), out)


def _told(asked: Asked, what: str, phase: str, context: str, batch: str) -> Any:
    """What a worker answers about a workload like those of the default grid."""
    asked_phase = phase_of(phase)
    length, count = tokens(context, "context"), sequences(batch)
    plan = plan_of(asked)
    like = next(w for w in plan.grid.workloads if w.phase == asked_phase)
    return answer_about(plan, what, dataclasses.replace(like, context_tokens=length, batch=count))


def _write_json(value: Any, out: str) -> None:
    text = json.dumps(value) + "\n"
    if out:
        _write("--out", out, text)
    else:
        sys.stdout.write(text)


def _write(option: str, file: str, text: str) -> None:
    """Writes the file that an option named; :class:`InputError` names both if that can't be done."""
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} {file}: {error.strerror}") from error


def logs(
    model: ModelOption = DEFAULT_MODEL,
    fake: FakeOption = "",
    emulate: EmulateOption = "",
    model_class: Annotated[str, typer.Option(help="The class that is built first.")] = "",
) -> None:
    """Run workloads for another program, on tensors without memory or on an emulated card that never runs out of it.

    Requests on standard input, answers on standard output; harness/replay.py says what the lines are.
    """
    plan = plan_of(Asked(fake=fake or ("" if emulate else DEFAULT_CARD), emulate=emulate, model=model))
    plan = with_room(plan)
    configuration = plan.grid.workloads[0].configuration
    if model_class:
        if model_class not in get_args(ModelClass):
            raise InputError(f"--model-class is {' or '.join(get_args(ModelClass))}, got {model_class!r}")
        configuration = dataclasses.replace(configuration, model_class=cast(ModelClass, model_class))
    serve(Replays(plan), configuration, sys.stdin, sys.stdout)


def emulate(
    command: Annotated[list[str], typer.Argument(help="After --: the program and its arguments.")],
    card: Annotated[str, typer.Option(help="Labels of the cards that it gets, joined by commas.")] = DEFAULT_CARD,
    compile_kernels: Annotated[bool, typer.Option("--compile", help="Compile and tune Triton's kernels.")] = False,
    report: Annotated[str, typer.Option(help="JSON file to write what it took to.")] = "",
) -> None:
    """Run any PyTorch program on emulated cards, and say what it took of them; the exit code is the program's."""
    gpus = read_gpus(GPUS)
    cards = tuple(one_card(gpus, "--card", label.strip()) for label in card.split(","))
    try:
        emulation = emulation_of(tuple(profile_of(gpu) for gpu in cards), compile_kernels)
    except NoEmulation as missing:
        raise WrongEnvironment(str(missing)) from missing
    if report and not Path(report).resolve().parent.is_dir():
        raise InputError(f"--report {report}: there is no such folder")
    ran = run(command, emulation.variables)
    print_ran(ran, Console(stderr=True))
    if report:
        _write("--report", report, json.dumps(dataclasses.asdict(ran), indent=2) + "\n")
    raise typer.Exit(ran.exit_code)


def profile(
    label: Annotated[str, typer.Option(help="Label of its section; made from the card's name if not given.")] = "",
    to: Annotated[Path, typer.Option(help="File that the section is added to.")] = GPUS,
) -> None:
    """Add the card that is there to configs/gpus.toml: what sizes depend on, as the card reports it."""
    if not card_there():
        raise WrongEnvironment("a profile is taken of a card, and the driver shows none")
    plan = plan_of(Asked())
    gpu = take(plan.order(plan.grid.workloads[0].configuration), label)
    sys.stdout.write(section_text(gpu))
    done = "added to" if store(to, gpu) else "says the same as a section of"
    Console().print(f"[{gpu.label}] {done} {to}", soft_wrap=True, markup=False)
