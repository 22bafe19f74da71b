"""The commands about releases of the libraries: versions and bisect."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vram_ledger.analysis.derivation.derived_files import configuration_of
from vram_ledger.analysis.predicting.configs import config_of, named_as
from vram_ledger.analysis.versions.observed import observed, software_of
from vram_ledger.analysis.versions.records import Run, Versions, read_versions, versions_path, write_versions
from vram_ledger.analysis.versions.shapes import shapes_of
from vram_ledger.errors import Fault
from vram_ledger.harness.records import Configuration, Phase, Workload
from vram_ledger.harness.versions.overlays import overlaid
from vram_ledger.harness.versions.running import Job, Phased, run_under


def job_of(config: Path, configuration: Configuration) -> Job:
    """The reference shapes of a model."""
    in_file = functools.partial(Workload, configuration=_in_file(config, configuration))
    return Job(
        config_file=config,
        configuration=_in_file(config, configuration),
        workloads={
            phase: tuple(in_file(phase=phase, batch=b, context_tokens=c) for b, c in shapes_of(configuration, phase))
            for phase in ("prefill", "decode")
        },
    )


def _in_file(config: Path, configuration: Configuration) -> Configuration:
    return dataclasses.replace(configuration, model=config.stem)  # the harness knows no other name


def run_releases(
    wanted: Mapping[str, str],
    asked: Sequence[tuple[Path, Configuration]],
    card: str,
    results: Path,
    overlays: Path,
    tell: Callable[[str], None],
) -> list[tuple[Configuration, Run]]:
    """Runs models under one set of releases (version by distribution), and stores each as soon as it is done."""
    known = {job_of(*one).configuration: named_as(*one) for one in asked}
    made = []
    for job, phases in run_under(overlaid(wanted, overlays, tell), [job_of(*one) for one in asked], card):
        configuration = known[job.configuration]
        run, versions = _record(phases, configuration)
        path = versions_path(results, versions.gpu_label, configuration)
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
