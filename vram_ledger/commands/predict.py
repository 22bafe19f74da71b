"""The commands predict, capacity and held-out."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vram_ledger.analysis.ground.cards import CardError, sizes_text
from vram_ledger.commands.files import results_files
from vram_ledger.commands.options import JsonOption, phase_of
from vram_ledger.errors import InputError
from vram_ledger.home import BOUNDARY, GPUS, RESULTS, RUNS
from vram_ledger.names import sequences, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vram_ledger.analysis.allocation.settings import Rules
    from vram_ledger.analysis.predicting.advice import Predictors
    from vram_ledger.analysis.predicting.capacity import Frontier
    from vram_ledger.analysis.predicting.prediction import Prediction
    from vram_ledger.analysis.predicting.predictor import Predictor
    from vram_ledger.harness.records import Phase

REQUESTED = "requested"
CAPACITY = {0: "predicted", 1: "does not fit", 4: "nothing is sure to fit"}
DEFAULT_CONTEXT, DEFAULT_BATCH, DEFAULT_PHASE, WIDE_COLUMNS = "4096", "1", "prefill", 104

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
    from vram_ledger.harness.records import encode

    asked_phase = phase_of(phase or DEFAULT_PHASE)
    count = sequences(batch or DEFAULT_BATCH)
    length, pieces = tokens(context or DEFAULT_CONTEXT, "context"), _chunk(chunk)
    known = functools.partial(_predictors, model, variant, gpu, memory, free, transformers, allocator)
    predictors = known()
    asked = dict.fromkeys((asked_phase, "prefill" if gpu else asked_phase))  # advice on a decode is about its prefill
    if not symbols and _derived_now(predictors(pieces), [(one, count, length) for one in asked]):
        predictors = known()
    found = predictors(pieces).predict(asked_phase, count, length)
    lines = list(advice(predictors, found, pieces))
    if as_json:
        typer.echo(json.dumps({**encode(found), "verdict": found.verdict, "advice": lines}, ensure_ascii=False))
        raise typer.Exit(EXIT_CODES[found.verdict])
    defaults = {"prefill": not phase, "batch": not batch, "context": not context}
    _print(found, defaults, None if variant else class_text(predictors(pieces)))
    for line in lines:
        typer.echo(line)
    code = EXIT_CODES[found.verdict]
    typer.echo(f"exit {code}: {found.verdict or 'predicted'}")
    raise typer.Exit(code)


def _chunk(given: str) -> int:
    return 0 if given.strip() == "0" else tokens(given, "chunk")


def _predictors(
    model: str, variant: str, gpu: str, memory: str, free: str, transformers: str, settings: str
) -> "Predictors":
    """The predictor of the options, by the chunk of its prefill."""
    from vram_ledger.analysis.allocation.settings import rules_set
    from vram_ledger.analysis.ground.cards import card_of, read_amount
    from vram_ledger.analysis.predicting.library import Library

    if memory and not gpu:
        raise CardError("memory is that of a card: name the GPU, too")
    card = card_of(gpu, GPUS, memory) if gpu else None
    outside = read_amount(free) if free else None
    library = Library.of()
    given = rules_set(f"PYTORCH_CUDA_ALLOC_CONF={settings}") if settings else "default"

    @functools.cache
    def predictor(chunk: int, rules: "Rules | None" = None) -> "Predictor":
        return library.predictor(model, variant, card, outside, transformers, chunk, rules or given)

    return predictor


def _derived_now(predictor: "Predictor", asked: "Sequence[tuple[Phase, int, int]]") -> bool:
    """Derives the programs that questions are in want of, where PyTorch's CUDA build is there; whether it made any."""
    missing = [(phase, *found) for phase, *shape in asked if (found := predictor.underived(phase, *shape)) is not None]
    if not missing:
        return False
    from vram_ledger.analysis.derivation.derived_files import derived_path, variant_of, write_derived
    from vram_ledger.analysis.derivation.replays import NotReplayed
    from vram_ledger.analysis.derivation.solved import NotDerived
    from vram_ledger.commands.derive import derived_of
    from vram_ledger.harness.emulation.wheel import NoEmulation, find_wheel

    try:
        find_wheel()
    except NoEmulation as error:
        typer.echo(f"note: no program of it is derived yet, and none can be here ({error})", err=True)
        return False
    made = False
    for phase, configuration, card in missing:
        what = f"{configuration.model} {variant_of(configuration)} {phase}"
        typer.echo(f"{what}: deriving its program on an emulated {card}, once: minutes (not with SYMBOLS=1)", err=True)
        try:
            derived = derived_of(predictor.config, configuration, phase, card)
        except (NotDerived, NotReplayed) as error:
            typer.echo(f"note: {what} can't be derived: {error}", err=True)
        else:
            write_derived(derived, derived_path(RUNS, derived))
            made = True
    return made


def _print(found: "Prediction", defaults: dict[str, bool], class_note: str | None) -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import configuration_text, console
    from vram_ledger.analysis.predicting.advice import failure_text

    out, workload = console(), found.workload
    out.print(configuration_text(workload.configuration), markup=False, soft_wrap=True)
    if class_note:
        out.print(class_note, markup=False, soft_wrap=True)
    said = {name: " (default)" if default else "" for name, default in defaults.items()}
    out.print(
        f"{workload.phase}{said['prefill']}, batch {workload.batch:,}{said['batch']}, context "
        f"{workload.context_tokens:,} tokens{said['context']}",
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("term")
    units = {"GB": 10**9, "GiB": 2**30} if out.width >= WIDE_COLUMNS else {"GiB": 2**30}
    for name in ("bytes", *units):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for name, least, most, source in _rows(found):
        if name == REQUESTED:
            table.add_section()
        ends = tuple(dict.fromkeys((least, most)))
        exact = f"{least:,}" if len(ends) == 1 else "–"
        table.add_row(name, exact, *(" to ".join(f"{e / unit:,.3f}" for e in ends) for unit in units.values()), source)
    out.print(table)
    out.print(f"{found.basis}: {found.origin}", markup=False, soft_wrap=True)
    if found.card is not None:
        card, seen = found.card, f" ({found.seen.word}: seen on this card)" if found.seen else ""
        has = sizes_text(card.least_bytes, card.most_bytes)
        out.print(f"{card.label} has {has}, {card.source}", markup=False, soft_wrap=True)
        if found.failed is not None:
            out.print(failure_text(found.failed), markup=False, soft_wrap=True)
        out.print(f"{found.verdict}{seen}", style="bold", markup=False)


def _rows(found: "Prediction") -> "Iterator[tuple[str, int, int, str]]":
    """The lines of the table: name, least and most bytes, source."""
    for term in found.terms:
        name = f"{term.name} ({found.stage})" if term.name == "transient" and found.stage else term.name
        yield name, term.least_bytes, term.most_bytes, term.source
    yield REQUESTED, found.requested_bytes, found.requested_bytes, "the sum: what the program asks for"
    if found.allocated_bytes is not None:
        yield "allocated", found.allocated_bytes, found.allocated_bytes, "torch.cuda.max_memory_allocated()"
    if found.reserved_bytes is not None:
        times = "once" if found.retries == 1 else f"{found.retries} times"
        retries = f", the cache given back {times}" if found.retries else ""
        yield "reserved", found.reserved_bytes, found.reserved_bytes, f"torch.cuda.max_memory_reserved(){retries}"
        outside = found.outside
        yield outside.name, outside.least_bytes, outside.most_bytes, outside.source
        yield "process", found.least_bytes, found.most_bytes, "what nvidia-smi shows"


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
    known = functools.partial(_predictors, model, variant, gpu, memory, free, transformers, allocator)
    predictor = known()(_chunk(chunk))
    if not symbols and _derived_now(predictor, [(phase, 1, int(DEFAULT_CONTEXT)) for phase in PHASES]):
        predictor = known()(_chunk(chunk))
    assert predictor.card is not None
    found = [frontier(predictor, phase) for phase in PHASES]
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
    prefill, decode = ({row.at: row for row in f.contexts} for f in found)
    if any(decode[at].possible > prefill[at].possible for at in decode) and not found[0].chunk_tokens:
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
