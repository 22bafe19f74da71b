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
    estimate = read_predictions(path)
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
