"""What a model takes under given releases, and whether its chunks are the model's: a process a set of releases."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.errors import Fault, WrongEnvironment
from vram_ledger.harness.asked import Asked, plan_of, with_room
from vram_ledger.harness.child import START_DEADLINE_S, Child, Nurseries, WorkerFailed
from vram_ledger.harness.emulation.profile import Emulation
from vram_ledger.harness.events import EventLog, unpack
from vram_ledger.harness.models import sha256_of
from vram_ledger.harness.records import (
    Configuration,
    Environment,
    Failure,
    Fits,
    Kernels,
    Phase,
    Workload,
    decode,
    encode,
)
from vram_ledger.harness.replay import NO_GRID
from vram_ledger.harness.runner import BUILD_DEADLINE_S, Plan, describe, environment_of
from vram_ledger.home import python_path

LAST_WORDS = 240  # characters of what a failed process said
CHUNKED, CHUNKED_DEADLINE_S = "vram_ledger.harness.runtimes.chunked", 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Phased:
    """One phase of one model under one set of releases.

    environment: ``None`` if no process could be started. failed: what could not be done, and why; "" if all was.
    kernels: ``None`` if none were seen. fits: what ran, in order. log: of the last workload that ran.
    """

    environment: Environment | None
    kernels: Kernels | None
    fits: tuple[tuple[Workload, Fits], ...]
    log: EventLog | None
    failed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run. config_file: of the model that the configuration names. workloads: by phase, the last one logged."""

    config_file: Path
    configuration: Configuration
    workloads: dict[Phase, tuple[Workload, ...]]


def run_under(overlay: Sequence[Path], jobs: Sequence[Job], card: str) -> Iterator[tuple[Job, dict[Phase, Phased]]]:
    """Each job's phases, the folders of ``overlay`` first on the path; :class:`WrongEnvironment` without a card."""
    plans = [_plan(job, card, overlay) for job in jobs]
    nurseries = Nurseries(variables=plans[0].variables)
    try:
        for job, plan in zip(jobs, plans, strict=True):
            workers = _Workers(plan, nurseries.start, job.configuration)
            try:
                yield job, {phase: _phased(workers, workloads) for phase, workloads in job.workloads.items()}
            finally:
                workers.close()
    finally:
        nurseries.close()


def _plan(job: Job, card: str, overlay: Sequence[Path]) -> Plan:
    plan = with_room(plan_of(Asked(emulate=card, model=str(job.config_file))))
    if plan.emulation is None:
        raise WrongEnvironment("releases are compared on an emulated card")
    return dataclasses.replace(plan, emulation=under(plan.emulation, overlay))


def under(emulation: Emulation, overlay: Sequence[Path]) -> Emulation:
    """The same card for a process that finds what is in these folders first."""
    paths = os.pathsep.join([*map(str, overlay), emulation.variables["PYTHONPATH"]])
    return dataclasses.replace(emulation, variables=emulation.variables | {"PYTHONPATH": paths})


def chunks_under(overlay: Sequence[Path]) -> dict[str, Any]:
    """What :mod:`harness.runtimes.chunked` prints with the folders of ``overlay`` first on the path.

    :class:`Fault` with its last line if it fails, or if it takes too long.
    """
    variables = {"PYTHONPATH": os.pathsep.join([*map(str, overlay), python_path()]), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", CHUNKED],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=CHUNKED_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Fault(f"the comparison of chunks was not done after {CHUNKED_DEADLINE_S} s") from error
    if done.returncode:
        *_, last = ["nothing said", *done.stderr.strip().splitlines()]
        raise Fault(f"the comparison of chunks ended with {done.returncode}: {last[-LAST_WORDS:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


class _Workers:
    """One worker that has built the model; another one after a failure. where: what it is doing."""

    def __init__(self, plan: Plan, start: Callable[[dict[str, Any]], Child], configuration: Configuration) -> None:
        self._plan, self._start, self._configuration = plan, start, configuration
        self._child: Child | None = None
        self.environment: Environment | None = None
        self.where = ""

    def ask(self, where: str, what: str, workload: Workload, **options: bool) -> Any:
        """The answer to a command about a workload."""
        if self._child is None:
            self.where = "the process does not start"
            self._child = self._start(self._plan.order(self._configuration))
            self.environment = _environment(self._plan, self._child.ask({"do": "describe"}, START_DEADLINE_S))
            self.where = "the model can't be built"
            self._child.ask({"do": "build"}, BUILD_DEADLINE_S)
        self.where = where
        return self._child.ask({"do": what, "workload": encode(workload)} | options, self._plan.grid.deadline_s)

    def close(self) -> None:
        """Ends the worker, so that the next command goes to a fresh one."""
        if self._child is not None:
            self._child.close()
        self._child = None


def _phased(workers: _Workers, workloads: tuple[Workload, ...]) -> Phased:
    """A phase, as far as it comes."""
    kernels, log, failed = None, None, ""
    fits: list[tuple[Workload, Fits]] = []
    try:
        for workload in workloads:
            outcome = workers.ask(describe(workload), "fits", workload)["outcome"]
            if outcome["kind"] != "fits":  # of all the addresses that an emulated card has
                raise WorkerFailed(Failure(reason="error", message="out of memory"))
            fits.append((workload, decode(Fits, outcome)))
        last = workloads[-1]
        kernels = decode(Kernels, workers.ask("its kernels", "kernels", last))
        log = unpack(workers.ask("its tensors", "log", last, packed=True, guessing=True))
    except WorkerFailed as died:
        failed = f"{workers.where}: {str(died)[-LAST_WORDS:]}"
        workers.close()
    return Phased(environment=workers.environment, kernels=kernels, fits=tuple(fits), log=log, failed=failed)


def _environment(plan: Plan, found: dict[str, Any]) -> Environment:
    return environment_of(
        found,
        gpu_label=f"{plan.device}-{plan.answer_as.label}",
        weights="random",
        config_sha256=sha256_of(plan.config_file),
        grid_sha256=NO_GRID,
        emulation=None if plan.emulation is None else plan.emulation.digest,
    )
