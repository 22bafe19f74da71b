"""The command oracle: what a server itself plans on an emulated card, kept as a record."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from vram_ledger.analysis.serving.loading import loaded_bytes
from vram_ledger.analysis.serving.model import read_served
from vram_ledger.analysis.serving.oracle import Compared, Layout, Planned, compared, read_record
from vram_ledger.analysis.serving.vllm import blocks_as_run, rotary_rows
from vram_ledger.commands.measure import ModelOption
from vram_ledger.harness.asked import DEFAULT_MODEL
from vram_ledger.harness.oracle.asked import ask, question
from vram_ledger.harness.oracle.record import NOT_EMULATED, Start
from vram_ledger.home import RUNS
from vram_ledger.names import tokens

GIB = 2**30
# What "Model loading took" differs by: nothing in 14 of 15 starts of 0.20.1, 1.1 MiB in one; −1.8 to 6.4 MiB in 0.33.0.
MOST_ROUNDING_BYTES = 8 * 2**20
DEFAULT_EMULATED = "a100-80gb"
MARKS = ("Model loading took", "Available KV cache memory", "Graph capturing", "torch.compile took")


def ask_runtime(
    runtime: Annotated[str, typer.Option(help="The server that is started: vllm.")] = "vllm",
    model: ModelOption = DEFAULT_MODEL,
    emulate: Annotated[str, typer.Option(help="The card that it is started on.")] = DEFAULT_EMULATED,
    variant: Annotated[str, typer.Option(help="text, without the vision tower, or default.")] = "text",
    context: Annotated[str, typer.Option(help="Longest request, max_model_len; the model's own if not given.")] = "",
    utilization: Annotated[str, typer.Option(help="Share of the card, gpu_memory_utilization.")] = "",
    graphs: Annotated[bool, typer.Option("--graphs", help="Compile and capture CUDA graphs; else eager.")] = False,
    interpreter: Annotated[str, typer.Option(help="Path of the python that the server is installed in.")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the results; oracle/ in it.")] = RUNS,
) -> None:
    """Start the stock server on an emulated card and record what it plans: weights, peak, blocks, defaults."""
    console = Console()
    length = tokens(context, "context") if context else 0
    asked = question(runtime, model, emulate, variant, length, utilization, interpreter, graphs)
    console.print(
        f"EMULATED: {runtime} {asked.versions[runtime]} starts on an emulated {asked.card.label}, in a process of its "
        f"own. That takes {'some minutes' if graphs else 'about a minute'}, at most {asked.deadline_s // 60}.",
        style="bold cyan",
        soft_wrap=True,
    )
    for path, start in ask(asked, results, lambda line: _tell(console, line)):
        console.print(_table(start))
        planned = read_record(path)
        console.print(_held(compared(planned, layout_of(asked.config_file, planned))))
        console.print(f"written to {path}\n", soft_wrap=True, markup=False)
    console.print(NOT_EMULATED, style="cyan", soft_wrap=True)


def layout_of(config_file: Path, planned: Planned) -> Layout:
    """What our formulas say of the model of a record, as that release of vLLM ran it."""
    model = read_served(config_file, config_file.stem)
    assert model.shapes is not None, "the server is started with models of the family"
    rows = rotary_rows(model, planned.version)
    blocks, copies = blocks_as_run(model, planned.version, planned.prefix_caching, planned.flashinfer_prefill)
    return Layout(
        weights_bytes=loaded_bytes(model.shapes, planned.variant == "text", model.element_bytes, rows),
        weights_room_bytes=MOST_ROUNDING_BYTES,
        block_tokens=blocks.tokens,
        block_bytes=blocks.bytes,
        state_groups=blocks.state_groups,
        state_copies=copies,
    )


def _held(found: tuple[Compared, ...]) -> Table:
    """Its figures beside our formulas'."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="held against our formulas", title_justify="left")
    table.add_column("")
    for name in ("planned", "formula", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        difference = "0" if one.server == one.formula else f"{one.server - one.formula:+,}"
        note = "" if one.agrees else "  differs"
        table.add_row(one.quantity, f"{one.server:,}", f"{one.formula:,}", difference + note)
    return table


def _tell(console: Console, line: str) -> None:
    """The lines of its log by which one sees how far it is."""
    if any(mark in line for mark in MARKS):
        console.print("  " + (line.partition("] ")[2] or line), soft_wrap=True, markup=False, highlight=False)


def _table(start: Start) -> Table:
    """What it planned, in bytes as its own objects have them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{start.model}, {start.variant}", title_justify="left")
    table.add_column("planned", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    for name, value in start.planned.items():
        if name != "groups" and value is not None:
            gib = f"{value / GIB:.2f}" if name.endswith("_bytes") else ""
            table.add_row(name.replace("_", " "), _shown(value), gib)
    for group in start.planned["groups"]:
        table.add_row(f"{group['layers']} layers, {group['kind']}", f"{group['page_bytes']:,} a page", "")
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
