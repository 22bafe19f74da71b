"""A results file that contradicts itself, or that no machine could have written, is refused with its line and field."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS, NANO, ROOT
from tests.invoked import invoke
from tests.test_records import ENVIRONMENT, MEASURED, WORKLOAD
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.grid import named_file
from vram_ledger.harness.lines import read, to_line
from vram_ledger.harness.records import Measurement, RecordError
from vram_ledger.harness.results import Unwritable, check_writable, open_results
from vram_ledger.names import plain

LINE = Measurement(workload=WORKLOAD, repeat=0, outcome=MEASURED)
GPUS = read_gpus(CONFIGS / "gpus.toml")
STORED = sorted((ROOT / "results").rglob("*.jsonl"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_every_stored_file_reads_without_a_note(path: Path) -> None:
    assert () == read(path).notes


def edited(tmp_path: Path, line: int, edit: Callable[[dict[str, Any]], None]) -> str:
    """What reading a file says of which one line was edited."""
    records = [json.loads(to_line(ENVIRONMENT)), json.loads(to_line(LINE))]
    edit(records[line])
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        read(path)
    return str(caught.value).removeprefix(str(tmp_path / "r.jsonl"))


@pytest.mark.parametrize("field", ["gpu_name", "gpu_uuid", "gpu_total_bytes", "gpu_capability", "driver", "cuda"])
def test_a_cards_file_has_what_only_a_card_tells(tmp_path: Path, field: str) -> None:
    said = edited(tmp_path, 0, lambda e: e.update({field: None}))
    assert f":1.{field}: null, but every cuda environment has one" == said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": "emulated"}, ":1.emulation: null, but every emulated environment has one"),
        ({"device": "fake"}, ":1.gpu_uuid: '0c1e', but no fake environment has one"),
        ({"emulation": "abc"}, ":1.emulation: 'abc', but no cuda environment has one"),
        ({"gpu_label": "fake-h200"}, ":1.gpu_label: 'fake-h200', but the device is 'cuda'"),
        ({"gpu_label": "emulated-h200"}, ":1.gpu_label: 'emulated-h200', but the device is 'cuda'"),
        ({"gpu_total_bytes": -1}, ":1.gpu_total_bytes: expected 0 to 2^60, got -1"),
    ],
)
def test_a_kind_does_not_contradict_itself(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    assert said == edited(tmp_path, 0, lambda e: e.update(fields))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("warm.requested_bytes", -5, ":2.outcome.warm.requested_bytes: expected 0 to 2^60, got -5"),
        ("warm.requested_bytes", 10**40, ":2.outcome.warm.requested_bytes: expected 0 to 2^60, got 1000000000"),
        ("warm.requested_bytes", 3, ":2.outcome.warm.requested_bytes: 3, but it is never less than held_bytes"),
        ("warm.allocated_bytes", 4, ":2.outcome.warm.allocated_bytes: 4, but it is never less than warm.requested"),
        ("warm.reserved_bytes", 5, ":2.outcome.warm.reserved_bytes: 5, but it is never less than warm.allocated"),
        ("warm.allocated_bytes", None, ":2.outcome.warm.allocated_bytes: null, but every cuda measurement has it"),
        ("warm.reserved_bytes", None, ":2.outcome.warm.reserved_bytes: null, but every cuda measurement has it"),
        ("held_bytes", 2, ":2.outcome.held_bytes: 2, but it is never less than baseline_bytes, which is 3"),
        ("baseline_bytes", 2, ":2.outcome.baseline_bytes: 2, but it is never less than weights_bytes + buffers"),
        ("held.kv_cache_bytes", -1, ":2.outcome.held.kv_cache_bytes: expected 0 to 2^60, got -1"),
        ("warm_s", float("nan"), ":2.outcome.warm_s: expected 0 to 2^60, got nan"),
        ("warm_s", float("inf"), ":2.outcome.warm_s: expected 0 to 2^60, got inf"),
        ("setup_s", -0.5, ":2.outcome.setup_s: expected 0 to 2^60, got -0.5"),
        ("neighbour_bytes", -1, ":2.outcome.neighbour_bytes: expected 0 to 2^60, got -1"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path: Path, place: str, value: Any, said: str) -> None:
    def edit(line: dict[str, Any]) -> None:
        *path, name = place.split(".")
        at = line["outcome"]
        for step in path:
            at = at[step]
        at[name] = value

    assert said == edited(tmp_path, 1, edit)[: len(said)]


@pytest.mark.parametrize(("field", "value"), [("batch", 0), ("batch", -1), ("context_tokens", 0)])
def test_a_workload_has_tokens(tmp_path: Path, field: str, value: int) -> None:
    said = edited(tmp_path, 1, lambda line: line["workload"].update({field: value}))
    assert f":2.workload.{field}: expected 1 to 2^60, got {value}" == said


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind":' * 100_000, "1" * 5000])
def test_what_no_parser_takes_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.jsonl").write_text(to_line(ENVIRONMENT) + text + "\n", encoding="utf-8")
    result = invoke("judge", tmp_path / "r.jsonl")
    assert (2, True) == (result.exit_code, f"{tmp_path / 'r.jsonl'}:2: no record" in result.stderr)


@pytest.mark.parametrize("tail", [to_line(LINE)[:60], "\0\0\0", "x"])
def test_a_cut_line_is_said(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(ENVIRONMENT) + to_line(LINE) + tail, encoding="utf-8")
    assert (f"{path}: the last line is cut, 1 measurement lost",) == read(path).notes
    with open_results(path, ENVIRONMENT) as writer:
        assert (f"{path}: the last line is cut, 1 measurement lost",) == writer.contents.notes
    assert () == read(path).notes


def test_a_repeated_line_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(ENVIRONMENT) + to_line(LINE) * 2, encoding="utf-8")
    assert (f"{path}:3: the same measurement as line 2, counted once",) == read(path).notes


def test_a_disk_that_fills_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "r.jsonl", os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:-50])

    with open_results(path, ENVIRONMENT) as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(Unwritable, match=f"no space left on {path}"):
            writer.append(LINE)
        monkeypatch.undo()
        writer.append(LINE)
    assert to_line(ENVIRONMENT) + to_line(LINE) == path.read_text(encoding="utf-8")


def test_results_that_are_a_file_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x", encoding="utf-8")
    monkeypatch.setattr("vram_ledger.harness.asked.survey", lambda *_: pytest.fail("a worker was started"))
    result = invoke("measure", "--fake", "h200", "--model", NANO, "--results", tmp_path / "f")
    assert (2, f"exit 2: bad input: {tmp_path / 'f'} is a file, not a folder of results\n") == (
        result.exit_code,
        result.stderr,
    )


def test_results_that_can_not_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(Unwritable, match="can't be written to"):
        check_writable(tmp_path / "a" / "b", "*.jsonl")


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("RTX-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("H200", "h200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
    ],
)
def test_cards_are_taken_as_people_write_them(written: str, label: str) -> None:
    assert [label] == [gpu.label for gpu in labelled(GPUS, written)]


@pytest.mark.parametrize(("name", "gpu"), [(name, gpu) for gpu in GPUS for name in gpu.names])
def test_every_name_of_cuda_stands_for_its_card(name: str, gpu: Any) -> None:
    found = labelled(GPUS, name)
    assert gpu in found or plain(name) == found[0].label


@pytest.mark.parametrize("name", ["Qwen/Qwen3.5-27B", "Qwen3.5-27B", "qwen3.5_27b"])
def test_models_are_taken_as_people_write_them(name: str) -> None:
    assert "qwen3.5-27b.json" == named_file(CONFIGS / "models", name, ".json", "model").name


def test_grids_are_taken_in_other_case() -> None:
    assert "axes.toml" == named_file(CONFIGS / "grids", "AXES", ".toml", "grid").name


def test_nothing_judged_is_never_success(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(ENVIRONMENT), encoding="utf-8")
    codes = [invoke("judge", given).exit_code for given in (tmp_path / "absent", tmp_path / "no*", path)]
    (tmp_path / "empty").mkdir()
    assert ([2, 2, 2], 2) == (codes, invoke("judge", "--results", tmp_path / "empty").exit_code)


def test_a_file_of_failures_only_is_no_success(tmp_path: Path) -> None:
    (stored,) = (ROOT / "results/emulated-h200/default").glob("*.jsonl")
    results = read(stored)
    from vram_ledger.harness.records import Failure

    failed = dataclasses.replace(results.measurements[0], outcome=Failure(reason="crash", message="x"))
    (tmp_path / "r.jsonl").write_text(to_line(results.environment) + to_line(failed), encoding="utf-8")
    assert 1 == invoke("judge", tmp_path / "r.jsonl").exit_code
