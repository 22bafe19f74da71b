"""The family's program in symbols gives the bytes of every formula that was derived from the program itself."""

import dataclasses
from pathlib import Path

import pytest

from analysis.derivation.derive_cli import random_shapes
from analysis.derivation.derived_files import configuration_of, read_derived
from analysis.model import read_shapes, resident_bytes
from analysis.predicting import program
from analysis.predicting.simulated import read_simulated
from harness.records import Configuration, Workload
from tests.conftest import BIG, CONFIGS, CONFIGURATION, ROOT

FAKE = ROOT / "results" / "fake-h200"
FORMULAS = sorted(p for p in (FAKE / "derived").glob("*.json") if "static" not in p.name)
SIMULATED = sorted((FAKE / "simulated").glob("*.json"))
SHAPES = {path.stem: read_shapes(path) for path in sorted((CONFIGS / "models").glob("*.json"))}


def resident(configuration: Configuration) -> int:
    return resident_bytes(SHAPES[configuration.model], configuration.model_class)


@pytest.mark.parametrize("path", FORMULAS, ids=lambda p: p.name)
def test_program_is_the_derived_formula_at_random_shapes(path: Path) -> None:
    formula = read_derived(path)
    if formula.environment.transformers != program.TRANSFORMERS:
        return  # another program, which is the next test's
    c = formula.configuration
    differing = {
        (s.batch, s.context_tokens)
        for s in random_shapes(200, 64, 262_144, 11)
        if resident(c) + program.peak(SHAPES[c.model], workload(c, formula.phase, s.batch, s.context_tokens)).bytes
        != formula.peak_bytes(s.batch, s.context_tokens)
    }
    assert not differing


def workload(configuration: Configuration, phase: object, batch: int, context: int) -> Workload:
    return Workload(configuration=configuration, phase=phase, context_tokens=context, batch=batch)  # type: ignore[arg-type]


def test_another_version_of_transformers_is_told_apart() -> None:
    old = next(
        f for f in map(read_derived, FORMULAS) if f.environment.transformers == "5.17.0" and f.phase == "prefill"
    )
    here = program.peak(SHAPES[BIG], workload(old.configuration, "prefill", 1, 4096)).bytes
    assert old.peak_bytes(1, 4096) - here - resident(old.configuration) == 33_024 * 4096


@pytest.mark.parametrize("path", SIMULATED, ids=lambda p: p.stem)
def test_program_is_the_replay_at_random_shapes_and_chunks(path: Path) -> None:
    own = read_simulated(path)
    shapes, base = SHAPES[own.configuration.model], resident(own.configuration)
    assert own.points
    for p in own.points:
        found = program.peak(shapes, workload(own.configuration, p.phase, p.batch, p.context_tokens))
        assert p.requested_bytes == base + found.bytes


@pytest.mark.parametrize(
    "change",
    [
        {"kernels": "torch"},
        {"attention": "eager"},
        {"cache": "static"},
        {"dtype": "float32"},
        {"prefill_chunk_tokens": 1001},
        {"prefill_chunk_tokens": 1024, "logits": "all"},
    ],
    ids=str,
)
def test_program_does_not_know_another_configuration(change: dict[str, object]) -> None:
    assert program.knows(SHAPES[BIG], CONFIGURATION)
    assert not program.knows(SHAPES[BIG], dataclasses.replace(CONFIGURATION, **change))  # type: ignore[arg-type]


def test_layers_in_another_order_are_not_known() -> None:
    assert SHAPES[BIG].regular
    assert not program.knows(dataclasses.replace(SHAPES[BIG], regular=False), CONFIGURATION)


def test_chunked_prefill_needs_less_than_a_single_shot() -> None:
    sizes = [
        program.peak(SHAPES[BIG], workload(configuration_of(BIG, f"text{c}"), "prefill", 1, 131_072)).bytes
        for c in ("", "-chunk8192", "-chunk2048")
    ]
    assert sizes == sorted(sizes, reverse=True)
