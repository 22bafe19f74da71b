"""The commands predict, capacity and held-out, as people run them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import Result, invoke


def run(*arguments: object) -> Result:
    return invoke(*arguments)


def test_prefill_that_does_not_fit_says_in_which_chunks_it_does() -> None:
    done = run("predict", "--gpu", "a100-80gb", "--memory", "79.1GiB", "--context", 131_072)
    assert 0 == done.exit_code
    assert "(as given): does not fit" in done.output
    assert "A prefill in chunks of 8,192 fits: " in done.output


def test_prefill_that_fits_in_no_chunk_says_so() -> None:
    done = run("predict", "--gpu", "a100-80gb", "--batch", 64, "--context", 8192)
    assert "No chunk down to 512 is sure to fit: " in done.output


def test_weights_that_exceed_the_card_are_all_that_is_said() -> None:
    done = run("predict", "--gpu", "rtx-4090", "--context", 8192)
    assert "The weights alone are more than the card has." in done.output
    assert "chunk" not in done.output


def test_smaller_chunk_is_named_where_the_given_one_does_not_fit() -> None:
    done = run(
        "predict", "--gpu", "a100-80gb", "--batch", 32, "--context", 4096, "--chunk", 2048, "--memory", "79.1GiB"
    )
    assert "A prefill in chunks of 1,024 fits: " in done.output


def test_answer_stands_where_nothing_is_known_of_chunks() -> None:
    done = run("predict", "--variant", "text-static", "--gpu", "a100-80gb", "--context", 131_072)
    assert (0, True) == (done.exit_code, "a100-80gb has " in done.output)


def test_capacity_names_the_batches_whose_cache_may_be_pinned() -> None:
    assert "At batch 16 a decode step may need its cache once more" in run("capacity", "--gpu", "h200").output


def test_decode_names_the_prefill_before_it() -> None:
    done = run("predict", "--gpu", "h200", "--phase", "decode", "--context", 262_144, "--batch", 4)
    assert "The prefill that it follows, in a single shot: " in done.output
    assert "does not fit" in done.output


def test_json_is_one_object_with_terms_that_add_up() -> None:
    done = run("predict", "--gpu", "h200", "--json")
    data = json.loads(done.output)
    assert data["verdict"] == "fits"
    assert data["most_bytes"] == sum(term["most_bytes"] for term in data["terms"])


def test_capacity_as_json_has_both_phases() -> None:
    data = json.loads(run("capacity", "--gpu", "h200", "--json").output)
    assert ["prefill", "decode"] == [frontier["phase"] for frontier in data]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--phase", "both"), 2, "neither prefill nor decode"),
        (("--gpu", "a100"), 2, "a100-40gb or a100-80gb"),
        (("--memory", "80GiB"), 2, "name the GPU"),
        (("--gpu", "h200", "--free", "much"), 2, "not an amount"),
        (("--model", "nope"), 2, "known are"),
        (("--model", "/nowhere/config.json"), 2, "No such file"),
        (("--variant", "odd"), 2, "variant 'odd"),
        (("--gpu", "h200", "--memory", "0GiB"), 2, "not an amount"),
        (("--transformers", "9.9.9"), 4, "nothing stored of transformers 9.9.9"),
        (("--chunk", "1001"), 4, "chunks of a multiple of 8 tokens"),
        (("--variant", "default-eager"), 4, "make derive MODEL=qwen3.5-27b VARIANT=default-eager"),
    ],
)
def test_bad_questions_are_refused_in_one_line(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run("predict", *arguments)
    assert code == done.exit_code
    assert message in done.stderr
    assert 1 == len(done.stderr.strip().splitlines())


def test_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    done = run("predict", "--model", tmp_path)
    assert 2 == done.exit_code
    assert "config.json:1: not JSON" in done.stderr


def test_answer_comes_within_a_second_without_torch() -> None:
    program = (
        "import sys; from vram_ledger.cli import run\n"
        "run(['predict', '--gpu', 'h200'])\n"
        "print(sorted({'torch', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # the second has its files in memory
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[]" == done.stderr.strip()
    assert time.monotonic() - began < 2  # a second where nothing else runs
