"""The stored formulas: the published figures, closed ledgers, speed, and files that are refused."""

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from tests.conftest import CONFIGS, ROOT
from vram_ledger.analysis.derivation.derived import Derived
from vram_ledger.analysis.derivation.derived_files import (
    DerivedError,
    UnknownVariant,
    configuration_of,
    stored_formulas,
    variant_of,
)
from vram_ledger.analysis.derivation.forms import form_text
from vram_ledger.analysis.derivation.groups import OTHER
from vram_ledger.analysis.derivation.ledger import by_group, closes
from vram_ledger.analysis.derivation.moves import moves

FOLDER = ROOT / "results" / "fake-h200" / "derived"
STORED = stored_formulas(FOLDER)
CHECKS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "checks").glob("*.json"))]
MODELS = sorted(path.stem for path in (CONFIGS / "models").glob("qwen3.5-*.json"))


def stored(variant: str, phase: str, transformers: str, model: str = "qwen3.5-27b") -> Derived:
    found = [
        d
        for d in STORED
        if (d.configuration.model, variant_of(d.configuration), d.phase) == (model, variant, phase)
        and d.environment.transformers == transformers
    ]
    assert 1 == len(found)
    return found[0]


FORMS_OF_5_23 = {
    "53,791,997,184 + 154,927,104·B + 8·L + 209,960·B·L + 1,572,864·B·⌈L/64⌉",
    "53,791,997,184 + 158,072,832·B + 8·L + 199,592·B·L",
}


@pytest.mark.parametrize(
    ("transformers", "forms"),
    [
        (
            "5.17.0",
            {
                "53,791,997,184 + 154,927,104·B + 8·L + 242,984·B·L + 1,572,864·B·⌈L/64⌉",
                "53,791,997,184 + 158,072,832·B + 8·L + 224,168·B·L",
            },
        ),
        ("5.23.0", FORMS_OF_5_23),
        ("5.24.0", FORMS_OF_5_23),
    ],
)
def test_prefill_of_the_27b_has_the_published_forms_and_8_bytes_a_token_id(transformers: str, forms: set[str]) -> None:
    regime = stored("text", "prefill", transformers).regimes[-1]
    assert forms == {form_text(p.coefficients, regime.columns, regime.call) for p in regime.peak}


def test_the_change_between_the_two_versions_is_33024_bytes_a_token() -> None:
    old, new = (stored("text", "prefill", v) for v in ("5.17.0", "5.23.0"))
    chunked = [m for m in moves(old, new) if m.after and m.after.coefficients[-1]]
    assert [-33_024] == [m.after.coefficients[3] - m.before.coefficients[3] for m in chunked if m.after and m.before]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("variant", ["default", "text"])
def test_every_shipped_model_has_its_formula(model: str, phase: str, variant: str) -> None:
    assert 1 <= len(stored(variant, phase, "5.24.0", model).regimes)


@pytest.mark.parametrize("derived", STORED, ids=lambda d: d.name)
def test_ledger_of_every_stored_piece_is_closed(derived: Derived) -> None:
    pieces = [p for r in derived.regimes for p in (*r.peak, *([r.held] if r.held else []))]
    assert all(closes(derived, p) and OTHER not in by_group(derived, p) for p in pieces)


@pytest.mark.parametrize("derived", STORED, ids=lambda d: d.name)
def test_each_stored_piece_is_the_peak_at_the_shape_it_names(derived: Derived) -> None:
    pieces = [(r, p) for r in derived.regimes if r.call in ("whole", "decode") for p in r.peak]
    assert all(derived.leading(p.batch, p.context_tokens)[1].coefficients == p.coefficients for _, p in pieces)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c["formula"])
def test_recorded_replays_are_met_to_the_byte_by_the_formula_that_is_stored(check: dict[str, object]) -> None:
    derived = next(d for d in STORED if d.name == check["formula"])
    rows = np.array(check["rows"])
    assert np.array_equal(rows[:, 2], derived.peaks_bytes(rows[:, 0], rows[:, 1]))
    assert np.array_equal(rows[:, 3], derived.helds_bytes(rows[:, 0], rows[:, 1]))


def test_a_million_shapes_are_evaluated_in_less_than_a_second() -> None:
    derived = stored("text", "prefill", "5.23.0")
    chance = np.random.default_rng(0)
    batches, contexts = chance.integers(1, 1025, 1_000_000), chance.integers(1, 1_048_577, 1_000_000)
    began = perf_counter()
    derived.peaks_bytes(batches, contexts)
    assert perf_counter() - began < 1


def test_evaluating_needs_no_torch() -> None:
    path = next(FOLDER.glob("qwen3.5-*.json"))
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'fla', 'triton')))\n"
        "from pathlib import Path; from vram_ledger.analysis.derivation.derived_files import read_derived\n"
        f"print(read_derived(Path({str(path)!r})).peak_bytes(1, 1000))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 0


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    data = json.loads(next(FOLDER.glob("*.json")).read_text(encoding="utf-8"))
    data["environment"]["transformers"] = "9.9.9"
    (tmp_path / "edited.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DerivedError, match="the key is not that of the program"):
        stored_formulas(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"schema": 2}', "[]", '{"schema": 1, "key": "0"}'])
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


@pytest.mark.parametrize("derived", [d for d in STORED if d.configuration.model == "qwen3.5-27b"], ids=lambda d: d.name)
def test_one_shape_and_many_are_evaluated_alike(derived: Derived) -> None:
    chance = np.random.default_rng(1)
    batches, contexts = chance.integers(1, 65, 500), np.exp(chance.uniform(0, 13, 500)).astype(np.int64)
    shapes = list(zip(batches.tolist(), contexts.tolist(), strict=True))
    assert derived.peaks_bytes(batches, contexts).tolist() == [derived.peak_bytes(*shape) for shape in shapes]
    assert derived.helds_bytes(batches, contexts).tolist() == [derived.held_bytes(*shape) for shape in shapes]


def test_one_shape_takes_microseconds() -> None:
    derived = stored("text", "prefill", "5.23.0")
    began = perf_counter()
    for context in range(1, 1001):
        derived.peak_bytes(3, context)
    assert (perf_counter() - began) / 1000 < 100e-6
