"""The commands predict and capacity."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vram_ledger.commands.files import main_files
from vram_ledger.errors import NothingKnown

if TYPE_CHECKING:
    from vram_ledger.analysis.predicting.capacity import Frontier
    from vram_ledger.analysis.predicting.prediction import Prediction
    from vram_ledger.analysis.predicting.predictor import Predictor

CHUNKS = (8192, 4096, 2048, 1024, 512)  # tried from the largest where a single shot does not fit

ModelOption = Annotated[str, typer.Option(help="Name in configs/models, path of a config.json, or its folder.")]
GpuOption = Annotated[str, typer.Option(help="A label of configs/gpus.toml.")]
MemoryOption = Annotated[str, typer.Option(help='What the card reports, such as "79.1GiB" (nvidia-smi).')]
FreeOption = Annotated[
    str, typer.Option(help="Taken beside PyTorch's allocator: CUDA context, modules, neighbours; such as 1GiB.")
]
VariantOption = Annotated[str, typer.Option(help='As for derive: "text", "default-static"; else the config\'s class.')]
TransformersOption = Annotated[str, typer.Option(help="Use only what is known of this version; else the newest.")]
ChunkOption = Annotated[int, typer.Option(min=0, help="Tokens of a prefill's chunks; 0: single shot.")]


def predict_memory(
    model: ModelOption = "qwen3.5-27b",
    gpu: GpuOption = "",
    context: Annotated[int, typer.Option(min=1, help="Tokens of the prompt, or already cached.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    phase: Annotated[str, typer.Option(help="prefill or decode.")] = "prefill",
    chunk: ChunkOption = 0,
    variant: VariantOption = "",
    memory: MemoryOption = "",
    free: FreeOption = "",
    transformers: TransformersOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Say what a workload takes, term by term, where the numbers come from, and whether it fits a GPU."""
    from vram_ledger.analysis.ground.cards import CardError
    from vram_ledger.harness.records import PHASES

    if phase not in PHASES:
        raise CardError(f"phase {phase!r} is neither prefill nor decode")
    predictors = _predictors(model, variant, gpu, memory, free, transformers)
    found = predictors(chunk).predict(phase, batch, context)
    advice = _advice(predictors, found, phase, batch, context, chunk)
    if as_json:
        typer.echo(json.dumps(_plain(found, list(advice)), ensure_ascii=False))
        return
    _print(found)
    for line in advice:
        typer.echo(line)
    typer.echo("exit 0: predicted")


def _predictors(
    model: str, variant: str, gpu: str, memory: str, free: str, transformers: str
) -> "Callable[[int], Predictor]":
    """The predictor of the options, by the chunk of its prefill."""
    import functools

    from vram_ledger.analysis.formula.shapes import read_shapes
    from vram_ledger.analysis.ground.cards import CardError, card_of, read_amount
    from vram_ledger.analysis.predicting.configs import config_of, default_variant, with_chunk
    from vram_ledger.analysis.predicting.library import Library
    from vram_ledger.home import GPUS

    if memory and not gpu:
        raise CardError("memory is that of a card: name the GPU, too")
    card = card_of(gpu, GPUS, memory) if gpu else None
    outside = read_amount(free) if free else None
    library = Library.of()
    base = variant or default_variant(read_shapes(config_of(model)))

    @functools.cache
    def predictor(chunk: int) -> "Predictor":
        return library.predictor(model, with_chunk(base, chunk), card, outside, transformers)

    return predictor


def _advice(
    predictors: "Callable[[int], Predictor]", found: "Prediction", phase: str, batch: int, context: int, chunk: int
) -> "Iterator[str]":
    """What else to know: the prefill that a decode needs first, and the chunk in which a prefill fits."""
    from vram_ledger.analysis.predicting.prediction import FITS

    if found.card is None:
        return
    if next(term.bytes for term in found.terms if term.name == "weights") > found.card.most_bytes:
        yield "The weights alone are more than the card has."
        return
    before = found
    if phase == "decode":
        try:
            before = predictors(chunk).predict("prefill", batch, context)
        except NothingKnown as error:
            yield f"Of the prefill that it follows nothing is known: {error}."
            return
        how = f"in chunks of {chunk:,}" if chunk else "in a single shot"
        yield f"The prefill that it follows, {how}: {_span(before)}, {before.verdict}."
    if before.verdict != FITS and before.workload.configuration.cache == "dynamic":
        yield from _smaller_chunks(predictors, batch, context, chunk)


def _smaller_chunks(predictors: "Callable[[int], Predictor]", batch: int, context: int, chunk: int) -> "Iterator[str]":
    """The largest chunk in which the prefill fits, of those smaller than the given one; or that none does."""
    from vram_ledger.analysis.predicting.prediction import FITS

    last = None
    for size in (c for c in CHUNKS if c < (chunk or context) and c < context):
        try:
            last = predictors(size).predict("prefill", batch, context)
        except NothingKnown as error:
            yield f"Whether a prefill in chunks fits is not known: {error}."
            return
        if last.verdict == FITS:
            yield f"A prefill in chunks of {size:,} fits: {_span(last)}."
            return
    if last is not None:
        yield f"No chunk down to {CHUNKS[-1]:,} is sure to fit: {_span(last)} in the smallest, {last.verdict}."


def _span(found: "Prediction") -> str:
    return f"{found.least_bytes / 1e9:,.2f} to {found.most_bytes / 1e9:,.2f} GB"


def _plain(found: "Prediction", advice: list[str]) -> dict[str, object]:
    """A prediction for programs: its record, the verdict, and what else to know."""
    from vram_ledger.harness.records import encode

    return {**encode(found), "verdict": found.verdict, "advice": advice}


def _print(found: "Prediction") -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import configuration_text, console

    out, workload = console(), found.workload
    out.print(configuration_text(workload.configuration), markup=False, soft_wrap=True)
    out.print(f"{workload.phase}, B={workload.batch}, L={workload.context_tokens:,}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("term")
    for name in ("bytes", "GB", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for term in found.terms:
        bounds = ("", "") if term.least_bytes == term.most_bytes else (f"{term.least_bytes:,}", f"{term.most_bytes:,}")
        name = f"{term.name} ({found.stage})" if term.name == "transient" and found.stage else term.name
        table.add_row(name, f"{term.bytes:,}", f"{term.bytes / 1e9:,.3f}", *bounds, escape(term.source))
    out.print(table)
    out.print(f"requested: {found.requested_bytes:,} B, {found.basis}: {found.origin}", markup=False, soft_wrap=True)
    out.print(f"needs {_span(found)}", markup=False)
    if found.card is not None:
        card, seen = found.card, f" ({found.seen.word}: seen on this card)" if found.seen else ""
        has = f"{card.most_bytes / 1e9:,.2f} GB"
        if card.least_bytes != card.most_bytes:
            has = f"{card.least_bytes / 1e9:,.2f} to {has}"
        out.print(f"{card.label} has {has} ({card.source}): {found.verdict}{seen}", style="bold", markup=False)


def show_capacity(
    gpu: GpuOption,
    model: ModelOption = "qwen3.5-27b",
    chunk: ChunkOption = 0,
    variant: VariantOption = "",
    memory: MemoryOption = "",
    free: FreeOption = "",
    transformers: TransformersOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Print what fits a GPU: the longest context for each batch, and the largest batch for each context."""
    from vram_ledger.analysis.predicting.capacity import frontier
    from vram_ledger.harness.records import PHASES, encode

    predictor = _predictors(model, variant, gpu, memory, free, transformers)(chunk)
    found = [frontier(predictor, phase) for phase in PHASES]
    if as_json:
        typer.echo(json.dumps([encode(f) for f in found], ensure_ascii=False))
        return
    _print_frontiers(predictor, found)
    typer.echo("exit 0: predicted")


def _print_frontiers(predictor: "Predictor", found: "list[Frontier]") -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import configuration_text, console
    from vram_ledger.analysis.ground.kinds import predicted_banner
    from vram_ledger.analysis.predicting.pinned import pins

    out = console()
    assert predictor.card is not None
    out.print(f"{configuration_text(predictor.configuration)} on {predictor.card.label}", markup=False, soft_wrap=True)
    out.print(predicted_banner(word for f in found for word in f.words), style="bold magenta", markup=False)
    out.print("What fits, to what is within the margin.", markup=False)
    for title, first in (("longest context", "batch"), ("largest batch", "context")):
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column(first, justify="right")
        columns = [f.contexts if first == "batch" else f.batches for f in found]
        for f in found:
            table.add_column(f.phase, justify="right", no_wrap=True)
        for rows in zip(*columns, strict=True):
            table.add_row(f"{rows[0].at:,}", *(largest.text for largest in rows))
        out.print(table)
    batches = [row.at for row in found[0].contexts]
    if pinning := [b for b in batches if pins(predictor.shapes, predictor.configuration, b)]:
        out.print(
            f"At batch {', '.join(map(str, pinning))} a decode step may need its cache once more at some contexts; "
            "predict says at which.",
            markup=False,
            soft_wrap=True,
        )


def score_held_out(
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="Results file, folder or pattern; else the main campaigns of --results."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of campaigns, and for held-out.md; else the published ones, and runs/.")
    ] = None,
) -> None:
    """Score answers about points that they were not made from: other contexts, batches, grids and models."""
    from vram_ledger.analysis.formula.shapes import read_shapes
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.predicting.configs import config_of
    from vram_ledger.analysis.predicting.held_out import held_out_markdown, held_out_scores
    from vram_ledger.analysis.predicting.library import Library
    from vram_ledger.analysis.refereeing.campaign import campaigns_of
    from vram_ledger.home import RUNS

    campaigns = campaigns_of(main_files(file, results))
    simulated = [(s, read_shapes(config_of(s.configuration.model))) for s in Library.of().simulated]
    text = "\n".join(held_out_markdown(list(held_out_scores(campaigns, simulated)))) + "\n"
    put((results or RUNS) / "held-out.md", text)
    typer.echo(text)
    typer.echo("exit 0: scored")
