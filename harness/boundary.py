"""The longest context that fits a card, by bisection: asked of workers, confirmed by fresh ones, kept line by line.

The parent's side, as :mod:`harness.runner` is a campaign's; it never imports torch. Every answer is a line of the
results file before the next question is asked, and a question that has an answer there is not asked again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.grid import Grid, build_of
from vram_ledger.harness.records import (
    Configuration,
    Edge,
    Failure,
    Fits,
    OutOfMemory,
    Probe,
    ResultsFile,
    Workload,
    decode,
)
from vram_ledger.harness.results import ResultsWriter
from vram_ledger.harness.runner import Plan, Start, Workers, has_allocator

DEADLINE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How long a context of a workload's kind fits, up to its own. guess_tokens: where to look first; 0: no idea."""

    most: Workload
    guess_tokens: int = 0

    @property
    def configuration(self) -> Configuration:
        """Of every workload that it is about."""
        return self.most.configuration

    def at(self, context_tokens: int) -> Workload:
        """The workload of a context."""
        return dataclasses.replace(self.most, context_tokens=context_tokens)

    def edge(self, fits_tokens: int, confirmed: bool) -> Edge:
        """An answer."""
        return Edge(
            configuration=self.configuration,
            phase=self.most.phase,
            batch=self.most.batch,
            most_tokens=self.most.context_tokens,
            fits_tokens=fits_tokens,
            confirmed=confirmed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How a search ended. measured_now: probes that were not on file. notes: of the file as it was found.

    edges: one a question, those left out that a failure kept from an answer or whose model was out of memory while it
    was being built; ``unbuilt`` says that there were such. failed: probes without an outcome.
    """

    measured_now: int
    edges: tuple[Edge, ...]
    failed: tuple[Probe, ...]
    unbuilt: bool
    notes: tuple[str, ...]


class Unanswered(Exception):
    """A workload that can't be told to fit or not: its process failed, or not even its model fits."""


def plan_for(plan: Plan, workloads: Sequence[Workload], name: str) -> Plan:
    """A campaign's plan as one for these workloads, which no grid lists; :class:`WrongEnvironment` without a card.

    name: of the folder that results go to.
    """
    if not has_allocator(plan):
        raise WrongEnvironment(f"a boundary is a card's, real or emulated; on the {plan.device} device nothing ends")
    grid = Grid(name=name, path=None, workloads=tuple(workloads), repeats=0, deadline_s=DEADLINE_S)
    return dataclasses.replace(plan, grid=grid)


class Search:
    """A search in progress.

    ``report`` is called with each question or workload that is about to be asked, and how many are done.
    """

    def __init__(
        self, plan: Plan, writer: ResultsWriter, start: Start, report: Callable[[int, Question | Workload], None]
    ) -> None:
        self._writer = writer
        self._workers = Workers(plan, start)
        self._report = report
        self._known = _answers(writer.contents)
        self._edges = {_most(edge): edge for edge in writer.contents.edges}
        self._failed: list[Probe] = []
        self._asked = 0

    def run(self, asked: Sequence[Question | Workload]) -> Found:
        """The edge of every question, each workload once; what is on file is not asked again.

        The worker is gone when this returns or raises.
        """
        edges, unbuilt = [], False
        try:
            for done, one in enumerate(asked):
                self._report(done, one)
                try:
                    if isinstance(one, Question):
                        edges.append(self._edge(one))
                    else:
                        self._outcome(one)
                except Unanswered:
                    unbuilt = unbuilt or self._is_unbuilt(one.configuration)
        finally:
            self._workers.close()
        return Found(
            measured_now=self._asked,
            edges=tuple(edges),
            failed=tuple(self._failed),
            unbuilt=unbuilt,
            notes=self._writer.contents.notes,
        )

    def _edge(self, question: Question) -> Edge:
        if question.most not in self._edges:
            most, guess = question.most.context_tokens, question.guess_tokens
            tokens = longest(lambda n: self._fits(question.at(n)), most, guess)
            beside = question.edge(tokens, confirmed=True).beside
            again = {n: self._fits(question.at(n), fresh=True) for n in beside}
            self._edges[question.most] = question.edge(tokens, confirmed=again == beside)
            self._writer.append(self._edges[question.most])
        return self._edges[question.most]

    def _fits(self, workload: Workload, fresh: bool = False) -> bool:
        return isinstance(self._outcome(workload, fresh), Fits)

    def _outcome(self, workload: Workload, fresh: bool = False) -> Fits | OutOfMemory:
        """The outcome on file, else that of asking now; :class:`Unanswered` if there is none."""
        known = self._known.get((workload, fresh))
        if known is None and not self._is_unbuilt(workload.configuration):
            probe = self._ask(workload, fresh)
            self._writer.append(probe)
            self._asked += 1
            if isinstance(probe.outcome, Failure):
                self._failed.append(probe)
            else:
                known = self._known[workload, fresh] = probe.outcome
        if known is None or (isinstance(known, OutOfMemory) and known.during == "build"):
            raise Unanswered
        return known

    def _ask(self, workload: Workload, fresh: bool) -> Probe:
        if fresh:
            self._workers.close()
        answer = self._workers.ask("fits", workload)
        if isinstance(answer, OutOfMemory | Failure):
            return Probe(workload=workload, fresh=fresh, outcome=answer)
        if not answer["goes_on"]:
            self._workers.close()
        return Probe(workload=workload, fresh=fresh, outcome=decode(Fits | OutOfMemory, answer["outcome"]))

    def _is_unbuilt(self, configuration: Configuration) -> bool:
        """Whether the model was out of memory while it was being built, so that nothing of it can be run."""
        return any(
            isinstance(outcome, OutOfMemory)
            and outcome.during == "build"
            and build_of(workload.configuration) == build_of(configuration)
            for (workload, _fresh), outcome in self._known.items()
        )


def longest(fits: Callable[[int], bool], most: int, guess: int = 0) -> int:
    """The largest context of a pair n, n + 1 of which the one fits and the other does not; from 1 to ``most``.

    0 if 1 does not fit, ``most`` if that does. Where what fits is no simple range there are several such pairs, and
    this is one. A right ``guess`` takes two questions; near one the steps grow from 1 until they are past the edge.
    """
    low, high, step = 0, most + 1, 1
    asked = min(guess, most) or most
    while high - low > 1:
        if fits(asked):
            low = asked
        else:
            high = asked
        if guess and (low == 0 or high > most):
            asked = low + step if low else high - step
            step *= 2
        else:
            asked = (low + high) // 2
        asked = max(low + 1, min(asked, high - 1))
    return low


def _answers(contents: ResultsFile) -> dict[tuple[Workload, bool], Fits | OutOfMemory]:
    """The outcome of each probe that has one; a failure is none, and is tried again."""
    return {(p.workload, p.fresh): p.outcome for p in contents.probes if not isinstance(p.outcome, Failure)}


def _most(edge: Edge) -> Workload:
    return edge.at(edge.most_tokens)
