"""accelerate is asked as a command, in the environment that has torch; what it said is stored."""

import csv
import json
import subprocess
import sys

from tests.conftest import NANO, ROOT


def test_the_stored_table_is_what_accelerate_answers() -> None:
    request = json.dumps({"config": f"configs/models/{NANO}.json", "dtype": "bfloat16"})
    command = [sys.executable, "-m", "vram_ledger.harness.runtimes.accelerate_estimate"]
    done = subprocess.run(
        command, input=request, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )  # fmt: skip
    with (ROOT / "results" / "estimates" / "accelerate.csv").open(encoding="utf-8", newline="") as file:
        stored = {row["model"]: int(row["total_bytes"]) for row in csv.DictReader(file)}
    assert stored[NANO] == json.loads(done.stdout)["total_bytes"]
