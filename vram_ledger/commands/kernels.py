"""The command kernels: which implementation each stage of a model takes in an environment, and what another would."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vram_ledger.analysis.derivation.derived_files import MODEL_CLASSES
from vram_ledger.analysis.ground.cards import card_of, sizes_text
from vram_ledger.analysis.predicting.workspace import capability_of
from vram_ledger.commands.options import JsonOption
from vram_ledger.commands.questions import DtypeOption, Question
from vram_ledger.errors import InputError, NothingKnown, WrongEnvironment
from vram_ledger.harness.records import PHASES, Phase
from vram_ledger.home import GPUS
from vram_ledger.names import sequences, tokens

if TYPE_CHECKING:
    from vram_ledger.analysis.predicting.advice import Predictors
    from vram_ledger.harness.installed import Installed, Stage

NAMES = {"fla": "fla", "torch": "torch reference"}


def show_kernels(
    model: Annotated[str, typer.Option(help="Name in configs/models, path of a config.json, or its folder.")] = (
        "qwen3.5-27b"
    ),
    gpu: Annotated[str, typer.Option(help="The card that is meant; else the first one that torch sees.")] = "",
    emulate: Annotated[str, typer.Option(help="The same, of a card that is only pretended.")] = "",
    dtype: DtypeOption = "",
    context: Annotated[str, typer.Option(help="Tokens of the prompt at which the peaks are told.")] = "8192",
    batch: Annotated[str, typer.Option(help="Sequences.")] = "1",
    interpreter: Annotated[str, typer.Option(help="The Python of another environment to ask about.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say which implementation each stage takes in your environment, why, and what the other one would take.

    It starts that environment's Python and imports torch and fla there, which takes seconds. Exit code: 0 the kernels
    run, 1 the delta rule or attention silently falls back, 3 no model of the family runs there, 4 there is no card.
    """
    from vram_ledger.harness.installed import ask, stages_of

    if gpu and emulate:
        raise InputError(f"GPU={gpu} and EMULATE={emulate} contradict each other; give one of them")
    card = card_of(gpu or emulate, GPUS).label if gpu or emulate else ""
    shape = sequences(batch), tokens(context, "context")
    question = Question(
        model=model, variant="", gpu="", memory="", free="", transformers="", allocator="", dtype=dtype
    )  # fmt: skip
    predictor = question.predictors()(0)
    there = ask(interpreter)
    capability = _capability(card) if card else there.card
    stages = stages_of(there, capability, predictor.configuration.dtype, predictor.shapes.head_dim)
    others = [] if there.nothing_runs else list(_others(question, stages, *shape))
    fallen = [stage.name for stage in stages if stage.fallen and stage.name != "convolution"]
    if as_json:
        from vram_ledger.harness.records import encode

        told = {"environment": encode(there), "nothing_runs": there.nothing_runs}
        typer.echo(json.dumps({**told, "stages": [encode(s) for s in stages], "peaks": others}, ensure_ascii=False))
    else:
        _print(there, card, capability, stages, others)
    if there.nothing_runs:
        raise WrongEnvironment(f"no model of the family runs with {there.executable}: {there.nothing_runs}")
    why = {0: "the kernels run", 1: f"silently the fall-back: {', '.join(fallen)}", 4: "no card; GPU= names one"}
    code = 1 if fallen else 0 if capability else 4
    if not as_json:
        typer.echo(f"exit {code}: {why[code]}")
    raise typer.Exit(code)


def _capability(label: str) -> tuple[int, int] | None:
    major, _, minor = capability_of(label, GPUS).partition(".")
    return (int(major), int(minor)) if major else None


def _others(question: Question, stages: "tuple[Stage, ...]", batch: int, context: int) -> "Iterator[str]":
    """The peaks of both delta rules, and the difference, of a prefill and a decode; of the text class where the
    config's own has no program."""
    if any(stage.fallen for stage in stages if stage.name == "attention"):
        yield "The peaks are not known: no program is derived of attention without a fused kernel."
        return
    predictors = question.predictors()
    runs = "torch" if stages[0].fallen else "fla"
    other = "fla" if runs == "torch" else "torch"
    yield f"At batch {batch:,}, {context:,} tokens (BATCH=, CONTEXT=):"
    for phase in PHASES:
        yield _peaks(predictors, phase, (runs, other), batch, context)


def _peaks(predictors: "Predictors", phase: Phase, rules: tuple[str, str], batch: int, context: int) -> str:
    """The peak with the delta rule that runs, and by how much the other's differs."""
    why = ""
    for changed, words in ((None, ""), (MODEL_CLASSES["text"], ", text class")):
        chosen: dict[str, Any] = {} if changed is None else {"model_class": changed}
        try:
            here, there = (predictors(0, kernels=rule, **chosen).predict(phase, batch, context) for rule in rules)
        except NothingKnown as error:
            why = why or str(error)
            continue
        more = there.requested_bytes - here.requested_bytes
        return (
            f"{phase}{words}: {sizes_text(here.requested_bytes)} asked for at the peak with {NAMES[rules[0]]}; "
            f"with {NAMES[rules[1]]} {abs(more):,} B {'more' if more >= 0 else 'less'}"
        )
    return f"{phase}: not known. {why}."


def _print(
    there: "Installed",
    card: str,
    capability: tuple[int, int] | None,
    stages: "tuple[Stage, ...]",
    others: list[str],
) -> None:
    from rich import box
    from rich.table import Table

    from vram_ledger.analysis.evidence.tables import console

    out = console()
    versions = (f"{name} {there.versions[name] or 'absent'}" for name in ("torch", "transformers"))
    out.print(f"{there.executable} (Python {there.python}): {', '.join(versions)}", markup=False, soft_wrap=True)
    seen = (there.torch or {}).get("card")
    which = card or seen or "no card"
    shown = "" if capability is None else f" (capability {capability[0]}.{capability[1]})"
    out.print(f"on {which}{shown}" if card or seen else which, markup=False)
    if not there.nothing_runs:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("stage", "prefill", "decode", "why"):
            table.add_column(name, overflow="fold")
        for stage in stages:
            style = "yellow" if stage.fallen else None
            table.add_row(stage.name, stage.prefill, stage.decode, stage.why, style=style)
        out.print(table)
    for line in others:
        out.print(line, markup=False, soft_wrap=True)
    if any(s.fallen for s in stages if s.name == "convolution") and not there.nothing_runs:
        out.print("With causal-conv1d the convolution: not known, no program of it is derived.", markup=False)
