"""The stored formulas: the published figures, closed ledgers, speed, and files that are refused."""

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

import pytest

from tests.conftest import CONFIGS, ROOT
from vram_ledger.analysis.derivation.derived import OutsideDomain
from vram_ledger.analysis.derivation.derived_files import (
    DerivedError,
    UnknownVariant,
    configuration_of,
    stored_formulas,
    variant_of,
)
from vram_ledger.analysis.derivation.forms import form_text
from vram_ledger.analysis.derivation.groups import OTHER
from vram_ledger.analysis.derivation.ledger import by_group
from vram_ledger.analysis.derivation.pieces import held_piece, peak_pieces
from vram_ledger.analysis.derivation.program import Device, Program

FOLDER = ROOT / "results" / "emulated-a100-80gb" / "derived"
STORED = tuple(Program(d) for folder in sorted((ROOT / "results").glob("*/derived")) for d in stored_formulas(folder))
MODELS = sorted(path.stem for path in (CONFIGS / "models").glob("qwen3.5-*.json"))


def stored(variant: str, phase: str, transformers: str, model: str = "qwen3.5-27b") -> Program:
    found = [
        p
        for p in STORED
        if (p.derived.configuration.model, variant_of(p.derived.configuration), p.derived.phase)
        == (model, variant, phase)
        and (p.derived.environment.transformers, p.derived.environment.gpu_capability) == (transformers, "8.0")
    ]
    assert 1 == len(found)
    return found[0]


FORMS = {
    "53,791,997,184 + 154,927,104·B + 8·L + 209,960·B·L + 1,572,864·B·⌈L/64⌉",
    "53,791,997,184 + 158,072,832·B + 8·L + 199,592·B·L",
}


def test_prefill_of_the_27b_has_the_published_forms_and_8_bytes_a_token_id() -> None:
    program = stored("text", "prefill", "5.24.0")
    regime = next(r for r in program.derived.regimes if r.call == "whole" and r.domain.contexts[1] > 4)
    pieces = peak_pieces(program, regime)
    assert FORMS == {form_text(p.coefficients, regime.columns, regime.call) for p in pieces}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("variant", ["default", "text"])
def test_every_shipped_model_has_its_formula(model: str, phase: str, variant: str) -> None:
    assert 1 <= len(stored(variant, phase, "5.24.0", model).derived.regimes)


@pytest.mark.parametrize("program", STORED, ids=lambda p: p.derived.name)
def test_no_byte_of_a_stored_program_is_held_without_a_group(program: Program) -> None:
    assert all(OTHER not in by_group(held_piece(program, regime)) for regime in program.derived.regimes)


@pytest.mark.parametrize("program", STORED, ids=lambda p: p.derived.name)
def test_a_stored_program_is_a_small_file(program: Program) -> None:
    folder = ROOT / "results" / program.derived.environment.gpu_label / "derived"
    assert (folder / program.derived.name).stat().st_size < 250_000


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_shape_of_the_27b_is_put_through_the_allocator_in_milliseconds(phase: str) -> None:
    program = stored("text", phase, "5.24.0")
    device = Device(multiprocessors=108, workspace_bytes=8_519_680)
    program.run(device, 1, 4096)
    began = process_time()
    for context in range(1000, 1020):
        program.run(device, 2, context)
    assert (process_time() - began) / 20 < 0.04


@pytest.mark.parametrize("chunk", [1, 7, 1001])
def test_chunks_that_no_run_was_made_of_are_refused(chunk: int) -> None:
    program = stored("text", "prefill", "5.24.0")
    with pytest.raises(OutsideDomain, match="multiple of 8"):
        program.run(Device(multiprocessors=108, workspace_bytes=8_519_680), 1, 3000, chunk)
    with pytest.raises(OutsideDomain, match="multiple of 8"):
        program.peak_bytes(1, 3000, chunk)


def test_evaluating_needs_no_torch() -> None:
    path = next(FOLDER.glob("qwen3.5-*.json"))
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'fla', 'triton')))\n"
        "from pathlib import Path; from vram_ledger.analysis.derivation.derived_files import read_derived\n"
        "from vram_ledger.analysis.derivation.program import Program\n"
        f"print(Program(read_derived(Path({str(path)!r}))).peak_bytes(1, 1000))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 0


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    data = json.loads(next(FOLDER.glob("*.json")).read_text(encoding="utf-8"))
    data["environment"]["transformers"] = "9.9.9"
    (tmp_path / "edited.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DerivedError, match="the key is not that of the program"):
        stored_formulas(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"schema": 3}', "[]", '{"schema": 2, "key": "0"}'])
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_text(text, encoding="utf-8")
    with pytest.raises(DerivedError, match=r"odd\.json"):
        stored_formulas(tmp_path)


@pytest.mark.parametrize("variant", ["text", "default-static", "text-logits", "default-static-chunk64", "text-eager"])
def test_name_of_a_variant_says_the_configuration(variant: str) -> None:
    assert variant == variant_of(configuration_of("qwen3.5-27b", variant))


@pytest.mark.parametrize("variant", ["other", "text-what", "text-chunk0", ""])
def test_unknown_variant_is_refused(variant: str) -> None:
    with pytest.raises(UnknownVariant):
        configuration_of("qwen3.5-27b", variant)


def test_what_is_requested_takes_a_fraction_of_a_millisecond() -> None:
    derived = stored("text", "prefill", "5.24.0")
    began = perf_counter()
    for context in range(1, 1001):
        derived.peak_bytes(3, context)
    assert (perf_counter() - began) / 1000 < 1e-3
