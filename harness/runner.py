"""The parent: runs a campaign through worker processes and appends what they measure. It never imports torch.

One worker builds a model and measures many workloads. A fresh one follows every out-of-memory or CUDA error, hang
and crash. At the end a few workloads are measured again in fresh processes; their bytes must be the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.child import START_DEADLINE_S, Child, WorkerFailed
from vram_ledger.harness.emulation.profile import Emulation
from vram_ledger.harness.gpus import Gpu
from vram_ledger.harness.grid import Grid, build_of
from vram_ledger.harness.records import (
    Configuration,
    DeviceKind,
    Environment,
    Failure,
    Measured,
    Measurement,
    Outcome,
    OutOfMemory,
    Standard,
    Workload,
    decode,
    encode,
)
from vram_ledger.harness.results import ResultsWriter, settled

BUILD_DEADLINE_S = 1800
CRASHES_RETRIED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A campaign to run. answer_as: the card that is emulated or answered for. budget_s: nothing starts after it.

    emulation: how a process gets that card; ``None`` on every other device. compiled: with Triton's kernels compiled.
    """

    grid: Grid
    config_file: Path
    device: DeviceKind
    answer_as: Gpu
    weights: Path | None
    budget_s: float
    emulation: Emulation | None = None
    compiled: bool = False

    @property
    def variables(self) -> Mapping[str, str]:
        """What a worker's environment has beside the parent's."""
        return {} if self.emulation is None else self.emulation.variables

    def order(self, configuration: Configuration) -> dict[str, Any]:
        """What a worker of this campaign is told first; the fields are those of ``harness.worker.Order``."""
        return {
            "device": self.device,
            "answer_as": encode(self.answer_as),
            "configuration": encode(configuration),
            "config_file": str(self.config_file.resolve()),
            "weights": None if self.weights is None else str(self.weights.resolve()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a campaign's run ended. beyond_memory: points not run, since a smaller one was out of memory.

    unbuilt: whether the model itself was out of memory.

    unequal: for each repeat that was not identical, what differed. elapsed_s: the run's time; forward_s: that of the
    forward passes in it; build_s: that of starting workers and building models. notes: of the file as it was found.
    """

    measured_now: int
    settled: int
    failed: tuple[Workload, ...]
    beyond_memory: int
    unbuilt: bool
    unequal: tuple[str, ...]
    stopped_by_budget: bool
    elapsed_s: float
    forward_s: float
    build_s: float
    notes: tuple[str, ...] = ()


Start = Callable[[dict[str, Any]], Child]


class Workers:
    """The workers of a plan, one at a time: one for as long as it lives and its build is asked for, then another."""

    def __init__(self, plan: Plan, start: Start) -> None:
        self._plan = plan
        self._start = start
        self._child: Child | None = None
        self._build: tuple[str, ...] | None = None
        self.build_s = 0.0

    def ask(self, what: str, workload: Workload) -> Any:
        """What a worker answers to the command ``what`` for a workload, else :class:`OutOfMemory` or ``Failure``.

        After these the next question goes to a fresh worker. A crash is tried again.
        """
        for attempt in range(CRASHES_RETRIED + 1):
            try:
                return self._worker_for(workload).ask(
                    {"do": what, "workload": encode(workload)}, self._plan.grid.deadline_s
                )
            except WorkerFailed as failed:
                self.close()
                crashed = isinstance(failed.outcome, Failure) and failed.outcome.reason == "crash"
                if not crashed or attempt == CRASHES_RETRIED:
                    return failed.outcome
        raise AssertionError("unreachable: the last attempt returns")

    def close(self) -> None:
        """Ends the worker, so that the next question goes to a fresh one."""
        if self._child is not None:
            self._child.close()
        self._child = self._build = None

    def _worker_for(self, workload: Workload) -> Child:
        build = build_of(workload.configuration)
        if self._child is None or self._build != build:
            self.close()
            began = monotonic()
            self._child, self._build = self._start(self._plan.order(workload.configuration)), build
            self._child.ask({"do": "build"}, BUILD_DEADLINE_S)
            self.build_s += monotonic() - began
        return self._child


class Campaign:
    """A campaign in progress.

    ``report`` is called before every workload with the number still to do and its name. ``start`` starts a worker
    for an order.
    """

    def __init__(
        self,
        plan: Plan,
        writer: ResultsWriter,
        report: Callable[[int, str], None],
        start: Start,
    ) -> None:
        self._plan = plan
        self._workers = Workers(plan, start)
        self._writer = writer
        self._report = report
        self._began = monotonic()
        self._done = settled(writer.contents, repeat=0)
        self._failed: list[Workload] = []
        self._measured_now = 0
        self._stopped = False
        self._forward_s = 0.0

    def run(self) -> Summary:
        """Measures what is not on file yet, then the repeats. The worker is gone when this returns or raises."""
        try:
            self._measure_all()
            unequal = [] if self._stopped else self._repeat()
        finally:
            self._workers.close()
        pending = [w for w in self._plan.grid.workloads if w not in self._done]
        return Summary(
            measured_now=self._measured_now,
            settled=len(self._done),
            failed=tuple(self._failed),
            beyond_memory=sum(self._beyond_memory(w) for w in pending),
            unbuilt=any(isinstance(o, OutOfMemory) and o.during == "build" for o in self._done.values()),
            unequal=tuple(unequal),
            stopped_by_budget=self._stopped,
            elapsed_s=monotonic() - self._began,
            forward_s=self._forward_s,
            build_s=self._workers.build_s,
            notes=self._writer.contents.notes,
        )

    def _measure_all(self) -> None:
        pending = [w for w in self._plan.grid.workloads if w not in self._done]
        for left, workload in zip(range(len(pending), 0, -1), pending, strict=True):
            self._report(left, describe(workload))
            if self._beyond_memory(workload):
                continue
            if self._budget_spent():
                self._stopped = True
                return
            outcome = self._outcome(workload)
            self._writer.append(Measurement(workload=workload, repeat=0, outcome=outcome))
            self._measured_now += 1
            if isinstance(outcome, Failure):
                self._failed.append(workload)
            else:
                self._done[workload] = outcome
        self._report(0, "")

    def _budget_spent(self) -> bool:
        return 0 < self._plan.budget_s <= monotonic() - self._began

    def _beyond_memory(self, workload: Workload) -> bool:
        """Whether a workload that asks for no more than this one, of the same kind, is known not to fit."""
        return any(
            isinstance(outcome, OutOfMemory)
            and known.configuration == workload.configuration
            and (outcome.during == "build" or known.phase == workload.phase)
            and known.batch <= workload.batch
            and known.context_tokens <= workload.context_tokens
            for known, outcome in self._done.items()
        )

    def _outcome(self, workload: Workload) -> Outcome:
        answer = self._workers.ask("measure", workload)
        if isinstance(answer, OutOfMemory | Failure):
            return answer
        measured: Measured = decode(Measured, answer)
        self._forward_s += (measured.cold_s or 0.0) + measured.warm_s
        return measured

    def _repeat(self) -> list[str]:
        """Measures a few workloads again, each in a process of its own, and says which bytes were not the same."""
        measured = [w for w in self._plan.grid.workloads if isinstance(self._done.get(w), Measured)]
        repeated = settled(self._writer.contents, repeat=1)
        unequal = []
        for number, workload in enumerate(spread(measured, self._plan.grid.repeats)):
            again = repeated.get(workload)
            if again is None:
                self._report(self._plan.grid.repeats - number, f"again in a fresh process: {describe(workload)}")
                self._workers.close()
                outcome = self._outcome(workload)
                self._writer.append(Measurement(workload=workload, repeat=1, outcome=outcome))
                again = outcome if isinstance(outcome, Measured) else None
            first = self._done[workload]
            assert isinstance(first, Measured)
            if differences := unequal_bytes(first, again):
                unequal.append(f"{describe(workload)}: {differences}")
        return unequal


def describe(workload: Workload) -> str:
    """A workload in words, for people."""
    w = workload
    return f"{w.phase} of {w.context_tokens:,} tokens × {w.batch}"


def spread(workloads: list[Workload], count: int) -> list[Workload]:
    """``count`` workloads evenly over the list, first and last included."""
    if count >= len(workloads):
        return workloads
    if count == 1:
        return workloads[-1:]
    return [workloads[round(i * (len(workloads) - 1) / (count - 1))] for i in range(count)]


def unequal_bytes(first: Measured, again: object) -> str:
    """Which requested bytes of a repeat differ, in words; empty if none does."""
    if not isinstance(again, Measured):
        return "the repeat did not finish"
    pairs = {
        "warm peak": (first.warm.requested_bytes, again.warm.requested_bytes),
        "held": (first.held_bytes, again.held_bytes),
        "weights": (first.weights_bytes, again.weights_bytes),
    }
    # Tuning takes a buffer, and what was tuned once may be on the disk: such a cold peak need not come again.
    if first.cold is not None and again.cold is not None and first.tuned == again.tuned:
        pairs["cold peak"] = (first.cold.requested_bytes, again.cold.requested_bytes)
    return ", ".join(f"{name} {a:,} then {b:,} bytes" for name, (a, b) in pairs.items() if a != b)


def survey(plan: Plan, start: Start) -> tuple[dict[str, Any], Standard | None]:
    """What a fresh worker finds: the environment's fields, and the check standard if it found a card.

    :class:`WrongEnvironment` if no worker can be started, with what it said.
    """
    with _fresh(plan, start) as child:
        try:
            found = child.ask({"do": "describe"}, START_DEADLINE_S)
            answer = child.ask({"do": "standard", "when": "start"}, START_DEADLINE_S) if has_allocator(plan) else None
        except WorkerFailed as failed:
            raise WrongEnvironment(f"the measuring process does not start: {failed}") from failed
    return found, None if answer is None else decode(Standard, answer)


def has_allocator(plan: Plan) -> bool:
    """Whether the campaign runs on a card, real or emulated."""
    return plan.device in ("cuda", "emulated")


def final_standard(plan: Plan, start: Start) -> Standard:
    """The check standard again, after the campaign, in a process of its own."""
    with _fresh(plan, start) as child:
        try:
            return decode(Standard, child.ask({"do": "standard", "when": "end"}, START_DEADLINE_S))  # type: ignore[no-any-return]
        except WorkerFailed as failed:
            raise WrongEnvironment(f"the check standard can't be measured any more: {failed}") from failed


@contextmanager
def _fresh(plan: Plan, start: Start) -> Iterator[Child]:
    child = start(plan.order(plan.grid.workloads[0].configuration))
    try:
        yield child
    finally:
        child.close()


class NotOnFile(Exception):
    """What was asked for is not complete: it would start a worker."""


def no_worker(order: dict[str, Any]) -> Child:
    """A start that starts nothing: :class:`NotOnFile`."""
    raise NotOnFile


def environment_of(found: dict[str, Any], **fields: Any) -> Environment:
    """The environment of a campaign: what a worker found, and the fields that the parent knows."""
    return decode(Environment, found | fields)  # type: ignore[no-any-return]
