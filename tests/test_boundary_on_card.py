"""The boundary of an emulated card, by the command: what is on file, what is said, and what a fresh process finds."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, CONFIGURATION, DEADLINE_S, NANO, ROOT
from tests.invoked import Result, invoke
from tests.test_kill import PATIENCE_S, gone, wait_for_lines, worker_of
from vram_ledger.harness import asked
from vram_ledger.harness.child import Nurseries
from vram_ledger.harness.emulation.profile import emulation_of, profile_of
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Edge, Fits, Measured, OutOfMemory, ResultsFile, Workload, decode, encode

CARD, MEMORY = "rtx-3060-12gb", 2 * 2**30
CARD_OF_2_GIB = dataclasses.replace(labelled(read_gpus(CONFIGS / "gpus.toml"), CARD)[0], total_bytes=MEMORY)
CONFIGURATION_OF_NANO = dataclasses.replace(CONFIGURATION, model=NANO)
QUESTIONS = ("--phase", "decode", "--batch", "16", "--most", "20k")
EXPANDABLE = ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def boundary(folder: Path, *arguments: object, model: str = NANO) -> Result:
    """The command on a card of 2 GiB."""
    card = ("--emulate", CARD, "--memory", "2GiB", "--model", model)
    return invoke("boundary", *card, "--results", folder, *arguments)


def results(folder: Path) -> ResultsFile:
    """The one results file below a folder."""
    (path,) = folder.rglob("*.jsonl")
    return read(path)


def listed(folder: Path, *shapes: tuple[str, int, int]) -> Path:
    """A file of workloads."""
    path = folder / "at.jsonl"
    lines = [json.dumps({"phase": p, "batch": b, "context_tokens": n}) for p, b, n in shapes]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with the search for one edge in it, and what the command said."""
    folder = tmp_path_factory.mktemp("found")
    return folder, boundary(folder, *QUESTIONS)


def test_the_edge_is_told_with_what_the_next_token_was_refused(found: tuple[Path, Result]) -> None:
    folder, said = found
    assert 0 == said.exit_code, said.output
    (edge,) = results(folder).edges
    assert ("decode", 16, 20_480, True) == (edge.phase, edge.batch, edge.most_tokens, edge.confirmed)
    outcomes = {(p.workload.context_tokens, p.fresh): p.outcome for p in results(folder).probes}
    for fresh in (False, True):
        beyond = outcomes[edge.fits_tokens + 1, fresh]
        assert isinstance(outcomes[edge.fits_tokens, fresh], Fits)
        assert isinstance(beyond, OutOfMemory)
        assert (beyond.asked_bytes or 0) > (beyond.free_bytes or 0)
        assert "model.language_model.layers." in (beyond.module or "")
        assert (beyond.source or "").startswith("transformers/")
    (row,) = [line for line in said.stdout.splitlines() if line.strip().startswith("decode")]
    assert ["decode", "16", f"{edge.fits_tokens:,}"] == row.split()[:3]


def test_the_file_says_what_card_was_pretended_and_what_lies_beside_its_allocator(found: tuple[Path, Result]) -> None:
    contents = results(found[0])
    relative = contents.path.relative_to(found[0]).as_posix()
    assert relative.startswith(f"boundary/emulated-{CARD}/default/{NANO}.emulated.")
    assert (MEMORY, "") == (contents.environment.gpu_total_bytes, contents.environment.grid_sha256)
    assert {profile_of(CARD_OF_2_GIB).outside_bytes} == {s.context_bytes for s in contents.standards}


class Small:
    """A worker on a card of 2 GiB, forked by a nursery."""

    def __init__(self, nurseries: Nurseries) -> None:
        order = {
            "device": "emulated",
            "answer_as": encode(CARD_OF_2_GIB),
            "configuration": encode(CONFIGURATION_OF_NANO),
            "config_file": str(CONFIGS / "models" / f"{NANO}.json"),
            "weights": None,
        }
        self.child = nurseries.start(order)
        self.child.ask({"do": "build"}, DEADLINE_S)

    def ask(self, what: str, phase: Any, batch: int, context: int) -> Any:
        """The answer to a command about a workload."""
        asked_for = Workload(configuration=CONFIGURATION_OF_NANO, phase=phase, context_tokens=context, batch=batch)
        return self.child.ask({"do": what, "workload": encode(asked_for)}, DEADLINE_S)

    def fits(self, phase: str, batch: int, context: int) -> tuple[Fits | OutOfMemory, bool]:
        """The outcome, its seconds left out, and whether the worker goes on."""
        answer = self.ask("fits", phase, batch, context)
        outcome = decode(Fits | OutOfMemory, answer["outcome"])
        if isinstance(outcome, Fits):
            outcome = dataclasses.replace(outcome, setup_s=0.0, forward_s=0.0)
        return outcome, answer["goes_on"]


@contextmanager
def nurseries(module: str = "vram_ledger.harness.worker") -> Iterator[Nurseries]:
    """What forks workers on the small card, in this environment."""
    own = Nurseries(module, emulation_of((profile_of(CARD_OF_2_GIB),)).variables)
    try:
        yield own
    finally:
        own.close()


def in_fresh_process(own: Nurseries, run: tuple[str, int, int]) -> tuple[Fits | OutOfMemory, bool]:
    """What a worker that ran nothing before says of a workload."""
    worker = Small(own)
    answer = worker.fits(*run)
    worker.child.close()
    return answer


RUNS = [("decode", 16, 12_000), ("prefill", 16, 8_000)]
REFUSED = {"cache": ("decode", 64, MEMORY // 2**13), "cold": ("prefill", 16, 12_000)}


def test_after_running_out_of_memory_the_next_run_takes_the_same_to_the_byte() -> None:
    with nurseries() as own:
        before = [in_fresh_process(own, run) for run in RUNS]
        assert [Fits, Fits] == [type(outcome) for outcome, _ in before]
        worker = Small(own)
        for during, run in REFUSED.items():
            outcome, goes_on = worker.fits(*run)
            assert isinstance(outcome, OutOfMemory)
            assert (during, True) == (outcome.during, goes_on)
            assert before == [worker.fits(*run) for run in RUNS]
        # And it is what the first run of a measurement takes.
        for run, (outcome, _) in zip(RUNS, before, strict=True):
            measured = decode(Measured, worker.ask("measure", *run))
            assert isinstance(outcome, Fits)
            assert (measured.cold, measured.baseline_bytes) == (outcome.peak, outcome.baseline_bytes)


def test_expandable_segments_do_not_go_on_after_running_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*EXPANDABLE)
    with nurseries() as own:
        worker = Small(own)
        before = worker.fits(*RUNS[0])
        (refused, goes_on), after = worker.fits(*REFUSED["cache"]), worker.fits(*RUNS[0])
        assert isinstance(refused, OutOfMemory)
        assert ((True, False), True) == ((before[1], goes_on), before != after)  # else it need not end the worker
        worker.child.close()
        assert before == in_fresh_process(own, RUNS[0])


def test_memory_that_a_refused_run_keeps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUNGER", "keep")
    with nurseries("tests.workers.hungry") as own:
        worker = Small(own)
        assert [True, False] == [worker.fits(*run)[1] for run in (RUNS[1], REFUSED["cold"])]


def test_an_edge_that_a_first_run_does_not_reach_is_told_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNGER", "first")
    monkeypatch.setattr(asked, "Nurseries", partial(Nurseries, "tests.workers.hungry"))
    said = [boundary(tmp_path, *QUESTIONS) for _ in range(2)]
    (edge,) = results(tmp_path).edges
    assert isinstance(edge, Edge)
    assert not edge.confirmed
    for one in said:
        assert (1, True) == (one.exit_code, f"{edge.fits_tokens:,}, not confirmed" in one.stdout)
        assert "fresh processes did not confirm the edge of decode × 16" in one.stderr
    assert "0 probes now" in said[1].stdout


def test_listed_shapes_run_on_a_pretended_memory_with_the_callers_allocator_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [("prefill", 16, 12_000), ("decode", 16, 20_000), ("prefill", 16, 12_000)]
    monkeypatch.setenv(*EXPANDABLE)
    said = boundary(tmp_path, "--at", listed(tmp_path, *shapes), "--memory", "64GiB", "--chunk", "4096")
    assert (0, True) == (said.exit_code, "2 of 2 workloads fit, 0 were out of memory." in said.stdout), said.output
    (own,) = (read(p) for p in tmp_path.rglob("*.emulated.*.jsonl"))
    assert ("=".join(EXPANDABLE), 64 * 2**30) == (own.environment.allocator_settings, own.environment.gpu_total_bytes)
    assert "default-chunk4096" == own.path.parent.name
    assert [4096, 0] == [p.workload.configuration.prefill_chunk_tokens for p in own.probes]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the worker")
def test_an_interrupted_search_is_gone_on_with_and_a_right_guess_takes_four_probes(
    found: tuple[Path, Result], tmp_path: Path
) -> None:
    arguments = ("--emulate", CARD, "--memory", "2GiB", "--model", NANO, "--results", str(tmp_path), *QUESTIONS)
    command = subprocess.Popen(
        [sys.executable, "-m", "vram_ledger", "boundary", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_lines(command, tmp_path, 4)
    worker = worker_of(command)
    command.send_signal(signal.SIGINT)
    *_, goes_on, last = command.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert (130, "exit 130: interrupted") == (command.returncode, last)
    assert "Every finished probe is on file; the same command goes on from there." == goes_on
    assert gone(worker)
    on_file = results(tmp_path).probes
    (edge,) = results(found[0]).edges
    guess = listed(found[0], ("decode", 16, edge.fits_tokens))
    assert 0 == boundary(tmp_path, *QUESTIONS, "--guess", guess).exit_code
    every = results(tmp_path)
    assert (on_file, (edge,)) == (every.probes[: len(on_file)], every.edges)
    beside = {(edge.at(n), fresh) for n in (edge.fits_tokens, edge.fits_tokens + 1) for fresh in (False, True)}
    assert beside | {(p.workload, False) for p in on_file} == {(p.workload, p.fresh) for p in every.probes}
    again = boundary(tmp_path, *QUESTIONS)
    assert (0, True) == (again.exit_code, f"0 probes now, {len(every.probes)} on file" in again.stdout)
    assert every == results(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--emulate", "a100-81gb"),
            "no GPU is labelled 'a100-81gb'; near: a100-80gb, a800-80gb, a100-40gb, a10g. "
            "Labels are the sections of configs/gpus.toml",
        ),
        (("--batch", "0"), "batch is a whole number from 1 to 65,536; got '0'"),
        (("--batch", "1,,2"), "batch is a whole number from 1 to 65,536; got ''"),
        (("--phase", "prefil"), "phase 'prefil' is neither prefill nor decode"),
        (("--variant", "defualt"), "variant 'defualt' starts with 'defualt', not with text or default"),
        (("--most", "300k"), "MOST=300k is beyond the model's own limit of 262,144 tokens (max_position_embeddings)"),
        (("--chunk", "-1"), "chunk is a number of tokens, such as 131072, 131,072 or 128k, from 1 on; got '-1'"),
        (("--memory", "lots"), "'lots' is not an amount of memory such as 79.1GiB or 24564MiB"),
        (("--memory", "3000GiB"), "MEMORY is at most 2,048 GiB: an emulated card has no more addresses"),
        (("--memory", "8GiB", "--emulate", ""), "MEMORY is what an emulated card is to have; say which with EMULATE"),
        (("--at", "missing.jsonl"), "missing.jsonl: No such file or directory"),
        (
            ("--at", "good.jsonl", "--batch", "2"),
            "AT and SHAPES bring their own workloads; leave BATCH, MOST, GUESS and the other one out",
        ),
        (("--at", "empty.jsonl"), "empty.jsonl: there is no workload in it"),
    ],
)
def test_wrong_input_is_told_in_a_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    listed(tmp_path, ("prefill", 1, 5)).rename("good.jsonl")
    Path("empty.jsonl").touch()
    ended = invoke("boundary", "--emulate", CARD, "--model", NANO, "--results", tmp_path / "r", *arguments)
    assert (2, f"exit 2: bad input: {said}") == (ended.exit_code, ended.stderr.splitlines()[-1])
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a line of JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[1]", "expected a table, got [1]"),
        ('{"phase": "prefill", "batch": 1}', "field 'context_tokens' is missing"),
        ('{"phase": "train", "batch": 1, "context_tokens": 5}', "phase: 'train' is none of prefill, decode"),
        ('{"phase": "decode", "batch": 0, "context_tokens": 5}', "batch must be between 1 and 65,536, got 0"),
        ('{"phase": "decode", "batch": 1, "context_tokens": 5.0}', "context_tokens must be a whole number, got 5.0"),
        ('{"phase": "decode", "batch": 1, "context_tokens": 5, "chunk": 1}', "unknown field 'chunk'"),
    ],
)
@pytest.mark.parametrize("option", ["--at", "--guess"])
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, option: str, line: str, said: str) -> None:
    file = listed(tmp_path, ("prefill", 1, 5))
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    ended = boundary(tmp_path / "r", option, file)
    assert (2, f"exit 2: bad input: {file}:2: {said}") == (ended.exit_code, ended.stderr.splitlines()[-1])
    assert not (tmp_path / "r").exists()
