"""predict and capacity: of transformers as in predict.py, or of a server (RUNTIME=vllm, sglang or llama.cpp)."""

import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vram_ledger.commands.predict import predict_memory, show_capacity
from vram_ledger.errors import InputError
from vram_ledger.home import GPUS
from vram_ledger.names import sequences, tokens

if TYPE_CHECKING:
    from vram_ledger.analysis.ground.cards import Card
    from vram_ledger.analysis.serving.checkpoint import Stored
    from vram_ledger.analysis.serving.model import Served
    from vram_ledger.analysis.serving.plan import Asked, Figure, Plan, Span, Term

OWN = "transformers"
RUNTIMES = {"vllm": "vLLM", "sglang": "SGLang", "llama.cpp": "llama.cpp"}
MEANT = {"llama-cpp": "llama.cpp", "llamacpp": "llama.cpp", "llama_cpp": "llama.cpp"}
# Options of predict and capacity that a server's question has, too; the others are of transformers alone.
SHARED = {"model", "gpu", "context", "batch", "variant", "memory", "free", "as_json"}
DEFAULT_CONTEXT, DEFAULT_BATCH, WIDE_COLUMNS = "4096", "1", 100
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (1024, 4096, 16_384, 32_768, 65_536, 131_072, 262_144)
DECIMAL = r"\d{0,3}\.?\d{1,15}"
MOST_CARDS, MOST_DRAFTS = 64, 64
_option = functools.partial(typer.Option, rich_help_panel="Of a server")
Command = Callable[..., None]


def _options(
    runtime: Annotated[str, _option(help="transformers, or a server: vllm, sglang, llama.cpp.")] = OWN,
    utilization: Annotated[
        str,
        _option(help="A server's share of the card: gpu_memory_utilization, mem_fraction_static."),
    ] = "",
    kv_type: Annotated[str, _option(help="A server's KV cache: fp8; q8_0, q4_0; else as its default.")] = "",
    prefix_caching: Annotated[str, _option(help="1 or 0: whether a server keeps the prefixes of requests.")] = "",
    drafts: Annotated[int, _option(help="Tokens that a server drafts ahead; 0: no speculation.")] = 0,
    weights: Annotated[
        str,
        _option(help="What a server loads: a checkpoint's folder, index or file, .gguf, or Q4_K_M."),
    ] = "",
    tensor_parallel: Annotated[int, _option(help="Cards that a server shares the model among.")] = 1,
    pool: Annotated[str, _option(help='A server\'s pool as its log prints it: "55.08GiB".')] = "",
) -> None:
    """The options of a server's question."""


def or_serve(ask: str) -> Callable[[Command], Command]:
    """A command that answers for a server as well: it gets a server's options, and RUNTIME says whose answer it is.

    ask: "predict" or "capacity".
    """

    def both(command: Command) -> Command:
        own, more = inspect.signature(command), inspect.signature(_options)

        @functools.wraps(command)
        def answered(**given: Any) -> None:
            serving = {name: given.pop(name) for name in more.parameters}
            runtime = runtime_of(serving.pop("runtime"))
            if runtime == OWN:
                _unchanged(serving, more.parameters, "is a server's: name the RUNTIME, too (vllm, sglang, llama.cpp)")
                command(**given)
                return
            others = {name: value for name, value in given.items() if name not in SHARED}
            _unchanged(others, own.parameters, f"is not known of {RUNTIMES[runtime]}; it is transformers'")
            shared = {name: value for name, value in given.items() if name in SHARED}
            (_predict if ask == "predict" else _capacity)(runtime, shared, serving)

        answered.__signature__ = own.replace(parameters=[*own.parameters.values(), *more.parameters.values()])  # type: ignore[attr-defined]
        hints = typing.get_type_hints(command, include_extras=True) | typing.get_type_hints(
            _options, include_extras=True
        )
        answered.__annotations__ = hints
        return answered

    return both


predict = or_serve("predict")(predict_memory)
capacity = or_serve("capacity")(show_capacity)


def runtime_of(name: str) -> str:
    """The runtime that is meant; :class:`InputError` says which there are."""
    wanted = name.strip().lower()
    wanted = MEANT.get(wanted, wanted)
    if wanted not in (OWN, *RUNTIMES):
        raise InputError(f"runtime {name!r} is none of {', '.join((OWN, *RUNTIMES))}")
    return wanted


def _unchanged(values: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], why: str) -> None:
    """:class:`InputError` names the first option that was given."""
    for name, value in values.items():
        if value != parameters[name].default:
            raise InputError(f"{name.upper()} {why}")


def _predict(runtime: str, shared: dict[str, Any], serving: dict[str, Any]) -> None:
    context = tokens(shared["context"] or DEFAULT_CONTEXT, "context")
    batch = sequences(shared["batch"] or DEFAULT_BATCH)
    asked = _asked(runtime, shared, serving, context)
    most = asked.model.most_context_tokens
    if most is not None and context > most:
        raise InputError(f"{asked.model.name} ends at {most:,} tokens, asked for {context:,}")
    plan = _plan(runtime, asked)
    verdict, code = _verdict(plan, batch, context)
    if shared["as_json"]:
        asked_for = {"batch": batch, "context_tokens": context, "verdict": verdict}
        typer.echo(json.dumps({**_json(plan, asked), **asked_for}, ensure_ascii=False))
        raise typer.Exit(code)
    said = {name: " (default)" if not shared[name] else "" for name in ("batch", "context")}
    _print(plan, asked, f"batch {batch:,}{said['batch']}, context {context:,} tokens{said['context']}")
    _print_taken(plan, batch, context)
    typer.echo(f"exit {code}: {verdict or 'predicted'}")
    raise typer.Exit(code)


def _capacity(runtime: str, shared: dict[str, Any], serving: dict[str, Any]) -> None:
    if not (shared["gpu"] or serving["pool"]):
        raise InputError("capacity is that of a card or a pool: name the GPU (GPU=h200) or the pool (POOL=55.08GiB)")
    asked = _asked(runtime, shared, serving, None)
    most = asked.context_tokens
    plan = _plan(runtime, asked)
    longest = [(n, *(plan.longest(n, most, sure) for sure in (True, False))) for n in BATCHES]
    largest = [(c, *(plan.largest(c, sure) for sure in (True, False))) for c in CONTEXTS if c <= most]
    code = 0 if longest[0][1] else 4 if longest[0][2] else 1
    if shared["as_json"]:
        tables = {
            "longest_context": [{"batch": at, "certain": low, "possible": high} for at, low, high in longest],
            "largest_batch": [{"context_tokens": at, "certain": low, "possible": high} for at, low, high in largest],
        }
        typer.echo(json.dumps({**_json(plan, asked), **tables}, ensure_ascii=False))
        raise typer.Exit(code)
    _print(plan, asked, f"requests of up to {most:,} tokens")
    if code == 1:
        _print_taken(plan, 1, 1)
    else:
        _print_tables(longest, largest, most)
    typer.echo(f"exit {code}: {('predicted', 'does not fit', '', '', 'nothing is sure to fit')[code]}")
    raise typer.Exit(code)


def _asked(runtime: str, shared: Mapping[str, Any], serving: Mapping[str, Any], context: int | None) -> "Asked":
    """The question of the options. context: of the longest request; ``None``: as long as the model goes."""
    from vram_ledger.analysis.ground.cards import card_asked
    from vram_ledger.analysis.predicting.configs import config_of, name_of
    from vram_ledger.analysis.serving.held import printed_pool
    from vram_ledger.analysis.serving.llama_cpp import bits_of
    from vram_ledger.analysis.serving.model import read_served
    from vram_ledger.analysis.serving.plan import Asked

    path = config_of(shared["model"])
    model = read_served(path, name_of(path))
    if serving["pool"] and (serving["utilization"] or shared["gpu"]):
        raise InputError("POOL is what a log printed of a pool; GPU and UTILIZATION are for working one out")
    card = card_asked(shared["gpu"], GPUS, shared["memory"])
    bits = bits_of(serving["weights"])
    return Asked(
        model=model,
        text=_is_text(shared["variant"]),
        context_tokens=context or model.most_context_tokens or max(CONTEXTS),
        kv_type=serving["kv_type"],
        prefix_caching=_flag(serving["prefix_caching"]),
        drafts=_count(serving["drafts"], "drafts", 0, MOST_DRAFTS),
        cards=_count(serving["tensor_parallel"], "tensor_parallel", 1, MOST_CARDS),
        weights=None if bits else _stored(serving["weights"], model, path),
        bits=bits,
        card=card,
        outside=_outside(shared, runtime, card),
        utilization=_share(serving["utilization"]),
        pool=_pool(serving["pool"], printed_pool) if serving["pool"] else None,
    )


def _stored(weights: str, model: "Served", config: Path) -> "Stored | None":
    """The checkpoint that is named; of quantised weights that are not, the one beside their config, if there is one."""
    from vram_ledger.analysis.serving.checkpoint import has_weights, read_stored
    from vram_ledger.analysis.serving.llama_cpp import BITS

    if not weights:
        return read_stored(config.parent) if model.quantised and has_weights(config.parent) else None
    if not Path(weights).exists():
        raise InputError(
            f"weights {weights!r} is neither a checkpoint that is there nor a quantisation known by its name "
            f"({', '.join(BITS)})"
        )
    return read_stored(Path(weights))


def _outside(shared: Mapping[str, Any], runtime: str, card: "Card | None") -> "Span | None":
    from vram_ledger.analysis.ground.cards import read_amount, section_of
    from vram_ledger.analysis.serving.plan import exactly

    if shared["free"]:
        if runtime == "vllm":
            raise InputError("FREE changes nothing for vLLM, which takes its share of the whole card: UTILIZATION=0.85")
        return exactly(read_amount(shared["free"]))
    known = section_of(card.label, GPUS).get("outside_bytes") if card is not None else None
    return None if known is None else exactly(known)


def _pool(text: str, read: "Callable[[str], Span]") -> "Span":
    from vram_ledger.analysis.ground.cards import read_amount

    read_amount(text)  # says what an amount is
    compact = text.replace(" ", "").replace(",", "")
    if compact[-3:].lower() not in ("gib", "mib"):
        raise InputError(f"a pool is printed in GiB, got {text!r}: vLLM's and SGLang's logs have it so")
    return read(compact[:-3] + {"gib": "GiB", "mib": "MiB"}[compact[-3:].lower()])


def _is_text(variant: str) -> bool:
    if variant not in ("", "default", "text"):
        raise InputError(f"a server loads the default class or the text's, got VARIANT={variant}")
    return variant == "text"


def _flag(text: str) -> bool | None:
    if text == "":
        return None
    if text.lower() not in ("1", "0", "yes", "no", "true", "false"):
        raise InputError(f"PREFIX_CACHING is 1 or 0, got {text!r}")
    return text.lower() in ("1", "yes", "true")


def _count(number: int, what: str, least: int, most: int) -> int:
    if not least <= number <= most:
        raise InputError(f"{what.upper()} is a whole number from {least} to {most}, got {number}")
    return number


def _share(text: str) -> Fraction | None:
    if text == "":
        return None
    # A plain decimal number alone: a fraction may have an exponent that takes for ever to write out.
    share = Fraction(text) if re.fullmatch(DECIMAL, text, re.ASCII) else Fraction(0)
    if not 0 < share <= 1:
        raise InputError(f"UTILIZATION is a share of the card above 0 and at most 1, such as 0.9; got {text[:40]!r}")
    return share


def _plan(runtime: str, asked: "Asked") -> "Plan":
    from vram_ledger.analysis.serving.held import PLANS

    if asked.bits is not None and runtime != "llama.cpp":
        raise InputError(f"{RUNTIMES[runtime]} loads safetensors: WEIGHTS is a folder or an index")
    return PLANS[runtime](asked)


def _verdict(plan: "Plan", batch: int, context: int) -> tuple[str | None, int]:
    if not plan.limits:
        return None, 0
    if plan.fits(batch, context, sure=True):
        return "fits", 0
    if plan.fits(batch, context, sure=False):
        return "within the margin", 4
    return "does not fit", 1


def _json(plan: "Plan", asked: "Asked") -> dict[str, Any]:
    from vram_ledger.harness.records import encode

    found: dict[str, Any] = {"model": asked.model.name, "class": "text" if asked.text else "default", **encode(plan)}
    return found


def _print(plan: "Plan", asked: "Asked", what: str) -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import console
    from vram_ledger.analysis.ground.cards import sizes_text

    out = console()
    wide = out.width >= WIDE_COLUMNS
    text = asked.text or not asked.model.vision_parameters or plan.runtime == "llama.cpp"
    loaded = "text model" if text else "with its vision tower"
    out.print(f"{RUNTIMES[plan.runtime]}: {asked.model.name}, {loaded}", markup=False, soft_wrap=True)
    out.print(what, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("term")
    for name in ("bytes", "GiB") if wide else ("GiB",):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("logs", justify="right")
    table.add_column("from", overflow="fold")
    for name, terms in (("on the card", plan.terms), ("one request", plan.requests)):
        if terms:
            table.add_section()
        for term in terms:
            table.add_row(*_row(term, name, wide))
    out.print(table)
    for figure in plan.figures:
        out.print(_figure(figure), markup=False, soft_wrap=True, highlight=False)
    for note in plan.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True, highlight=False)
    if asked.card is not None:
        has = sizes_text(asked.card.least_bytes, asked.card.most_bytes)
        out.print(f"{asked.card.label} has {has}, {asked.card.source}", markup=False, soft_wrap=True, highlight=False)


def _row(term: "Term", group: str, wide: bool) -> list[str]:
    ends = tuple(dict.fromkeys((term.least_bytes, term.most_bytes)))
    size = " to ".join(f"{end / 2**30:,.3f}" for end in ends)
    exact = [f"{ends[0]:,}" if len(ends) == 1 else "–"] if wide else []
    name = term.name if group == "on the card" else f"{term.name} / request"
    return [name, *exact, size, str(term.logs) if term.logs else "none", term.source]


def _figure(figure: "Figure") -> str:
    said = _ends(figure.least, figure.most, figure.digits)
    checked = {0: "no log", 1: "1 log"}.get(figure.logs, f"{figure.logs} logs")
    unit = figure.unit if figure.unit in ("", "×") else f" {figure.unit}"
    return f"{figure.name}: {said}{unit} ({figure.source}; {checked})"


def _ends(least: float, most: float, digits: int = 0) -> str:
    return " to ".join(dict.fromkeys(f"{end:,.{digits}f}" for end in (least, most)))


def _print_taken(plan: "Plan", batch: int, context: int) -> None:
    """What the requests take of what there is; that there is nothing to take."""
    for limit in plan.limits:
        if limit.most <= 0:
            typer.echo(f"no {limit.name}: what is on the card beside them leaves no room")
        else:
            room = _ends(max(0, limit.least), limit.most)
            typer.echo(f"{limit.name}: {limit.needs(batch, context):,} of {room} taken")


def _print_tables(longest: list[tuple[int, ...]], largest: list[tuple[int, ...]], most: int) -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import console

    out = console()
    for title, first, second, rows, end in (
        ("longest context", "concurrency", "tokens", longest, most),
        ("largest concurrency", "context", "requests", largest, 0),
    ):
        out.print(f"\n{title}", style="italic", markup=False)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column(first, justify="right")
        table.add_column(second, justify="right", no_wrap=True)
        for at, low, high in rows:
            ends = dict.fromkeys((low, high))
            text = " to ".join(f"{'≥ ' if end and one >= end else ''}{one:,}" for one in ends) if high else "–"
            table.add_row(f"{at:,}", text)
        out.print(table)
