"""The commands about releases of the libraries: versions and bisect."""

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from vram_ledger.analysis.derivation.derived_files import configuration_of, variant_of, version
from vram_ledger.analysis.ground.files import put
from vram_ledger.analysis.ground.kinds import EMULATED
from vram_ledger.analysis.predicting.configs import config_of, named_as
from vram_ledger.analysis.versions.bisection import QUANTITIES, Found, Quantity, bisected
from vram_ledger.analysis.versions.chunked import compared, spans_text, store_compared, stored_compared
from vram_ledger.analysis.versions.observed import observed, software_of
from vram_ledger.analysis.versions.records import (
    PACKAGES,
    Run,
    Versions,
    read_versions,
    stored_versions,
    versions_path,
    write_versions,
)
from vram_ledger.analysis.versions.shapes import shapes_of
from vram_ledger.analysis.versions.steps import along, step_between
from vram_ledger.analysis.versions.tables import answer_text, step_text
from vram_ledger.commands.derive import ModelOption
from vram_ledger.commands.options import JsonOption, phase_of
from vram_ledger.errors import Fault, InputError, NothingKnown
from vram_ledger.harness.asked import Asked, one_card, plan_of
from vram_ledger.harness.gpus import read_gpus
from vram_ledger.harness.models import sha256_of
from vram_ledger.harness.records import Configuration, Phase, Workload, encode
from vram_ledger.harness.versions.overlays import checked, offered, overlaid
from vram_ledger.harness.versions.running import Job, Phased, chunks_under, run_under
from vram_ledger.home import GPUS, RUNS
from vram_ledger.names import sequences, tokens

FIRST = "5.2.0"  # of transformers with models/qwen3_5
DISTRIBUTIONS = {"transformers": "transformers", "fla": "flash-linear-attention", "torch": "torch"}
OVERLAYS = RUNS / "overlays"
told = Console(stderr=True)

VariantOption = Annotated[str, typer.Option(help='Such as "text" or "default".')]
KernelsOption = Annotated[str, typer.Option(help="fla, or torch: transformers' own, taken where fla is missing.")]
EmulateOption = Annotated[str, typer.Option(help="The emulated card that it runs on.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of your own runs, added to what is published.")]
OverlaysOption = Annotated[Path, typer.Option(help="Folder that releases are unpacked in, to stay there.")]
FlaOption = Annotated[list[str] | None, typer.Option(help="Releases of flash-linear-attention, such as 0.5.2.")]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model's variant on a card; results: of the user's own runs."""

    config: Path
    configuration: Configuration
    card: str
    results: Path
    overlays: Path

    @property
    def stored(self) -> Versions | None:
        """What is known of it."""
        return stored_versions(f"emulated-{self.card}", self.configuration, sha256_of(self.config), self.results)

    def run(self, wanted: Mapping[str, str]) -> Run:
        """Its run under releases, by package; it is stored, too. What can't be run here is said before all else."""
        plan_of(Asked(emulate=self.card, model=str(self.config)))
        told.print(f"running under {_wanted_text(wanted)}", soft_wrap=True)
        overlay = overlaid({DISTRIBUTIONS[p]: v for p, v in wanted.items()}, self.overlays, told.print)
        if "transformers" in wanted and not any(
            c.transformers == wanted["transformers"] for c in stored_compared(self.results)
        ):
            store_compared([compared(chunks_under(overlay))], self.results)
        ((_, run),) = run_releases(overlay, [(self.config, self.configuration)], self.card, self.results)
        return run


def _question(model: str, variant: str, kernels: str, card: str, results: Path, overlays: Path) -> Question:
    if kernels not in ("fla", "torch"):
        raise InputError(f"KERNELS is fla or torch, got {kernels!r}")
    config = config_of(model)
    whole = f"{variant}-reference" if kernels == "torch" and "reference" not in variant else variant
    configuration = named_as(config, configuration_of(config.stem, whole))
    label = one_card(read_gpus(GPUS), "EMULATE", card).label
    return Question(config=config, configuration=configuration, card=label, results=results, overlays=overlays)


def show_versions(
    model: ModelOption = "qwen3.5-27b",
    variant: VariantOption = "text",
    kernels: KernelsOption = "fla",
    transformers: Annotated[
        list[str] | None,
        typer.Option(help="Releases, run where they are not stored; minors: the last patch of each; all."),
    ] = None,
    fla: FlaOption = None,
    emulate: EmulateOption = "a100-80gb",
    figure: Annotated[str, typer.Option(help="SVG file to draw what is printed to.")] = "",
    results: ResultsOption = RUNS,
    overlays: OverlaysOption = OVERLAYS,
    as_json: JsonOption = False,
) -> None:
    """What each release of transformers, fla and torch costs; those that are named and not stored are run now."""
    question = _question(model, variant, kernels, emulate, results, overlays)
    asked = [checked(v, "FLA") for v in fla or ()], _releases(transformers or ())
    named = list(_sets(*asked))
    missing = [wanted for wanted in named if _known(question.stored, _here(wanted)) is None]
    for wanted in missing:
        question.run(wanted)
    versions = question.stored
    if versions is None:
        raise NothingKnown(
            f"no release is stored for {question.configuration.model} {variant_of(question.configuration)} on "
            f"{emulate}; TRANSFORMERS=minors runs the last patch of each, a minute each"
        )
    if named:
        wholes = (_known(versions, _here(wanted)) for wanted in named)
        versions = dataclasses.replace(versions, runs=()).with_runs(run for run in wholes if run)
    if as_json:
        typer.echo(json.dumps(encode(versions), ensure_ascii=False))
        return
    _print_all(versions, question, figure, asked[0])
    typer.echo(f"exit 0: sets of releases: {len(versions.runs)}, {len(missing)} of them run now")


def _print_all(shown: Versions, question: Question, figure: str, fla: Sequence[str]) -> None:
    """The tables along each library; those of transformers for each fla that was named, else for the newest."""
    typer.echo(EMULATED.banner)
    first = [({"fla": release} if release else {}) for release in fla or ("",)]
    for package in PACKAGES:
        for fixed in first if package == PACKAGES[0] else [{}]:
            runs = along(shown.runs, package, fixed)
            if len(runs) > 1 or (runs and package == PACKAGES[0]):
                for line in answer_text(shown, runs, package):
                    typer.echo(line)
    typer.echo(f"A prefill in chunks, by values: {spans_text(stored_compared(question.results))}")
    if figure:
        from vram_ledger.analysis.reporting.versions import drawn

        put(Path(figure), drawn(shown, along(shown.runs, PACKAGES[0], {})).svg)


def _releases(named: Sequence[str]) -> list[str]:
    """The releases of transformers that were named, in order."""
    if not named:
        return []
    if set(named) <= {"all", "minors"}:
        every = [v for v in offered("transformers") if version(v) >= version(FIRST)]
        last = {version(v)[:2]: v for v in every}
        return every if "all" in named else list(last.values())
    return [checked(v, "TRANSFORMERS") for v in named]


def _sets(fla: Sequence[str], transformers: Sequence[str]) -> Iterator[dict[str, str]]:
    """Every set of releases that was named; nothing of a package that was not."""
    for t in transformers or ("",):
        for f in fla or ("",):
            wanted = {"transformers": t, "fla": f}
            if named := {package: release for package, release in wanted.items() if release}:
                yield named


def _here(wanted: Mapping[str, str]) -> dict[str, str]:
    """The set that a run under these releases would have: the rest is what is installed; "" for what is not."""
    return {package: wanted.get(package) or _installed(DISTRIBUTIONS[package]) for package in PACKAGES}


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _known(versions: Versions | None, whole: Mapping[str, str]) -> Run | None:
    """The stored run under a whole set of releases; the newest of a package that is ""."""
    every = () if versions is None else versions.runs
    return next((r for r in reversed(every) if all(v in ("", r.software.of(p)) for p, v in whole.items())), None)


def bisect(
    old: Annotated[str, typer.Argument(help="A release, such as 5.17.0.", metavar="FROM")] = "",
    new: Annotated[str, typer.Argument(help="A later one.", metavar="TO")] = "",
    model: ModelOption = "qwen3.5-27b",
    variant: VariantOption = "text",
    kernels: KernelsOption = "fla",
    package: Annotated[str, typer.Option(help="Whose releases these are: transformers or fla.")] = "transformers",
    quantity: Annotated[str, typer.Option(help=f"{', '.join(QUANTITIES)}.")] = "slope",
    phase: Annotated[str, typer.Option(help="prefill or decode")] = "prefill",
    context: Annotated[str, typer.Option(help="Tokens of the shape; one of those that versions runs.")] = "",
    batch: Annotated[str, typer.Option(help="Sequences of the shape.")] = "1",
    emulate: EmulateOption = "a100-80gb",
    results: ResultsOption = RUNS,
    overlays: OverlaysOption = OVERLAYS,
) -> None:
    """Find the release in which a figure moved, by halving: what is stored is not run again."""
    question = _question(model, variant, kernels, emulate, results, overlays)
    if package not in ("transformers", "fla"):
        raise InputError(f"PACKAGE is transformers or fla, got {package!r}")
    asked = _quantity(quantity, phase_of(phase), batch, context, question.configuration)
    ends = checked(old, "FROM"), checked(new, "TO")
    releases, fixed = _between(*ends, package, question)
    runs: dict[str, Run] = {}

    def value(release: str) -> int | None:
        known = _like(question.stored, package, release, fixed)
        runs[release] = known or question.run({package: release})
        figure = asked.of(runs[release])
        typer.echo(f"  {release}: {'none' if figure is None else f'{figure:,}'}{'' if known else ', run now'}")
        return figure

    typer.echo(EMULATED.banner)
    typer.echo(f"{question.configuration.model} {variant_of(question.configuration)}, {asked.text}:")
    found = bisected(releases, value)
    _tell_found(found, asked, package, runs, len(releases))


def _tell_found(found: Found, asked: Quantity, package: str, runs: Mapping[str, Run], among: int) -> None:
    before, after = asked.of(runs[found.before]), asked.of(runs[found.after])
    assert before is not None
    assert after is not None
    if found.without:
        typer.echo(f"without such a figure: {', '.join(found.without)}")
    step = step_between(runs[found.before], runs[found.after], asked.phase)
    for line in () if step is None else step_text(step, package):
        typer.echo(line)
    _, (last, at_last) = found.looked[:2]
    if at_last is not None and at_last != after:
        typer.echo(
            f"not all: from {found.after} to {last} it moves by {at_last - after:+,} more; make bisect there, too"
        )
    typer.echo(
        f"exit 0: it moved in {package} {found.after}: {before:,} in {found.before}, {after:,} in {found.after} "
        f"({after - before:+,}); {len(found.looked)} of {among} releases looked at"
    )


def _quantity(name: str, phase: Phase, batch: str, context: str, configuration: Configuration) -> Quantity:
    shapes = shapes_of(configuration, phase)
    if name not in QUANTITIES:
        raise InputError(f"QUANTITY is {', '.join(QUANTITIES)}, got {name!r}")
    shape = sequences(batch), tokens(context, "CONTEXT") if context else shapes[-1][1]
    if shape not in shapes:
        known = ", ".join(f"{b} × {c:,}" for b, c in shapes)
        raise InputError(
            f"BATCH and CONTEXT are one of the shapes of a {phase}: {known}; got {shape[0]} × {shape[1]:,}"
        )
    return Quantity(name=name, phase=phase, batch=shape[0], context_tokens=shape[1])


def _like(versions: Versions | None, package: str, release: str, fixed: dict[str, str]) -> Run | None:
    """The stored run under a release of one package, the rest as fixed, or the newest that is stored."""
    runs = () if versions is None else along(versions.runs, package, fixed)
    return next((run for run in runs if run.software.of(package) == release), None)


def _between(old: str, new: str, package: str, question: Question) -> tuple[list[str], dict[str, str]]:
    """The releases from one to another, and what the others must be, so that one library alone differs.

    If both ends are stored, those that are; nothing is run then. Else all that pip can fetch, beside what is installed.
    """
    if version(old) >= version(new):
        raise InputError(f"FROM={old} is not before TO={new}")
    stored = question.stored
    known = [run.software.of(package) for run in (() if stored is None else along(stored.runs, package, {}))]
    are_known = {old, new} <= set(known)
    every = known if are_known else offered(DISTRIBUTIONS[package])
    between = [v for v in every if version(old) <= version(v) <= version(new)]
    for name, end in (("FROM", old), ("TO", new)):
        if end not in between:
            raise InputError(f"{name}={end} is no release of {package}; near: {', '.join((between or [*every])[-4:])}")
    return between, {} if are_known else {p: _installed(DISTRIBUTIONS[p]) or "none" for p in PACKAGES if p != package}


def job_of(config: Path, configuration: Configuration) -> Job:
    """The reference shapes of a model."""
    in_file = dataclasses.replace(configuration, model=config.stem)  # the harness knows no other name
    workload = functools.partial(Workload, configuration=in_file)
    return Job(
        config_file=config,
        configuration=in_file,
        workloads={
            phase: tuple(workload(phase=phase, batch=b, context_tokens=c) for b, c in shapes_of(configuration, phase))
            for phase in cast(tuple[Phase, ...], ("prefill", "decode"))
        },
    )


def run_releases(
    overlay: Sequence[Path], asked: Sequence[tuple[Path, Configuration]], card: str, results: Path
) -> list[tuple[Configuration, Run]]:
    """Runs models under the releases of an overlay, and stores each run as soon as it is done."""
    known = {job_of(*one).configuration: one[1] for one in asked}
    made = []
    for job, phases in run_under(overlay, [job_of(*one) for one in asked], card):
        configuration = known[job.configuration]
        run, versions = _record(phases, configuration)
        path = versions_path(results, versions.gpu_label, configuration, versions.config_sha256)
        before = read_versions(path) if path.is_file() else versions
        write_versions(before.with_runs([run]), path)
        made.append((configuration, run))
    return made


def _record(phases: Mapping[Phase, Phased], configuration: Configuration) -> tuple[Run, Versions]:
    """The run, and the file that it would be the first of; :class:`Fault` if no process told what it ran on."""
    environment = next((p.environment for p in phases.values() if p.environment), None)
    if environment is None:
        raise Fault(next(iter(phases.values())).failed)
    run = Run(
        software=software_of(environment),
        emulation=environment.emulation,
        phases=tuple(observed(phase, p.failed, p.kernels, p.fits, p.log) for phase, p in phases.items()),
    )
    return run, Versions(
        name="",
        gpu_label=environment.gpu_label,
        gpu_name=environment.gpu_name or "",
        gpu_capability=environment.gpu_capability or "",
        configuration=configuration,
        config_sha256=environment.config_sha256,
        runs=(run,),
    )


def _wanted_text(wanted: Mapping[str, str]) -> str:
    return " and ".join(f"{package} {release}" for package, release in wanted.items())
