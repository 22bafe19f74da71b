"""The longest context that fits: how it is looked for, what is kept of it, and that a pretended answer is found out."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, CONFIGURATION, NANO
from tests.emulated import environment
from vram_ledger.commands.files import results_files
from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.boundary import Found, Question, Search, longest, plan_for
from vram_ledger.harness.child import WorkerFailed
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.grid import Grid
from vram_ledger.harness.lines import from_line, read, to_line
from vram_ledger.harness.records import (
    Edge,
    Failure,
    Fits,
    OutOfMemory,
    Peak,
    Probe,
    RecordError,
    Workload,
    decode,
    encode,
)
from vram_ledger.harness.results import open_results
from vram_ledger.harness.runner import Plan, no_worker

MOST = 262_144
WORKLOAD = Workload(configuration=CONFIGURATION, phase="decode", context_tokens=MOST, batch=2)
PEAK = Peak(requested_bytes=5, allocated_bytes=6, reserved_bytes=7, process_bytes=None, device_bytes=9)
FITS = Fits(baseline_bytes=4, peak=PEAK, retries=1, setup_s=0.1, forward_s=0.2, tuned=False)
FULL = OutOfMemory(during="cold", asked_bytes=9, free_bytes=1, requested_bytes=5, module="m", source="f.py:1")
ENVIRONMENT = environment()


# ---- where to look ----


@pytest.mark.parametrize("most", [1, 2, 3, 1000, MOST])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("guess", [0, 1, 7, 400, MOST, 2 * MOST])
def test_the_edge_is_found_whatever_is_guessed(most: int, share: float, guess: int) -> None:
    edge, asked = int(share * most), set[int]()

    def fits(tokens: int) -> bool:
        assert tokens not in asked
        asked.add(tokens)
        return tokens <= edge

    assert edge == longest(fits, most, guess)
    assert {edge, edge + 1} - {0, most + 1} <= asked
    assert len(asked) <= 2 * most.bit_length() + 2


@pytest.mark.parametrize(
    ("guess", "asked"),
    [(1000, [1000, 1001]), (1001, [1001, 1000]), (999, [999, 1000, 1002, 1001]), (0, None)],
)
def test_a_right_guess_takes_two_questions_and_one_beside_it_hardly_more(guess: int, asked: list[int] | None) -> None:
    told: list[int] = []
    assert 1000 == longest(lambda n: told.append(n) or n <= 1000, MOST, guess)  # type: ignore[func-returns-value]
    assert (told == asked) if asked else (len(told) <= 20)


@pytest.mark.parametrize("guess", [0, 30, 45, 60])
def test_where_what_fits_has_gaps_an_edge_is_found_all_the_same(guess: int) -> None:
    fitting = {*range(1, 31), *range(40, 51)}
    found = longest(lambda n: n in fitting, 100, guess)
    assert found in fitting
    assert found + 1 not in fitting


# ---- a search, with workers that only pretend ----

Behaviour = Callable[[Workload, bool], Any]


def to_1000(workload: Workload, first: bool) -> Any:
    """Up to 1,000 tokens fit."""
    return FITS if workload.context_tokens <= 1000 else FULL


class Pretender:
    """Stands for a worker process; ``started`` lists them, ``asked`` what each was asked for."""

    started: list["Pretender"]

    def __init__(self, behave: Behaviour, goes_on: bool) -> None:
        self._behave, self._goes_on = behave, goes_on
        self.asked: list[int] = []

    def ask(self, command: dict[str, Any], deadline_s: float) -> Any:
        """Builds at once; answers as told."""
        if command["do"] == "build":
            return None
        workload = decode(Workload, command["workload"])
        outcome = self._behave(workload, not self.asked)
        self.asked.append(workload.context_tokens)
        return {"outcome": encode(outcome), "goes_on": self._goes_on or isinstance(outcome, Fits)}

    def close(self) -> None:
        """Nothing to end."""


def search(
    path: Path,
    behave: Behaviour = to_1000,
    *asked: Question | Workload,
    goes_on: bool = True,
    report: Callable[[int, Any], None] = lambda done, one: None,
) -> Found:
    """A search for one edge, or for what is asked, its lines in ``path``."""
    Pretender.started = []

    def start(order: Any) -> Any:
        Pretender.started.append(Pretender(behave, goes_on))
        return Pretender.started[-1]

    with open_results(path, ENVIRONMENT) as writer:
        return Search(plan(), writer, start, report).run(asked or [Question(most=WORKLOAD)])


def plan(device: Any = "emulated") -> Plan:
    """A plan of no campaign."""
    grid = Grid(name="default", path=None, workloads=(WORKLOAD,), repeats=0, deadline_s=5)
    card = labelled(read_gpus(CONFIGS / "gpus.toml"), "h200")[0]
    file = CONFIGS / "models" / f"{NANO}.json"
    return Plan(grid=grid, config_file=file, device=device, answer_as=card, weights=None, budget_s=0)


def edge(tokens: int, confirmed: bool = True, most: int = MOST) -> Edge:
    """An edge of the workload's kind."""
    return Edge(
        configuration=CONFIGURATION, phase="decode", batch=2, most_tokens=most, fits_tokens=tokens, confirmed=confirmed
    )


def test_an_edge_is_confirmed_by_two_processes_that_ran_nothing_before(tmp_path: Path) -> None:
    found = search(tmp_path / "r.jsonl")
    assert (edge(1000),) == found.edges
    probes = read(tmp_path / "r.jsonl").probes
    assert [(1000, Fits), (1001, OutOfMemory)] == [
        (p.workload.context_tokens, type(p.outcome)) for p in probes if p.fresh
    ]
    assert [1000, 1001] == [w.asked[0] for w in Pretender.started[1:]]
    assert (len(probes), 3) == (found.measured_now, len(Pretender.started))


def test_what_is_on_file_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    search(path)
    before = path.read_bytes()
    with open_results(path, ENVIRONMENT) as writer:
        again = Search(plan(), writer, no_worker, lambda done, one: None).run([Question(most=WORKLOAD)])
    assert (0, (edge(1000),), before) == (again.measured_now, again.edges, path.read_bytes())


def test_a_further_question_makes_use_of_the_probes_of_another(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    search(path)
    shorter = dataclasses.replace(WORKLOAD, context_tokens=4096)
    assert ((edge(1000, most=4096),), True) == (
        (found := search(path, to_1000, Question(most=shorter, guess_tokens=1000))).edges,
        found.measured_now == 0,
    )


@pytest.mark.parametrize("done", [0, 1, 7, 18, 19, 20])
def test_an_interrupted_search_is_gone_on_with_where_it_was(tmp_path: Path, done: int) -> None:
    left = [done]

    def interrupted(workload: Workload, first: bool) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return to_1000(workload, first)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "r.jsonl", interrupted)
    assert done == len(read(tmp_path / "r.jsonl").probes)
    whole = search(tmp_path / "whole.jsonl").measured_now
    assert whole - done == search(tmp_path / "r.jsonl").measured_now
    assert read(tmp_path / "whole.jsonl").probes == read(tmp_path / "r.jsonl").probes


@pytest.mark.parametrize(("fits_first", "fits_later"), [(999, 1000), (1001, 1000), (0, 1000), (1000, 0)])
def test_an_edge_that_fresh_processes_do_not_confirm_is_on_file_as_such(
    tmp_path: Path, fits_first: int, fits_later: int
) -> None:
    path = tmp_path / "r.jsonl"
    seen: list[int] = []

    def behave(workload: Workload, first: bool) -> Any:
        fresh = first and len(Pretender.started) > 1
        seen.append(workload.context_tokens)
        return FITS if workload.context_tokens <= (fits_first if fresh else fits_later) else FULL

    found = search(path, behave)
    assert (edge(fits_later, confirmed=False),) == found.edges == read(path).edges
    asked_before = len(seen)
    assert found.edges == search(path, behave).edges
    assert asked_before == len(seen)


@pytest.mark.parametrize("tokens", [0, 1, MOST - 1, MOST])
def test_an_edge_can_be_at_either_end(tmp_path: Path, tokens: int) -> None:
    found = search(tmp_path / "r.jsonl", lambda w, first: FITS if w.context_tokens <= tokens else FULL)
    assert (edge(tokens),) == found.edges == read(tmp_path / "r.jsonl").edges


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_worker_that_can_not_undo_what_failed_is_not_asked_again(tmp_path: Path, goes_on: bool) -> None:
    search(tmp_path / "r.jsonl", goes_on=goes_on)
    refused = [isinstance(p.outcome, OutOfMemory) for p in read(tmp_path / "r.jsonl").probes if not p.fresh]
    assert 1 + (0 if goes_on else sum(refused[:-1])) == len(Pretender.started) - 2


def test_a_failure_is_no_answer_and_the_other_questions_are_gone_on_with(tmp_path: Path) -> None:
    hang = Failure(reason="hang", message="no answer")

    def behave(workload: Workload, first: bool) -> Any:
        if workload.batch == 2:
            raise WorkerFailed(hang)
        return to_1000(workload, first)

    other = Question(most=dataclasses.replace(WORKLOAD, batch=4))
    found = search(tmp_path / "r.jsonl", behave, Question(most=WORKLOAD), other)
    assert (Probe(workload=WORKLOAD, fresh=False, outcome=hang),) == found.failed
    assert [4] == [e.batch for e in found.edges]
    again = search(tmp_path / "r.jsonl", to_1000, Question(most=WORKLOAD), other)
    assert ((), [2, 4]) == (again.failed, [e.batch for e in again.edges])


def test_a_model_that_does_not_fit_is_built_once_and_has_no_edges(tmp_path: Path) -> None:
    unbuilt = dataclasses.replace(FULL, during="build")

    def behave(workload: Workload, first: bool) -> Any:
        raise WorkerFailed(unbuilt)

    asked = [Question(most=dataclasses.replace(WORKLOAD, batch=batch)) for batch in (1, 2, 4)]
    found = search(tmp_path / "r.jsonl", behave, *asked)
    assert (1, (), True) == (found.measured_now, found.edges, found.unbuilt)
    assert (0, True) == ((again := search(tmp_path / "r.jsonl", behave, *asked)).measured_now, again.unbuilt)


def test_listed_workloads_are_asked_for_once_each(tmp_path: Path) -> None:
    listed = [dataclasses.replace(WORKLOAD, context_tokens=n) for n in (7, 2000, 9)]
    assert (3, 0) == tuple(search(tmp_path / "r.jsonl", to_1000, *listed).measured_now for _ in range(2))
    assert listed == [p.workload for p in read(tmp_path / "r.jsonl").probes]


@pytest.mark.parametrize("device", ["fake", "cpu"])
def test_what_has_no_allocator_is_not_asked(device: Any) -> None:
    with pytest.raises(WrongEnvironment, match=f"on the {device} device nothing ends"):
        plan_for(plan(device), [WORKLOAD], "default")


# ---- what is kept ----


@pytest.mark.parametrize("record", [edge(0), *(Probe(workload=WORKLOAD, fresh=True, outcome=o) for o in (FITS, FULL))])
def test_probes_and_edges_survive_the_disk(record: Probe | Edge) -> None:
    assert record == from_line(to_line(record), "here")


def probe(tokens: int, fits: bool, fresh: bool = False) -> Probe:
    """A probe of the workload's kind."""
    workload = dataclasses.replace(WORKLOAD, context_tokens=tokens)
    return Probe(workload=workload, fresh=fresh, outcome=FITS if fits else FULL)


BOTH = [probe(10, True), probe(11, False), probe(10, True, fresh=True), probe(11, False, fresh=True)]
TOO_LITTLE = dataclasses.replace(FITS, peak=dataclasses.replace(PEAK, allocated_bytes=4))


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([edge(10)], ":2.fits_tokens: 10, but no probe above it says that 10 tokens fit"),
        ([BOTH[0], edge(10)], ":3.fits_tokens: 10, but no probe above it says that 11 tokens do not fit"),
        ([*BOTH, edge(11)], ":6.fits_tokens: 11, but no probe above it says that 11 tokens fit"),
        ([*BOTH[:3], edge(10)], ":5.confirmed: True, but the fresh probes above it say otherwise"),
        ([*BOTH, edge(10, confirmed=False)], ":6.confirmed: False, but the fresh probes above it say otherwise"),
        ([*BOTH, edge(10, most=9)], ":6.most_tokens: 9, but it is never less than fits_tokens, which is 10"),
        ([edge(0, most=0)], ":2.most_tokens: expected 1 to 2^60, got 0"),
        (
            [Probe(workload=WORKLOAD, fresh=False, outcome=TOO_LITTLE)],
            ":2.peak.allocated_bytes: 4, but it is never less than peak.requested_bytes, which is 5",
        ),
        (
            [Probe(workload=dataclasses.replace(WORKLOAD, batch=0), fresh=False, outcome=FULL)],
            ":2.workload.batch: expected 1 to 2^60, got 0",
        ),
    ],
)
def test_a_file_whose_edges_and_probes_contradict_each_other_is_refused(
    tmp_path: Path, records: Sequence[Probe | Edge], said: str
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(map(to_line, [ENVIRONMENT, *records])), encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        read(path)
    assert said == str(caught.value).removeprefix(str(path))


def test_a_replay_has_no_boundary(tmp_path: Path) -> None:
    replay = dataclasses.replace(
        ENVIRONMENT, device="fake", gpu_label="fake-h200", emulation=None, gpu_total_bytes=None
    )  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(replay) + to_line(BOTH[0]), encoding="utf-8")
    with pytest.raises(RecordError, match=":2: no fake device has memory that ends"):
        read(path)


def test_a_folder_s_campaigns_are_without_its_boundaries(tmp_path: Path) -> None:
    for name in ("emulated-h200/default", "boundary/emulated-h200/default"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "m.jsonl").touch()
    assert [tmp_path / "emulated-h200/default/m.jsonl"] == results_files([tmp_path])
    assert 1 == len(results_files([tmp_path / "boundary"]))
