"""The command boundary: the longest contexts that fit a card, found on the card itself, real or emulated."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from vram_ledger.analysis.derivation.derive import MOST_LOOPED_TOKENS
from vram_ledger.analysis.derivation.derived_files import configuration_of
from vram_ledger.analysis.derivation.forms import random_shapes
from vram_ledger.analysis.formula.config import read_config
from vram_ledger.analysis.ground.cards import read_amount
from vram_ledger.commands.measure import EmulateOption, GpuOption, ModelOption, say_where
from vram_ledger.commands.options import phase_of
from vram_ledger.commands.progress import resumable
from vram_ledger.errors import Fault, InputError
from vram_ledger.harness.asked import DEFAULT_MODEL, Asked, measured, on_file, plan_of
from vram_ledger.harness.boundary import Found, Question, Search, plan_for
from vram_ledger.harness.grid import MOST_CONTEXT_TOKENS, workload_of
from vram_ledger.harness.inputs import InputFields
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import PHASES, Configuration, Edge, Failure, OutOfMemory, Phase, ResultsFile, Workload
from vram_ledger.harness.results import ResultsWriter
from vram_ledger.harness.runner import Plan, Start, describe
from vram_ledger.harness.summary import configuration_text
from vram_ledger.home import BOUNDARY, RUNS
from vram_ledger.names import MOST_BATCH, sequences, tokens

console = Console()
GIB = 2**30
BATCHES = "1,2,4,8,16,32"
DRAWN_BATCH = 64


def find_boundary(
    gpu: GpuOption = "",
    emulate: EmulateOption = "",
    model: ModelOption = DEFAULT_MODEL,
    variant: Annotated[str, typer.Option(help='Such as "text", "default-static", "text-reference".')] = "default",
    phase: Annotated[str, typer.Option(help="prefill, decode or both, joined by commas; both if not given.")] = "",
    batch: Annotated[str, typer.Option(help=f"Sequences, joined by commas; {BATCHES} if not given.")] = "",
    chunk: Annotated[str, typer.Option(help="Tokens of a prefill's chunks; whole if not given.")] = "",
    most: Annotated[str, typer.Option(help="Context to look up to; the model's own limit if not given.")] = "",
    memory: Annotated[str, typer.Option(help='What an emulated card is to have, such as "1024GiB".')] = "",
    guess: Annotated[Path | None, typer.Option(help="File of contexts to look at first, as for --at.")] = None,
    at: Annotated[
        Path | None, typer.Option(help="File of workloads to ask for instead: a line of JSON each, docs/measuring.md.")
    ] = None,
    shapes: Annotated[int, typer.Option(min=0, max=100_000, help="How many random workloads to ask for instead.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the random workloads.")] = 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RUNS,
) -> None:
    """Find the longest contexts that fit a card by bisection, each confirmed in fresh processes."""
    asked = Asked(gpu=gpu, emulate=emulate, model=model, memory_bytes=read_amount(memory) if memory else 0)
    plan = plan_of(asked, lambda line: console.print(line, style="yellow", soft_wrap=True))
    name = f"{variant}-chunk{tokens(chunk, 'chunk')}" if chunk else variant
    configuration = configuration_of(plan.config_file.stem, name)
    folder = results / BOUNDARY
    limit = read_config(plan.config_file).most_context_tokens or MOST_CONTEXT_TOKENS
    phases = [phase_of(one) for one in (phase or ",".join(PHASES)).split(",")]
    if at is not None or shapes:
        if batch or most or guess or (at and (phase or shapes)):
            raise InputError("AT and SHAPES bring their own workloads; leave BATCH, MOST, GUESS and the other one out")
        drawn = _listed(at, configuration) if at else _drawn(configuration, phases, shapes, seed, limit)
        workloads = list(dict.fromkeys(drawn))
        return _settle(plan_for(plan, workloads, name), workloads, gpu, folder)
    furthest = tokens(most, "most") if most else limit
    if furthest > limit:
        raise InputError(f"MOST={most} is beyond the model's own limit of {limit:,} tokens (max_position_embeddings)")
    longest = [
        workload_of(configuration, one, furthest, sequences(count))
        for one in phases
        for count in (batch or BATCHES).split(",")
    ]
    guesses = {_kind(w): w.context_tokens for w in (_listed(guess, configuration) if guess else ())}
    questions = [Question(most=w, guess_tokens=guesses.get(_kind(w), 0)) for w in dict.fromkeys(longest)]
    return _settle(plan_for(plan, longest, name), questions, gpu, folder)


def _kind(workload: Workload) -> Workload:
    """All that a workload is but its context."""
    return dataclasses.replace(workload, context_tokens=1)


def _drawn(
    configuration: Configuration, phases: Sequence[Phase], count: int, seed: int, limit: int
) -> Iterator[Workload]:
    """Random workloads of each phase, of up to 64 sequences and as many tokens as the model and its kernels take."""
    most = min(limit, MOST_LOOPED_TOKENS) if configuration.kernels == "torch" else limit
    for phase in phases:
        for shape in random_shapes(count, DRAWN_BATCH, most, seed):
            yield workload_of(configuration, phase, shape.context_tokens, shape.batch)


def _listed(path: Path, configuration: Configuration) -> Iterator[Workload]:
    """The workloads of a file of JSON lines: phase, batch, context_tokens. :class:`InputError` names the line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise InputError(f"{path}: there is no workload in it")
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            table = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not a line of JSON: {error}") from error
        fields = InputFields(table, where)
        phase = fields.text("phase")
        if phase not in PHASES:
            raise fields.error("phase", f"{phase!r} is none of {', '.join(PHASES)}")
        context = fields.count("context_tokens", most=MOST_CONTEXT_TOKENS)
        batch = fields.count("batch", most=MOST_BATCH)
        fields.no_others()
        yield workload_of(configuration, phase, context, batch)


def _settle(plan: Plan, asked: Sequence[Question | Workload], gpu: str, folder: Path) -> None:
    """Asks what is not on file yet and prints all of it; :class:`Fault` where something failed or was not confirmed."""
    quiet, shown = partial(_quietly, asked), partial(_shown, asked)
    path, found = on_file(plan, gpu, folder, say_where, quiet) or measured(plan, gpu, folder, say_where, shown)
    contents = read(path)
    if found.unbuilt:
        console.print("The model does not fit this card: it was out of memory while it was being built.")
    elif questions := [one for one in asked if isinstance(one, Question)]:
        console.print(f"\nThe longest contexts that fit {contents.environment.gpu_label}", style="bold", soft_wrap=True)
        console.print(configuration_text(questions[0].configuration), soft_wrap=True)
        console.print(_table(contents, found, questions))
    else:
        console.print(_tally(contents, asked))
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"{found.measured_now} probes now, {len(contents.probes)} on file: {path}", soft_wrap=True)
    _conclude(found, path)


def _conclude(found: Found, path: Path) -> None:
    if doubted := [edge for edge in found.edges if not edge.confirmed]:
        named = ", ".join(f"{edge.phase} × {edge.batch} at {edge.fits_tokens:,} tokens" for edge in doubted)
        raise Fault(f"fresh processes did not confirm the edge of {named}; see {path}")
    if found.failed:
        probe = found.failed[0]
        assert isinstance(probe.outcome, Failure)
        first = f"{describe(probe.workload)}: {probe.outcome.reason}: {probe.outcome.message}"
        raise Fault(f"{len(found.failed)} failed, the first {first}; see {path}")


def _quietly(asked: Sequence[Question | Workload], plan: Plan, writer: ResultsWriter, start: Start) -> Found:
    return Search(plan, writer, start, lambda done, one: None).run(asked)


def _shown(asked: Sequence[Question | Workload], plan: Plan, writer: ResultsWriter, start: Start) -> Found:
    """The search under a progress bar; without a terminal, a line every tenth of it."""
    with resumable(console, "probe") as progress:
        task = progress.add_task("starting", total=len(asked))

        def report(done: int, one: Question | Workload) -> None:
            text = describe(one) if isinstance(one, Workload) else f"{one.most.phase} × {one.most.batch}"
            progress.update(task, completed=done, description=text[:48])
            if not console.is_terminal and done % max(1, len(asked) // 10) == 0:
                console.print(f"{done}/{len(asked)}  {text}", soft_wrap=True)

        return Search(plan, writer, start, report).run(asked)


def _table(contents: ResultsFile, found: Found, questions: Sequence[Question]) -> Table:
    """A row a question: the longest context that fits, and what a token more was refused."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    for name in ("batch", "tokens that fit", "one more asks", "free"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    edges = {edge.at(edge.most_tokens): edge for edge in found.edges}
    outcomes = {probe.workload: probe.outcome for probe in contents.probes if not probe.fresh}
    for question in questions:
        edge = edges.get(question.most)
        beyond = None if edge is None else outcomes.get(edge.at(edge.fits_tokens + 1))
        refused = beyond if isinstance(beyond, OutOfMemory) else None
        table.add_row(
            question.most.phase,
            f"{question.most.batch:,}",
            _length(edge, question),
            "-" if refused is None else _gib(refused.asked_bytes),
            "-" if refused is None else _gib(refused.free_bytes),
            "" if refused is None else _place(refused),
        )
    return table


def _length(edge: Edge | None, question: Question) -> str:
    if edge is None:
        return "not found"
    at_end = " and more" if edge.fits_tokens == question.most.context_tokens else ""
    return f"{edge.fits_tokens:,}{at_end}" + ("" if edge.confirmed else ", not confirmed")


def _place(refused: OutOfMemory) -> str:
    module, source = (text or "" for text in (refused.module, refused.source))
    inside = f"{module.rpartition('.')[2]}, " if module else ""
    return f"{refused.during}: {inside}{source.rpartition('/')[2]}"


def _gib(count: int | None) -> str:
    return "n/a" if count is None else f"{count / GIB:.3f} GiB"


def _tally(contents: ResultsFile, asked: Sequence[Question | Workload]) -> str:
    """How many workloads fit, and how many do not."""
    wanted = set(asked)
    kinds = [type(p.outcome).__name__ for p in contents.probes if not p.fresh and p.workload in wanted]
    return (
        f"{kinds.count('Fits'):,} of {len(wanted):,} workloads fit, {kinds.count('OutOfMemory'):,} were out of memory."
    )
