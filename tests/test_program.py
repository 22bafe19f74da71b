"""The family's program in symbols gives the bytes of every formula that was derived from the program itself."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, CONFIGURATION, NANO, ROOT, Ask
from vram_ledger.analysis.derivation.derived_files import configuration_of, read_derived
from vram_ledger.analysis.derivation.forms import random_shapes
from vram_ledger.analysis.derivation.program import Program
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.formula.shapes import resident_bytes
from vram_ledger.analysis.predicting import program
from vram_ledger.harness.events import STANDING, peak_event
from vram_ledger.harness.records import Configuration, Workload

OTHERS = {"static", "reference", "float32", "nocache", "second", "loss"}  # variants that the symbols do not have
FORMULAS = [
    p
    for p in sorted((ROOT / "results").glob("*/derived/*.json"))
    if not OTHERS & set(re.split(r"[.-]", p.name)) and read_derived(p).environment.transformers in program.TRANSFORMERS
]
SHAPES = {path.stem: read_shapes(path) for path in sorted((CONFIGS / "models").glob("*.json"))}


def resident(configuration: Configuration) -> int:
    return resident_bytes(SHAPES[configuration.model], configuration.model_class)


@pytest.mark.parametrize("path", FORMULAS, ids=lambda p: p.name)
def test_program_is_the_derived_formula_at_random_shapes(path: Path) -> None:
    formula = read_derived(path)
    derived = Program(formula)
    c, card = formula.configuration, formula.environment.gpu_capability or ""
    shapes = [(s.batch, s.context_tokens) for s in random_shapes(200, 64, 262_144, 11)]
    differing = {
        shape
        for shape in shapes
        if resident(c) + program.peak(SHAPES[c.model], workload(c, formula.phase, *shape), card).bytes
        != derived.peak_bytes(*shape)
    }
    assert not differing


def workload(configuration: Configuration, phase: object, batch: int, context: int) -> Workload:
    return Workload(configuration=configuration, phase=phase, context_tokens=context, batch=batch)  # type: ignore[arg-type]


CHUNKED = [p for p in FORMULAS if ".prefill." in p.name and "logits" not in p.name]


@pytest.mark.parametrize("path", CHUNKED, ids=lambda p: p.name)
@pytest.mark.parametrize("chunk", [512, 2048, 8192])
def test_program_is_the_derived_one_in_chunks(path: Path, chunk: int) -> None:
    formula = read_derived(path)
    derived, c = Program(formula), dataclasses.replace(formula.configuration, prefill_chunk_tokens=chunk)
    for shape in random_shapes(20, 64, 6 * chunk, 5, chunk + 1):
        asked = workload(c, "prefill", shape.batch, shape.context_tokens)
        found = program.peak(SHAPES[c.model], asked, formula.environment.gpu_capability or "").bytes
        assert resident(c) + found == derived.peak_bytes(shape.batch, shape.context_tokens, chunk)


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


@pytest.mark.parametrize("gpu", ["a100-80gb", "h100"])
@pytest.mark.parametrize("context", [16_384, 16_001])
@pytest.mark.parametrize(("model", "chunk"), [(BIG, 2048), (NANO, 512)])
def test_chunked_prefill_has_the_peak_of_an_emulated_card(
    ask: Ask, gpu: str, context: int, model: str, chunk: int
) -> None:
    configuration = dataclasses.replace(CONFIGURATION, model=model, prefill_chunk_tokens=chunk)
    card = ask(device="emulated", gpu=gpu, model=model)
    log = card.log("prefill", 2, context, prefill_chunk_tokens=chunk)
    _, peak = peak_event(log, log.marks["start"], log.marks["end"])
    standing = sum(a.bytes for a in log.allocations if a.op in STANDING)
    capability = {"a100-80gb": "8.0", "h100": "9.0"}[gpu]
    expected = program.peak(SHAPES[model], workload(configuration, "prefill", 2, context), capability)
    assert expected.bytes == peak - standing
