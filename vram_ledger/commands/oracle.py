"""The command oracle: what a server itself plans on an emulated card, kept as a record."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from vram_ledger.analysis.estimators.vllm_pool import attention_block_tokens, block_bytes, state_groups
from vram_ledger.analysis.formula.config import read_config
from vram_ledger.analysis.formula.shapes import float32_elements, resident_parameters
from vram_ledger.analysis.serving.oracle import Compared, Layout, Planned, compared, read_record
from vram_ledger.commands.measure import ModelOption
from vram_ledger.harness.asked import DEFAULT_MODEL
from vram_ledger.harness.oracle.asked import ask, question
from vram_ledger.harness.oracle.record import NOT_EMULATED, Start
from vram_ledger.harness.records import ModelClass
from vram_ledger.home import RUNS
from vram_ledger.names import tokens

GIB = 2**30
# Rows of the rotary table a position (qwen3_vl.py, mrope_positions_factor): 0.33.0 has one where it drops no video
# tokens, and 4 MiB of something beside; a log of 0.30.0 still prints what four give.
TABLE_TIMES, TABLE_TIMES_BEFORE, CHANGED_IN = 1, 4, (0, 33)
ELEMENT_BYTES = 2
# vllm/platforms/interface.py and model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py (0.33.0): where prefixes are
# cached and a prefill's kernel leaves states on its way, as FlashInfer's does every 64 tokens, a block is a multiple of
# that (the 27B's is 832 on an H100, not 784) and a request keeps one more copy of its states.
CHECKPOINT_TOKENS = 64
# "Model loading took" counts the allocator's blocks: each tensor is rounded up to 512 B, and the vision tower's tensors
# of some MB leave rests of segments that are too small to be split off.
MOST_ROUNDING_BYTES = 24 * 2**20
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
    """What our formulas say of the model of a record, as that release of vLLM ran it.

    The rotary table, kept once for all layers: ``vllm/model_executor/layers/rotary_embedding/mrope.py``. What a
    checkpoint stores in float32 stays so.
    """
    config = read_config(config_file)
    shapes = config.shapes
    model_class: ModelClass = "Qwen3_5ForCausalLM" if planned.variant == "text" else "Qwen3_5ForConditionalGeneration"
    parameters = ELEMENT_BYTES * (resident_parameters(shapes, model_class) + float32_elements(shapes))
    release = tuple(int(part) for part in re.findall(r"\d+", planned.version)[:2])
    rows = (TABLE_TIMES if release >= CHANGED_IN else TABLE_TIMES_BEFORE) * (config.most_context_tokens or 0)
    checkpoints = planned.prefix_caching and planned.flashinfer_prefill and release >= CHANGED_IN
    aligned = CHECKPOINT_TOKENS if checkpoints else 1
    block_tokens = -(-attention_block_tokens(shapes) // aligned) * aligned
    return Layout(
        weights_bytes=parameters + rows * shapes.rotary_dim * ELEMENT_BYTES,
        weights_room_bytes=MOST_ROUNDING_BYTES,
        block_tokens=block_tokens,
        block_bytes=block_bytes(shapes) // attention_block_tokens(shapes) * block_tokens,
        state_groups=state_groups(shapes),
        state_copies=1 + planned.prefix_caching + checkpoints,
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
        console.print("  " + line.partition("] ")[2], soft_wrap=True, markup=False, highlight=False)


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
