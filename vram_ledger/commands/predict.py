"""The commands predict, capacity and held-out."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vram_ledger.analysis.ground.cards import sizes_text
from vram_ledger.commands.files import results_files
from vram_ledger.commands.options import JsonOption, phase_of
from vram_ledger.commands.questions import (
    CacheOption,
    DtypeOption,
    KernelsOption,
    LogitsOption,
    Question,
    derived_now,
)
from vram_ledger.errors import InputError, NothingKnown
from vram_ledger.home import BOUNDARY, RESULTS, RUNS
from vram_ledger.names import sequences, tokens

if TYPE_CHECKING:
    from vram_ledger.analysis.predicting.advice import Predictors
    from vram_ledger.analysis.predicting.capacity import Frontier
    from vram_ledger.analysis.predicting.prediction import Prediction
    from vram_ledger.analysis.predicting.predictor import Predictor

CAPACITY = {0: "predicted", 1: "does not fit", 4: "nothing is sure to fit"}
DEFAULT_CONTEXT, DEFAULT_BATCH, DEFAULT_PHASE = "4096", "1", "prefill"

ModelOption = Annotated[str, typer.Option(help="Name in configs/models, path of a config.json, or its folder.")]
GpuOption = Annotated[str, typer.Option(help="A card, as people write it: a100-80gb, RTX 4090, NVIDIA H100 80GB HBM3.")]
MemoryOption = Annotated[str, typer.Option(help='What the card reports, such as "79.1GiB" (nvidia-smi).')]
FreeOption = Annotated[
    str, typer.Option(help="Taken beside PyTorch's allocator: CUDA context, modules, neighbours; such as 1GiB.")
]
VariantOption = Annotated[str, typer.Option(help='As for derive: "text", "default-static"; else the config\'s class.')]
TransformersOption = Annotated[str, typer.Option(help="Use only what is known of this version; else the newest.")]
AllocatorOption = Annotated[
    str, typer.Option(help='The allocator\'s settings, as in PYTORCH_CUDA_ALLOC_CONF: "expandable_segments:True".')
]
SymbolsOption = Annotated[
    bool, typer.Option("--symbols", help="Where no program is derived yet, answer from that in symbols; derive none.")
]
ChunkOption = Annotated[str, typer.Option(help="Tokens of a prefill's chunks; 0: single shot.")]


def predict_memory(
    model: ModelOption = "qwen3.5-27b",
    gpu: GpuOption = "",
    context: Annotated[str, typer.Option(help="Tokens of the prompt, or already cached: 131072, 128k.")] = "",
    batch: Annotated[str, typer.Option(help="Sequences.")] = "",
    phase: Annotated[str, typer.Option(help="prefill or decode.")] = "",
    chunk: ChunkOption = "0",
    variant: VariantOption = "",
    kernels: KernelsOption = "",
    logits: LogitsOption = "",
    cache: CacheOption = "",
    dtype: DtypeOption = "",
    memory: MemoryOption = "",
    free: FreeOption = "",
    transformers: TransformersOption = "",
    allocator: AllocatorOption = "",
    symbols: SymbolsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a workload takes, term by term, where the numbers come from, and whether it fits a GPU.

    Exit code: 0 fits (or no card was asked about), 1 does not fit, 4 within the margin or nothing known.
    """
    from vram_ledger.analysis.predicting.advice import advice, class_text
    from vram_ledger.analysis.predicting.prediction import EXIT_CODES
    from vram_ledger.commands.answers import print_answer
    from vram_ledger.harness.records import encode

    asked_phase = phase_of(phase or DEFAULT_PHASE)
    count = sequences(batch or DEFAULT_BATCH)
    length, pieces = tokens(context or DEFAULT_CONTEXT, "context"), _chunk(chunk)
    choices = {"kernels": kernels, "logits": logits, "cache": cache, "dtype": dtype}
    question = Question(
        model=model, variant=variant, gpu=gpu, memory=memory, free=free, transformers=transformers, allocator=allocator,
        **choices,
    )  # fmt: skip
    predictors = question.predictors()
    asked = dict.fromkeys((asked_phase, "prefill" if gpu else asked_phase))  # advice on a decode is about its prefill
    if not symbols and derived_now(predictors(pieces), [(one, count, length) for one in asked]):
        predictors = question.predictors()
    found = predictors(pieces).predict(asked_phase, count, length)
    other = None if variant else _other_class(predictors, found, pieces)
    lines = list(advice(predictors, found, pieces))
    if as_json:
        also = None if other is None else {**encode(other), "verdict": other.verdict}
        answer = {**encode(found), "verdict": found.verdict, "advice": lines, "text_class": also}
        typer.echo(json.dumps(answer, ensure_ascii=False))
        raise typer.Exit(EXIT_CODES[found.verdict])
    defaults = {"phase": not phase, "batch": not batch, "context": not context}
    note = None if variant else class_text(predictors(pieces))
    print_answer(found, defaults, note, None if other is None else ("text", other))
    for line in lines:
        typer.echo(line)
    code = EXIT_CODES[found.verdict]
    typer.echo(f"exit {code}: {found.verdict or 'predicted'}")
    raise typer.Exit(code)


def _other_class(predictors: "Predictors", found: "Prediction", chunk: int) -> "Prediction | None":
    """The same of the text class, where the config's own has a vision tower."""
    workload = found.workload
    if predictors(chunk).shapes.vision is None:
        return None
    with suppress(NothingKnown):
        text = predictors(chunk, model_class="Qwen3_5ForCausalLM")
        return text.predict(workload.phase, workload.batch, workload.context_tokens)
    return None


def _chunk(given: str) -> int:
    return 0 if given.strip() == "0" else tokens(given, "chunk")


def show_capacity(
    gpu: GpuOption = "",
    model: ModelOption = "qwen3.5-27b",
    chunk: ChunkOption = "0",
    variant: VariantOption = "",
    memory: MemoryOption = "",
    free: FreeOption = "",
    transformers: TransformersOption = "",
    allocator: AllocatorOption = "",
    symbols: SymbolsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what fits a GPU: the longest context for each batch, and the largest batch for each context.

    Exit code: 0 if anything is sure to fit, 1 if nothing can, 4 if something may.
    """
    from vram_ledger.analysis.predicting.advice import weights_text
    from vram_ledger.analysis.predicting.capacity import frontier
    from vram_ledger.harness.records import PHASES, encode

    if not gpu:
        raise InputError("capacity is that of a card: name the GPU (GPU=h200, --gpu h200)")
    question = Question(
        model=model, variant=variant, gpu=gpu, memory=memory, free=free, transformers=transformers, allocator=allocator
    )
    predictor = question.predictors()(_chunk(chunk))
    phases = [phase for phase in PHASES if phase == "prefill" or predictor.configuration.cache != "none"]
    if not symbols and derived_now(predictor, [(phase, 1, int(DEFAULT_CONTEXT)) for phase in phases]):
        predictor = question.predictors()(_chunk(chunk))
    assert predictor.card is not None
    found = [frontier(predictor, phase) for phase in phases]
    fits = any(row.possible for f in found for row in f.contexts)
    code = 0 if any(row.certain for f in found for row in f.contexts) else 4 if fits else 1
    if as_json:
        typer.echo(json.dumps([encode(f) for f in found], ensure_ascii=False))
        raise typer.Exit(code)
    if fits:
        _print_frontiers(predictor, found)
    else:
        typer.echo(weights_text(predictor, predictor.card) or "Not one sequence of one token fits beside the weights.")
    typer.echo(f"exit {code}: {CAPACITY[code]}")
    raise typer.Exit(code)


def _print_frontiers(predictor: "Predictor", found: "list[Frontier]") -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import configuration_text, console
    from vram_ledger.analysis.ground.kinds import predicted_banner

    out = console()
    assert predictor.card is not None
    has = sizes_text(predictor.card.least_bytes, predictor.card.most_bytes)
    out.print(configuration_text(predictor.configuration), markup=False, soft_wrap=True)
    out.print(f"{predictor.card.label} has {has}", markup=False)
    out.print(predicted_banner(word for f in found for word in f.words), style="bold magenta", markup=False)
    out.print(
        '"a to b": a fits, and all below a that was looked at; beyond b nothing was found to fit, between them it may; '
        f"≥: nothing longer was tried, the model ends at {predictor.most_context_tokens:,} tokens; –: nothing fits.",
        markup=False,
        soft_wrap=True,
    )
    for title, first in (("longest context", "batch"), ("largest batch", "context")):
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column(first, justify="right")
        columns = [f.contexts if first == "batch" else f.batches for f in found]
        for f in found:
            table.add_column(f.phase, justify="right", no_wrap=True)
        for rows in zip(*columns, strict=True):
            table.add_row(f"{rows[0].at:,}", *(largest.text for largest in rows))
        out.print(table)
    prefill, *others = ({row.at: row for row in f.contexts} for f in found)
    further = any(decode[at].possible > prefill[at].possible for decode in others for at in decode)
    if further and not found[0].chunk_tokens:
        out.print(
            "Where a decode's context is longer than the prefill's, its prompt has to be fed in chunks; CHUNK=8192 "
            "says how far that goes.",
            markup=False,
            soft_wrap=True,
        )


def score_held_out(
    file: Annotated[list[Path] | None, typer.Option(help="File of make boundary, folder of them, or pattern.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of make boundary's files, and for held-out.md; else the published ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold what is predicted against what cards, emulated or real, counted at shapes that they were asked for."""
    from vram_ledger.analysis.ground.files import put
    from vram_ledger.analysis.predicting.held_out import held_out, held_out_markdown
    from vram_ledger.analysis.predicting.library import Library
    from vram_ledger.harness.lines import read
    from vram_ledger.harness.records import encode

    library = Library.of()
    paths = results_files(file) if file else sorted((results or RESULTS).glob(f"{BOUNDARY}/*/*/*.jsonl"))
    if not paths:
        raise InputError(f"{results or RESULTS} has no files of make boundary; name one (FILE=)")
    scores = [row for found in map(read, paths) for row in held_out(found, library.programs(found))]
    text = "\n".join(held_out_markdown(scores)) + "\n"
    put((results or RUNS) / "held-out.md", text)
    if as_json:
        typer.echo(json.dumps([encode(score) for score in scores], ensure_ascii=False))
        return
    typer.echo(text)
    typer.echo("exit 0: scored")
