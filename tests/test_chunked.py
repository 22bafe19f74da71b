"""Whether a prefill in chunks is the model's: the comparison by values, and what is stored of it by release."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.invoked import invoke
from vram_ledger.analysis.versions.chunked import (
    Case,
    Compared,
    chunked_text,
    compared,
    spans_text,
    store_compared,
    stored_compared,
)
from vram_ledger.harness.runtimes.chunked import VOCABULARY
from vram_ledger.harness.runtimes.chunked import compared as compared_by_values
from vram_ledger.home import RUNS

GOOD, BAD = {"difference": 6e-6, "other_tokens": 0}, {"difference": 3.9, "other_tokens": 26}


def answer(release: str, **found: Any) -> Compared:
    told = {"batch": 1, "chunk_tokens": 64, "tokens": 200, "failed": "", "largest": 4.2, "decode_difference": 0.0}
    return compared({"transformers": release, "torch": "2.14.1", "failed": "", "cases": [told | GOOD | found]})


class Summing(torch.nn.Module):
    """A model whose logits are a running sum of what it has read, which it keeps; or, in chunks, does not."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.keeps = keeps
        self.embedding = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, use_cache: bool, past_key_values: Any = None) -> Any:
        read = self.embedding(input_ids)
        if past_key_values is not None and (self.keeps or input_ids.shape[1] == 1):
            read[:, 0] += past_key_values
        logits = read.cumsum(dim=1)
        return SimpleNamespace(logits=logits, past_key_values=logits[:, -1])


@pytest.mark.parametrize("chunk", [7, 64, 128])
def test_a_model_that_keeps_its_state_is_the_same_in_chunks(chunk: int) -> None:
    found = compared_by_values(Summing(keeps=True), 2, chunk)
    assert ("", 0) == (found.failed, found.other_tokens)
    assert found.difference < 1e-4


@pytest.mark.parametrize("chunk", [7, 64, 128])
def test_a_model_that_uses_its_state_for_a_single_token_alone_is_found(chunk: int) -> None:
    found = compared_by_values(Summing(keeps=False), 2, chunk)
    assert found.other_tokens > 0
    assert found.difference > 1


def test_the_installed_transformers_is_compared_in_a_process_of_its_own() -> None:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "vram_ledger.harness.runtimes.chunked"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    found = compared(json.loads(done.stdout.splitlines()[-1]))
    (stored,) = [c for c in stored_compared() if c.transformers == found.transformers]
    assert (True, stored.is_the_models) == (found.is_the_models, found.is_the_models)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (GOOD, True),
        (BAD, False),
        (GOOD | {"other_tokens": 1}, False),
        (GOOD | {"difference": 0.0043}, False),
        (GOOD | {"decode_difference": 0.1}, False),
        (GOOD | {"failed": "TypeError: no cache"}, False),
    ],
)
def test_a_case_is_the_model_s_if_nothing_differs_by_more_than_rounding(found: dict[str, Any], expected: bool) -> None:
    assert expected is answer("5.9.0", **found).is_the_models


def test_releases_are_told_in_spans_and_those_without_an_answer_are_left_out() -> None:
    failed = Compared(transformers="5.3.1", torch="2.14.1", failed="ImportError: x", cases=())
    known = [answer("5.2.0", **BAD), answer("5.3.0", **BAD), failed, answer("5.4.0"), answer("5.5.0")]
    assert "a single shot's logits in 5.4.0 to 5.5.0, other logits in 5.2.0 to 5.3.0" == spans_text(known)


def test_own_answers_are_added_and_replace_older_ones(tmp_path: Path) -> None:
    store_compared([answer("5.99.0", **BAD)], tmp_path)
    assert "In chunks, transformers 5.99.0 gives other logits; of all, " in chunked_text("5.99.0", tmp_path)
    store_compared([answer("5.99.0")], tmp_path)
    assert "In chunks, transformers 5.99.0 gives a single shot's logits; of all, " in chunked_text("5.99.0", tmp_path)
    assert chunked_text("5.98.0", tmp_path).endswith("; 5.98.0 was not tried.")


@pytest.mark.parametrize(("release", "expected"), [("5.2.0", False), ("5.17.0", True), ("5.24.0", True)])
def test_stored_answers_by_release(release: str, expected: bool) -> None:
    (found,) = [c for c in stored_compared(RUNS) if c.transformers == release]
    assert expected is found.is_the_models
    assert 4 == len(found.cases)


def test_advice_to_chunk_names_the_releases_in_which_it_is_the_model() -> None:
    done = invoke("predict", "--gpu", "a100-80gb", "--context", "128k")
    said = done.stdout.splitlines()
    (at,) = [n for n, line in enumerate(said) if line.startswith("A prefill in chunks of 8,192 fits")]
    assert chunked_text() == said[at + 1]
    assert "other logits in 5.2.0 to " in said[at + 1]


def test_case_has_the_fields_that_the_comparison_prints() -> None:
    from vram_ledger.harness.runtimes.chunked import Compared as Printed

    assert list(Case.__dataclass_fields__) == list(Printed.__dataclass_fields__)
