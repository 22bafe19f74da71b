"""The commands about derived formulas: derive, verify, ledger and explain."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np
import typer

from analysis.derivation.derive import Program, check_derivable, derive
from analysis.derivation.derived import Derived
from analysis.derivation.derived_files import configuration_of, derived_path, phases_of, read_derived, write_derived
from analysis.derivation.forms import Shape
from analysis.derivation.ledger import formula_text, ledger_markdown
from analysis.derivation.moves import moves_text
from analysis.derivation.replays import ROOT, model_name, replaying
from analysis.files import put, with_rows
from harness.events import live_bytes, peak_event
from harness.records import Configuration, Phase

WORKERS = 2
VariantOption = Annotated[
    list[str] | None,
    typer.Option(help='Such as "text", "default-static", "text-chunk2048"; else default and text.'),
]
ModelOption = Annotated[str, typer.Option(help="Name in configs/models, or path of a config.json.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of the results.")]
FakeOption = Annotated[str, typer.Option(help="The card that the fake device answers as.")]


def derive_model(
    model: ModelOption = "qwen3.5-27b",
    variant: VariantOption = None,
    fake: FakeOption = "h200",
    results: ResultsOption = ROOT / "results",
) -> None:
    """Derive the formulas of a model from replays on the fake device, and store them."""
    configurations = [configuration_of(model_name(model), v) for v in variant or ("default", "text")]
    for configuration in configurations:
        check_derivable(configuration)
    jobs = [(c, phase) for c in configurations for phase in phases_of(c)]

    def derived(job: tuple[Configuration, Phase]) -> tuple[Derived, float]:
        began = monotonic()
        with replaying(model, fake, job[0].model_class) as replays:
            return derive(replays, *job), monotonic() - began

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        for formula, seconds in pool.map(derived, jobs):
            path = derived_path(results, formula)
            write_derived(formula, path)
            logs = sum(r.logs for r in formula.regimes)
            typer.echo(f"{path.name}: {logs} replays, {seconds:.0f} s")
            for line in formula_text(formula):
                typer.echo(f"  {line}")


def verify_formulas(
    files: Annotated[list[Path], typer.Argument(help="Derived formulas.")],
    model: Annotated[str, typer.Option(help="Path of the config.json, if it is not in configs/models.")] = "",
    fake: FakeOption = "h200",
    shapes: Annotated[int, typer.Option(help="Random shapes to replay.")] = 200,
    most_batch: Annotated[int, typer.Option(help="Largest batch.")] = 64,
    most_context: Annotated[int, typer.Option(help="Longest context.")] = 262_144,
    least_context: Annotated[int, typer.Option(help="Shortest context.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the shapes.")] = 1,
) -> None:
    """Replay random shapes and hold each formula against them, to the byte; writes checks/<formula> beside it."""
    worst = 0
    for path in files:
        formula = read_derived(path)
        chosen = random_shapes(shapes, most_batch, most_context, seed, least_context)
        configuration = formula.configuration
        with replaying(model or configuration.model, fake, configuration.model_class) as replays:
            program = Program(replays, configuration, formula.phase)
            formula.check(
                program.workload(chosen[0]), replays.environment, replays.kernels(program.workload(chosen[0]))
            )
            rows = [_row(formula, program, shape) for shape in chosen]
        wrong = max(max(abs(r["peak_difference"]), abs(r["held_difference"])) for r in rows)
        put(path.parent / "checks" / path.name, _check_text(formula, rows, seed, wrong))
        typer.echo(f"{path.name}: {len(rows)} shapes, largest difference {wrong:,} B")
        worst = max(worst, wrong)
    raise typer.Exit(1 if worst else 0)


def random_shapes(count: int, most_batch: int, most_context: int, seed: int, least_context: int = 1) -> list[Shape]:
    """Distinct shapes, log-uniform in both axes, so that short contexts are among them."""
    chance = np.random.default_rng(seed)
    found: dict[Shape, None] = {}
    while len(found) < count:
        low, high = np.log([1, least_context]), np.log([most_batch + 1, most_context + 1])
        b, c = np.exp(chance.uniform(low, high)).astype(int).tolist()
        found[Shape(batch=min(b, most_batch), context_tokens=min(max(c, least_context), most_context))] = None
    return list(found)


def _row(formula: Derived, program: Program, shape: Shape) -> dict[str, int]:
    log = program.whole(shape)
    _, peak = peak_event(log, log.marks["start"], log.marks["end"])
    held = live_bytes(log)[log.marks["end"] - 1]
    at = shape.batch, shape.context_tokens
    return {
        "batch": at[0],
        "context_tokens": at[1],
        "peak_bytes": peak,
        "held_bytes": held,
        "peak_difference": formula.peak_bytes(*at) - peak,
        "held_difference": formula.held_bytes(*at) - held,
    }


def _check_text(formula: Derived, rows: list[dict[str, int]], seed: int, wrong: int) -> str:
    names = list(rows[0])
    head: dict[str, Any] = {
        "formula": formula.name,
        "seed": seed,
        "shapes": len(rows),
        "not_multiples_of_64": sum(r["context_tokens"] % 64 > 0 for r in rows),
        "largest_difference_bytes": wrong,
        "columns": names,
    }
    return with_rows(head, rows=([r[n] for n in names] for r in rows))


def print_ledger(
    file: Annotated[Path, typer.Argument(help="A derived formula.")],
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    context: Annotated[int, typer.Option(help="Tokens of the prompt, or already cached.")] = 4096,
) -> None:
    """Print a formula, and the closed ledger of the piece that is the peak at one shape."""
    formula = read_derived(file)
    regime, piece = formula.leading(batch, context)
    _print([*formula_text(formula), "", *ledger_markdown(formula, regime, piece, batch, context)])


def explain_change(
    old: Annotated[Path, typer.Argument(help="A derived formula.")],
    new: Annotated[Path, typer.Argument(help="The one to compare it with.")],
) -> None:
    """Name what moved between two formulas: coefficients, and the tensors that came or went."""
    _print(moves_text(read_derived(old), read_derived(new)))


def _print(lines: list[str] | Iterator[str]) -> None:
    for line in lines:
        typer.echo(line)
