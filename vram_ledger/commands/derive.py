"""The commands about derived programs and their formulas: derive, derived and explain."""

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from vram_ledger.analysis.derivation.derive import check_derivable, derive
from vram_ledger.analysis.derivation.derived import Derived, derived_key
from vram_ledger.analysis.derivation.derived_files import (
    configuration_of,
    derived_path,
    named_formula,
    phases_of,
    write_derived,
)
from vram_ledger.analysis.derivation.ledger import formula_text, ledger_markdown
from vram_ledger.analysis.derivation.moves import moves_text
from vram_ledger.analysis.derivation.pieces import leading_piece
from vram_ledger.analysis.derivation.program import Program
from vram_ledger.analysis.derivation.replays import replaying
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.predicting.configs import config_of, named_as
from vram_ledger.commands.options import JsonOption
from vram_ledger.harness.records import Configuration, Phase, encode
from vram_ledger.harness.splits import Heads
from vram_ledger.home import RUNS
from vram_ledger.names import sequences, tokens

WORKERS, MOST_CONTEXT = 2, 1_048_576
FORMULA = 'A stored formula: a path, or words such as "qwen3.5-27b text prefill 5.17.0"'
VariantOption = Annotated[
    list[str] | None,
    typer.Option(help='Such as "text", "default-static", "text-logits"; else default and text.'),
]
ModelOption = Annotated[str, typer.Option(help="Name in configs/models, or path of a config.json.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of the results.")]
EmulateOption = Annotated[str, typer.Option(help="The emulated card that it runs on.")]


def derived_of(config: Path, configuration: Configuration, phase: Phase, card: str) -> Derived:
    """The program of a config, from runs on an emulated card; :class:`NotDerived` or :class:`NotReplayed`."""
    shapes = read_shapes(config)
    heads = Heads(queries=shapes.query_heads, keys=shapes.kv_heads, dim=shapes.head_dim)
    in_file = dataclasses.replace(configuration, model=config.stem)  # the harness knows no other name
    with replaying(str(config), card, configuration.model_class) as replays:
        found = derive(replays, in_file, phase, heads)
    key = derived_key(found.environment, configuration, phase, found.kernels)
    return dataclasses.replace(found, configuration=configuration, key=key)


def derive_model(
    model: ModelOption = "qwen3.5-27b",
    variant: VariantOption = None,
    emulate: EmulateOption = "a100-80gb",
    results: ResultsOption = RUNS,
) -> None:
    """Derive the programs of a model from runs on an emulated card, and store them."""
    config = config_of(model)
    configurations = [named_as(config, configuration_of(config.stem, v)) for v in variant or ("default", "text")]
    for configuration in configurations:
        check_derivable(configuration)
    jobs = [(c, phase) for c in configurations for phase in phases_of(c)]

    def derived(job: tuple[Configuration, Phase]) -> tuple[Derived, float]:
        began = monotonic()
        return derived_of(config, *job, emulate), monotonic() - began

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        made = []
        for formula, seconds in pool.map(derived, jobs):
            made.append(formula)
            logs = sum(r.logs for r in formula.regimes)
            typer.echo(f"{derived_path(results, formula).name}: {logs} runs, {seconds:.0f} s")
            for line in formula_text(Program(formula)):
                typer.echo(f"  {line}")
    for formula in made:  # all of them or, where one can't be derived or it is interrupted, none
        write_derived(formula, derived_path(results, formula))
    typer.echo(f"exit 0: derived, {len(made)} programs below {results}")


def print_ledger(
    file: Annotated[str, typer.Argument(help=FORMULA, metavar="FILE")] = "",
    batch: Annotated[str, typer.Option(help="Sequences.")] = "1",
    context: Annotated[str, typer.Option(help="Tokens of the prompt, or already cached.")] = "4096",
    as_json: JsonOption = False,
) -> None:
    """Print a formula, and the closed ledger of the piece that is the peak at one shape; without FILE, list them."""
    formula = named_formula(file, "FILE")
    program = Program(formula)
    shape = sequences(batch), tokens(context, "context")
    piece, at = leading_piece(program, *shape)
    if as_json:
        peak = {"batch": shape[0], "context_tokens": shape[1], "peak_bytes": program.peak_bytes(*shape)}
        typer.echo(json.dumps(peak | {"piece": encode(piece), "formula": encode(formula)}, ensure_ascii=False))
        return
    _print([formula.name, *formula_text(program), "", *ledger_markdown(program, piece, at)])
    typer.echo(f"exit 0: {program.peak_bytes(*shape):,} B at the peak")


def explain_change(
    old: Annotated[str, typer.Argument(help=FORMULA, metavar="FROM")] = "",
    new: Annotated[str, typer.Argument(help="The one to compare it with, in the same way.", metavar="TO")] = "",
    as_json: JsonOption = False,
) -> None:
    """Name what moved between two formulas: coefficients, and the tensors that came or went."""
    lines = list(moves_text(Program(named_formula(old, "FROM")), Program(named_formula(new, "TO"))))
    if as_json:
        typer.echo(json.dumps(lines, ensure_ascii=False))
        return
    _print(lines)
    typer.echo("exit 0: compared")


def _print(lines: list[str] | Iterator[str]) -> None:
    for line in lines:
        typer.echo(line)
