"""The command measure: a campaign, its tables, its verdicts, and whether it equals what is published."""

from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import TextColumn, TimeRemainingColumn

from vram_ledger.commands.progress import resumable
from vram_ledger.errors import Fault, Incomplete
from vram_ledger.harness.asked import DEFAULT_GRID, DEFAULT_MODEL, Asked, measured, on_file, plan_of
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Environment
from vram_ledger.harness.results import ResultsWriter
from vram_ledger.harness.runner import Campaign, Plan, Start, Summary, describe
from vram_ledger.harness.summary import measurements_tables
from vram_ledger.home import RUNS

console = Console()

GpuOption = Annotated[str, typer.Option(help="Label of the card that must be there, such as a100 or rtx-4090.")]
FakeOption = Annotated[str, typer.Option(help="Use the fake device even if there is a card, answering as this one.")]
EmulateOption = Annotated[str, typer.Option(help="Emulate this card, whether or not there is one in the machine.")]
ModelOption = Annotated[str, typer.Option(help="Name in configs/models, or path of a config.json.")]
GridOption = Annotated[str, typer.Option(help="Name in configs/grids, or path of a grid file.")]
WeightsOption = Annotated[str, typer.Option(help="Checkpoint directory to load instead of random weights.")]


def measure(
    gpu: GpuOption = "",
    emulate: EmulateOption = "",
    fake: FakeOption = "",
    model: ModelOption = DEFAULT_MODEL,
    grid: GridOption = DEFAULT_GRID,
    weights: WeightsOption = "",
    budget: Annotated[str, typer.Option(help="Seconds after which no workload is started; 0: no limit.")] = "0",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RUNS,
    compile_kernels: Annotated[
        bool, typer.Option("--compile", help="On an emulated card: compile and tune Triton's kernels for real.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The verdicts as JSON alone; what is told meanwhile goes to standard error.")
    ] = False,
) -> None:
    """Run a campaign, or the rest of one; then judge every term of it."""
    from vram_ledger.commands.judge import judge_files

    console.stderr = as_json
    asked = Asked(
        gpu=gpu,
        emulate=emulate,
        fake=fake,
        compiled=compile_kernels,
        model=model,
        grid=grid,
        weights=weights,
        budget=budget,
    )
    plan = plan_of(asked, lambda line: console.print(line, style="yellow", soft_wrap=True))
    path, summary = on_file(plan, gpu, results, say_where, _quietly) or measured(plan, gpu, results, say_where, _run)
    console.print(measurements_tables(read(path)))
    _conclude(summary, len(plan.grid.workloads), path)
    judge_files([path], config=plan.config_file, as_json=as_json)


def say_where(environment: Environment) -> None:
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


def _quietly(plan: Plan, writer: ResultsWriter, start: Start) -> Summary:
    return Campaign(plan, writer, lambda left, name: None, start).run()


def _run(plan: Plan, writer: ResultsWriter, start: Start) -> Summary:
    """The campaign under a progress bar; without a terminal, a line every tenth of it."""
    total = len(plan.grid.workloads)
    with resumable(console, "workload", TextColumn("left"), TimeRemainingColumn()) as progress:
        task = progress.add_task("starting", total=total)
        began, first = monotonic(), 0

        def report(left: int, name: str) -> None:
            again = name.startswith("again")
            progress.update(task, completed=total if again else total - left, description=name[:48])
            nonlocal first
            first = first or left
            if not console.is_terminal and name and (again or left % max(1, total // 10) == 0):
                done, gone_s = first - left, monotonic() - began
                eta = f"  about {gone_s / done * left / 60:.0f} min left" if done > 0 and not again else ""
                console.print(f"{total - left if not again else total}/{total}  {name}{eta}", soft_wrap=True)

        return Campaign(plan, writer, report, start).run()


def _conclude(summary: Summary, total: int, path: Path) -> None:
    """What was done; :class:`Fault` if something failed or did not repeat, :class:`Incomplete` if BUDGET ended it."""
    for note in summary.notes:
        console.print(f"note: {note}", soft_wrap=True)
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
    if summary.unequal:
        raise Fault("repeatability fault: " + "; ".join(summary.unequal))
    if summary.failed:
        raise Fault(f"{len(summary.failed)} failed, the first: {describe(summary.failed[0])}; see {path}")
    if summary.stopped_by_budget:
        raise Incomplete(
            f"stopped by BUDGET, {summary.settled} of {total} workloads on file, nothing judged yet; the same command "
            "goes on from there"
        )
