"""A CSV of predictions is an estimator."""

from pathlib import Path

import pytest

from tests.conftest import BIG
from tests.refereed import campaign, run
from vram_ledger.analysis.estimating.predictions import read_predictions


def predictions(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "predictions.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


HEADER = "model,context_tokens,batch,predicts,weights_bytes,total_bytes"


def test_a_row_for_the_very_workload_goes_before_one_with_blanks(tmp_path: Path) -> None:
    path = predictions(tmp_path, HEADER, f"{BIG},,,process,1,2", f"{BIG},512,1,process,1,3")
    estimate = read_predictions(path).estimate
    assert [3, 3, 2] == [estimate(p.request).total_bytes for p in campaign().points[:3]]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((HEADER, f"{BIG},512,1,process,1"), ":2: the row has another number of cells than the header"),
        ((HEADER, f"{BIG},,,process,1,x"), ":2: total_bytes must be a number of bytes, got 'x'"),
        ((HEADER, f"{BIG},,,process,1,nan"), ":2: total_bytes must be 0 bytes or more, got nan"),
        ((HEADER, f"{BIG},,,process,1,"), ":2: missing total_bytes"),
        ((HEADER, f"{BIG},,,process,1,2", f"{BIG},,,process,1,2"), ":3: a second row for qwen3.5-27b"),
        (("model,total_bytes,kv", ""), ":1: unknown column kv"),
        (("a,b",), ":1: the header needs model and total_bytes, got a, b"),
        ((HEADER, "other,,,process,1,2"), "qwen3.5-27b, decode, B=1, L=512: no row in"),
    ],
)
def test_a_bad_table_of_predictions_is_an_error_that_names_the_line(
    tmp_path: Path, lines: tuple[str, ...], complaint: str
) -> None:
    result = run(predictions(tmp_path, *lines))
    assert (2, True) == (result.exit_code, complaint in result.stderr), result.stderr


@pytest.mark.parametrize(
    ("rows", "total"),
    [
        ((",,,process,1,2", "prefill,4096,,process,1,4"), 4),
        ((",,,process,1,2", ",4096,1,process,1,5"), 5),
        (("prefill,,,process,1,3", "prefill,,1,process,1,6"), 6),
        ((",,1,process,1,7",), 7),
        ((",4096,,process,1,8", ",,,process,1,2"), 8),
        (("PREFILL,4k,1,process,1,9", ",,,process,1,2"), 9),
        (('prefill,"4,096",1,process,1,10', ",,,process,1,2"), 10),
    ],
)
def test_any_key_may_be_blank_and_the_most_specific_row_answers(
    tmp_path: Path, rows: tuple[str, ...], total: int
) -> None:
    header = "model,phase,context_tokens,batch,predicts,weights_bytes,total_bytes"
    table = read_predictions(predictions(tmp_path, header, *(f"{BIG},{row}" for row in rows)))
    (point,) = (
        p
        for p in campaign().points
        if (p.request.workload.phase, p.request.context_tokens, p.request.batch) == ("prefill", 4096, 1)
    )
    assert total == table.estimate(point.request).total_bytes


def test_rows_that_answered_nothing_are_named(tmp_path: Path) -> None:
    path = predictions(tmp_path, HEADER, f"{BIG},,,process,54e9,55e9", f"{BIG},777,,process,1,2", "qwen9,,,process,1,2")
    output = run(path).stdout
    assert f"Rows that answered nothing: {path}:3 ({BIG}, any dtype, any phase, 777, any batch), {path}:4" in output


def test_rows_that_fit_equally_well_and_differ_are_refused(tmp_path: Path) -> None:
    path = predictions(tmp_path, HEADER, f"{BIG},512,,process,1,2", f"{BIG},,1,process,1,3")
    assert "lines 2 and 3 fit qwen3.5-27b, decode, B=1, L=512 equally well" in run(path).stderr


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_table_is_read_as_spreadsheets_save_it(separator: str, mark: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / "my table.csv"
    lines = ("model,predicts,weights_bytes,total_bytes", f"{BIG},process,54000000000,55000000000", "")
    path.write_bytes((mark + end.join(line.replace(",", separator) for line in lines)).encode())
    assert 0 == run(path).exit_code


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the header needs model and total_bytes, got nothing"),
        (b"model,total_bytes\n", "there is no row below the header"),
        (b"model,model,total_bytes\na,b,1\n", "column model is there twice"),
        (b"model,phase,total_bytes\na,train,1\n", ":2: phase is prefill or decode, got 'train'"),
        (b"model,batch,total_bytes\na,0,1\n", ":2: batch is a number of sequences, got '0'"),
        (b"model,context_tokens,total_bytes\na,long,1\n", ":2: context_tokens is a number of tokens"),
        (b"\xff\xfem\x00", "not a CSV in UTF-8"),
        (b'model,total_bytes\n"a,1\n', "not a CSV in UTF-8"),
    ],
)
def test_file_that_is_no_table_is_bad_input(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    done = run(path)
    assert (2, True) == (done.exit_code, said in done.stderr), done.stderr
