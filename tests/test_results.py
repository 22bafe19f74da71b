"""A results file being written survives its writer, and takes lines of its own environment only."""

import dataclasses
from pathlib import Path

import pytest

from tests.test_records import ENVIRONMENT, MEASURED, WORKLOAD
from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.lines import read, to_line
from vram_ledger.harness.records import Failure, Measurement, OutOfMemory, RecordError
from vram_ledger.harness.results import open_results, results_path, settled

LINE = Measurement(workload=WORKLOAD, repeat=0, outcome=MEASURED)


def test_new_file_begins_with_its_environment(tmp_path: Path) -> None:
    with open_results(tmp_path / "a" / "r.jsonl", ENVIRONMENT) as writer:
        writer.append(LINE)
    assert (ENVIRONMENT, (LINE,)) == (
        (contents := read(tmp_path / "a" / "r.jsonl")).environment,
        contents.measurements,
    )


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_half_written_line_is_cut_off_and_the_file_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(ENVIRONMENT) + to_line(LINE) + to_line(LINE)[:cut], encoding="utf-8")
    with open_results(path, ENVIRONMENT) as writer:
        writer.append(LINE)
    assert to_line(ENVIRONMENT) + to_line(LINE) * 2 == path.read_text(encoding="utf-8")


def test_half_written_first_line_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(ENVIRONMENT)[:30], encoding="utf-8")
    with open_results(path, ENVIRONMENT):
        pass
    assert to_line(ENVIRONMENT) == path.read_text(encoding="utf-8")


def test_file_of_another_environment_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(to_line(ENVIRONMENT), encoding="utf-8")
    other = dataclasses.replace(ENVIRONMENT, driver="999")
    with pytest.raises(WrongEnvironment, match="differs in: driver"), open_results(path, other):
        pass
    assert to_line(ENVIRONMENT) == path.read_text(encoding="utf-8")


def test_file_of_an_unknown_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    text = to_line(ENVIRONMENT).replace('"schema":2', '"schema":99')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match="schema 99"), open_results(path, ENVIRONMENT):
        pass
    assert text == path.read_text(encoding="utf-8")


def test_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with (
        open_results(path, ENVIRONMENT),
        pytest.raises(WrongEnvironment, match="is being written by another campaign"),
        open_results(path, ENVIRONMENT),
    ):
        pass


def test_failure_is_no_result_but_running_out_of_memory_is(tmp_path: Path) -> None:
    full = OutOfMemory(during="warm", asked_bytes=1, free_bytes=0, requested_bytes=0)
    bigger = dataclasses.replace(WORKLOAD, batch=64)
    with open_results(tmp_path / "r.jsonl", ENVIRONMENT) as writer:
        writer.append(Measurement(workload=WORKLOAD, repeat=0, outcome=Failure(reason="crash", message="")))
        writer.append(Measurement(workload=bigger, repeat=0, outcome=full))
    assert {bigger: full} == settled(read(tmp_path / "r.jsonl"), repeat=0)


def test_fake_results_say_so_in_folder_and_name() -> None:
    fake = dataclasses.replace(ENVIRONMENT, device="fake", gpu_label="fake-h200")
    path = results_path(Path("results"), "default", "m", fake)
    assert f"results/fake-h200/default/m.fake.{fake.fingerprint()}.jsonl" == path.as_posix()
