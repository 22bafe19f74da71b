"""docs/formats.md names every field, and its pandas line works."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.conftest import ROOT
from vram_ledger.harness.records import (
    Edge,
    Environment,
    Fits,
    Measured,
    Measurement,
    OutOfMemory,
    Probe,
    Standard,
    Workload,
)

PAGE = (ROOT / "docs/formats.md").read_text(encoding="utf-8")


def test_the_pandas_line_gives_a_row_a_measurement() -> None:
    (path,) = (ROOT / "results/emulated-h200/default").glob("*.jsonl")
    (line,) = re.findall(r"```python\n(frame = .*?)\n```", PAGE, re.DOTALL)
    known: dict[str, Any] = {"pandas": pandas, "json": json, "path": path, "Path": Path}
    exec(line, known)
    lines = path.read_text(encoding="utf-8").count('"kind":"measurement"')
    assert (lines, True) == (len(known["frame"]), "outcome.warm.requested_bytes" in known["frame"].columns)


@pytest.mark.parametrize(
    "record", [Edge, Environment, Fits, Measured, Measurement, OutOfMemory, Probe, Standard, Workload]
)
def test_every_field_is_on_the_page(record: Any) -> None:
    assert [] == [f.name for f in dataclasses.fields(record) if f.name not in PAGE]
