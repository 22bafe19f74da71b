"""Where a prediction comes from, what it adds up to, and when a card is said to have the memory."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, ROOT
from tests.synthetic import ENVIRONMENT, SHAPES, campaign, on_card, workload, write
from vram_ledger.analysis.calibrating.calibration import make_calibration, write_calibration
from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.formula.config import ConfigError
from vram_ledger.analysis.ground.cards import Card, CardError, card_of, read_amount
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.analysis.predicting.capacity import frontier
from vram_ledger.analysis.predicting.configs import known_as
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.predicting.prediction import (
    ALLOCATOR,
    DOES_NOT_FIT,
    FITS,
    OUTSIDE,
    TRANSIENT,
    WITHIN_MARGIN,
    judged,
)
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.analysis.predicting.simulated import read_simulated
from vram_ledger.errors import NothingKnown
from vram_ledger.harness.records import Environment, Measured, Measurement, OutOfMemory, ResultsFile

GPUS = CONFIGS / "gpus.toml"
GIB = 2**30
ON_CARD: Environment = dataclasses.replace(
    on_card(campaign()).environment, gpu_label="h200", gpu_name="NVIDIA H200", gpu_total_bytes=140 * GIB
)


def card(label: str = "h200", **fields: object) -> Card:
    return dataclasses.replace(card_of(label, GPUS), **fields)  # type: ignore[arg-type]


def stored(
    folder: Path, environment: Environment, *, calibrated: bool, noise: int = 0, raw: bool = True
) -> ResultsFile:
    """A synthetic campaign below ``folder``, its raw lines or its calibration or both."""
    results = campaign(environment=environment, noise_bytes=noise)
    if environment.device == "cuda":
        results = dataclasses.replace(on_card(results), environment=environment)
    place = folder / environment.gpu_label / "default"
    place.mkdir(parents=True)
    if raw:
        write(results, place / f"{BIG}.{environment.device}.abc.jsonl")
    if calibrated:
        verdicts = judge(results, SHAPES)
        name = f"{BIG}.calibration.json"
        write_calibration(make_calibration(results, all_fitted_terms(results), verdicts, name), place / name)
    return results


def predictor(results: Path, model: str = BIG, variant: str = "text", gpu: str = "h200") -> Predictor:
    return Library.of(results).predictor(model, variant, card(gpu))


def test_measured_point_is_the_answer_where_there_is_one(tmp_path: Path) -> None:
    results = stored(tmp_path, ON_CARD, calibrated=True)
    found = predictor(tmp_path).predict("prefill", 8, 32_768)
    outcome = next(m.outcome for m in results.measurements if m.workload == workload("prefill", 8, 32_768))
    assert isinstance(outcome, Measured)
    assert ("measured here", outcome.warm.requested_bytes) == (found.basis, found.requested_bytes)
    assert found.verdict == FITS


def test_point_that_ran_out_of_memory_does_not_fit_whatever_the_sum_says(tmp_path: Path) -> None:
    results = stored(tmp_path, ON_CARD, calibrated=False)
    lost = OutOfMemory(during="warm", asked_bytes=1, free_bytes=0, requested_bytes=1)
    lines = [Measurement(workload=workload("prefill", 1, 777), repeat=0, outcome=lost), *results.measurements]
    path = next(tmp_path.rglob("*.jsonl"))
    write(dataclasses.replace(results, measurements=tuple(lines)), path)
    assert DOES_NOT_FIT == predictor(tmp_path).predict("prefill", 1, 777).verdict


@pytest.mark.parametrize(
    ("environment", "gpu", "basis"),
    [
        (ON_CARD, "h200", "calibrated on this GPU"),
        (ON_CARD, "a100-80gb", "calibrated on another GPU"),
        (ENVIRONMENT, "h200", "calibrated on a replay"),
    ],
)
def test_calibration_answers_within_its_points_and_says_where_it_is_from(
    tmp_path: Path, environment: Environment, gpu: str, basis: str
) -> None:
    stored(tmp_path, environment, calibrated=True, noise=1000, raw=False)
    found = predictor(tmp_path, gpu=gpu).predict("prefill", 4, 3000)
    transient = next(t for t in found.terms if t.name == TRANSIENT)
    assert basis == found.basis
    assert 0 < transient.most_bytes - transient.bytes < 1_000_000
    assert "formula only" == predictor(tmp_path, gpu=gpu).predict("prefill", 4, 100_000).basis


def test_derived_formula_precedes_a_calibration_on_a_replay(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results" / "fake-h200", tmp_path / "fake-h200")
    assert "derived from the program" == predictor(tmp_path).predict("prefill", 4, 3000).basis


def test_config_that_nothing_is_stored_of_is_answered_by_the_formula_only(tmp_path: Path) -> None:
    found = Library.of(tmp_path).predictor("qwen3.5-9b").predict("decode", 2, 5000)
    assert "formula only" == found.basis
    assert found.verdict is None


def test_finetune_is_known_by_its_shapes(tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "models" / "qwen3.5-9b.json", tmp_path / "config.json")
    other = Library.of(ROOT / "results").predictor(str(tmp_path))
    assert "qwen3.5-9b" == other.configuration.model
    assert "derived from the program" == other.predict("prefill", 1, 4096).basis


def test_unknown_shapes_go_by_the_name_of_their_folder(tmp_path: Path) -> None:
    shapes = dataclasses.replace(SHAPES, intermediate=4096)
    assert tmp_path.name == known_as(tmp_path / "config.json", shapes, "Qwen3_5ForCausalLM")


def test_terms_add_up_to_what_is_needed() -> None:
    found = predictor(ROOT / "results", variant="default").predict("prefill", 3, 77_777)
    requested = [t for t in found.terms if t.name not in (ALLOCATOR, OUTSIDE)]
    assert found.requested_bytes == sum(t.bytes for t in requested)
    assert found.least_bytes == sum(t.least_bytes for t in found.terms)
    assert found.most_bytes == sum(t.most_bytes for t in found.terms)


def test_what_lies_outside_the_allocator_is_what_was_measured_on_the_card(tmp_path: Path) -> None:
    results = stored(tmp_path, ON_CARD, calibrated=False)

    def with_process(m: Measurement, beside: int) -> Measurement:
        assert isinstance(m.outcome, Measured)
        size = m.outcome.warm.requested_bytes
        peak = dataclasses.replace(
            m.outcome.warm, allocated_bytes=size, reserved_bytes=size, process_bytes=size + beside
        )  # fmt: skip
        return dataclasses.replace(m, outcome=dataclasses.replace(m.outcome, warm=peak))

    lines = tuple(with_process(m, 500_000_000 + i) for i, m in enumerate(results.measurements))
    write(dataclasses.replace(results, measurements=lines), next(tmp_path.rglob("*.jsonl")))
    outside = predictor(tmp_path).outside
    assert (500_000_000, 500_000_000 + len(lines) - 1) == (outside.least_bytes, outside.most_bytes)
    assert "measured on this GPU" == outside.source


def test_measured_card_has_the_memory_that_it_reported(tmp_path: Path) -> None:
    stored(tmp_path, ON_CARD, calibrated=False)
    found = predictor(tmp_path).card
    assert found is not None
    assert (140 * GIB, 140 * GIB) == (found.least_bytes, found.most_bytes)


@pytest.mark.parametrize(
    ("least", "most", "verdict"),
    [(5, 90, FITS), (5, 91, WITHIN_MARGIN), (100, 120, WITHIN_MARGIN), (101, 120, DOES_NOT_FIT)],
)
def test_verdict_is_certain_only_where_the_whole_interval_is(least: int, most: int, verdict: str) -> None:
    assert verdict == judged(least, most, card(least_bytes=90, most_bytes=100))


def test_config_of_other_shapes_never_gets_a_shipped_models_numbers(tmp_path: Path) -> None:
    own = tmp_path / BIG / "config.json"
    own.parent.mkdir()
    shutil.copy(CONFIGS / "models" / "qwen3.5-0.8b.json", own)
    text = own.read_text(encoding="utf-8").replace('"intermediate_size": 3584', '"intermediate_size": 4096')
    own.write_text(text, encoding="utf-8")
    found = Library.of(ROOT / "results").predictor(str(own.parent)).predict("prefill", 1, 4096)
    assert "formula only" == found.basis
    assert found.requested_bytes < 4_000_000_000


def test_folder_whose_name_is_a_pattern_is_a_name(tmp_path: Path) -> None:
    own = tmp_path / "qwen3.5-*"
    own.mkdir()
    text = (CONFIGS / "models" / "qwen3.5-0.8b.json").read_text(encoding="utf-8")
    (own / "config.json").write_text(
        text.replace('"intermediate_size": 3584', '"intermediate_size": 4096'), encoding="utf-8"
    )
    assert "formula only" == Library.of(ROOT / "results").predictor(str(own)).predict("prefill", 1, 4096).basis


def test_text_only_copy_of_a_model_is_the_models_text_class(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "models" / "qwen3.5-9b.json").read_text(encoding="utf-8"))
    del config["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    library = Library.of(ROOT / "results")
    assert "derived from the program" == library.predictor(str(tmp_path)).predict("prefill", 1, 4096).basis
    with pytest.raises(ConfigError, match="no vision_config"):
        library.predictor(str(tmp_path), "default")


def test_prompt_no_longer_than_a_chunk_is_a_single_shot() -> None:
    one, other = (predictor(ROOT / "results", variant=v) for v in ("text", "text-chunk2048"))
    assert one.predict("prefill", 32, 2048) == other.predict("prefill", 32, 2048)


def test_what_is_given_to_be_taken_beside_the_allocator_is_taken_for_certain() -> None:
    library = Library.of(ROOT / "results")
    ready = library.predictor(BIG, "text", card("h100", least_bytes=60 * GIB, most_bytes=60 * GIB), 50 * GIB)
    assert DOES_NOT_FIT == ready.predict("prefill", 1, 4096).verdict


def test_smaller_workload_than_one_that_fitted_fits_and_a_larger_than_one_that_did_not_does_not(tmp_path: Path) -> None:
    results = stored(tmp_path, ON_CARD, calibrated=False)
    lost = OutOfMemory(during="warm", asked_bytes=1, free_bytes=0, requested_bytes=1)
    lines = [Measurement(workload=workload("decode", 32, 4000), repeat=0, outcome=lost), *results.measurements]
    write(dataclasses.replace(results, measurements=tuple(lines)), next(tmp_path.rglob("*.jsonl")))
    ready = predictor(tmp_path)
    assert (FITS, DOES_NOT_FIT) == (
        ready.predict("decode", 7, 32_000).verdict,
        ready.predict("decode", 33, 4000).verdict,
    )
    assert 4000 > frontier(ready, "decode", batches=(32,), contexts=()).contexts[0].possible


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*/simulated/*.json")), ids=lambda p: p.stem)
def test_no_stored_point_needs_more_than_a_prediction_allows_for(path: Path) -> None:
    own = read_simulated(path)
    ready = Library.of(ROOT / "results").predictor(own.configuration.model, variant_of(own.configuration))
    short = [p for p in own.points if p.least_bytes > ready.predict(p.phase, p.batch, p.context_tokens).most_bytes]
    assert len(short) <= 0.1 * len(own.points)
    assert not [p for p in short if p.phase == "decode"]


def test_nothing_known_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingKnown, match=r"make derive MODEL=qwen3.5-27b VARIANT=text-static"):
        predictor(tmp_path, variant="text-static").predict("prefill", 1, 4096)


def test_decode_does_not_depend_on_how_its_prompt_was_fed() -> None:
    one, other = (predictor(ROOT / "results", variant=v) for v in ("text", "text-chunk2048"))
    assert one.predict("decode", 2, 9000) == other.predict("decode", 2, 9000)


def test_a_later_chunk_needs_its_sums_in_float32_where_the_mask_is_not_cudnn_s() -> None:
    h200, a100 = (predictor(ROOT / "results", variant="text-chunk2048", gpu=g) for g in ("h200", "a100-80gb"))
    one, other = (p.predict("prefill", 4, 32_768) for p in (h200, a100))
    assert ("derived from the program", "formula only") == (one.basis, other.basis)
    workspaces = 33_554_432 - 8_519_680
    assert 24_576 * 4 * 2048 - workspaces == other.requested_bytes - one.requested_bytes


def test_older_software_can_be_asked_for() -> None:
    library = Library.of(ROOT / "results")
    sizes = [
        library.predictor(BIG, "text", transformers=v).predict("prefill", 1, 4096).requested_bytes
        for v in ("5.17.0", "5.23.0", "")
    ]
    assert 33_024 * 4096 == sizes[0] - sizes[1]
    assert sizes[1] == sizes[2]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_ten_thousand_predictions_take_less_than_a_second(phase: str) -> None:
    ready = predictor(ROOT / "results", variant="default")
    began = time.process_time()
    for number in range(10_000):
        ready.predict(phase, 1 + number % 64, 1 + 26 * number)  # type: ignore[arg-type]
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("label", "message"), [("a100", "a100-40gb or a100-80gb"), ("h2000", "near: h200"), ("", "known")]
)
def test_card_that_is_not_known_is_refused(label: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        card_of(label, GPUS)


@pytest.mark.parametrize(
    ("label", "least", "most", "source"),
    [
        ("h100", 84_942_979_072, 84_942_979_072, "84,942,979,072 bytes: openxla/xla"),
        ("a10", int(24 * GIB * 0.9), 24 * GIB, "nominal, of which a card may report up to a tenth less"),
    ],
)
def test_card_has_what_one_reported_and_else_its_nominal_memory(label: str, least: int, most: int, source: str) -> None:
    found = card_of(label, GPUS)
    assert (least, most, True) == (found.least_bytes, found.most_bytes, source in found.source)


@pytest.mark.parametrize("text", ["12", "GiB", "-3GiB", "1e3GiB"])
def test_amount_of_memory_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CardError, match=r"79\.1GiB"):
        read_amount(text)


@pytest.mark.parametrize(("phase", "chunk"), [("prefill", 0), ("prefill", 2048), ("decode", 0)])
def test_frontier_is_where_predictions_stop_to_fit(phase: str, chunk: int) -> None:
    variant = f"text-chunk{chunk}" if chunk else "text"
    ready = predictor(ROOT / "results", variant=variant, gpu="a100-80gb")
    checked = 0
    for found in frontier(ready, phase, batches=(1, 3, 7), contexts=()).contexts:  # type: ignore[arg-type]
        certain: tuple[int, set[object]] = found.certain, {WITHIN_MARGIN, DOES_NOT_FIT}
        possible: tuple[int, set[object]] = found.possible, {DOES_NOT_FIT}
        for size, wrong in (certain, possible):
            verdicts = [ready.predict(phase, found.at, n).verdict for n in range(max(1, size - 20), size + 1)]  # type: ignore[arg-type]
            assert not wrong & set(verdicts)
            if size < found.most:
                beyond = (size + chunk, size + chunk - 1) if chunk else (size + 1,)
                assert wrong & {ready.predict(phase, found.at, n).verdict for n in beyond}  # type: ignore[arg-type]
                checked += 1
    assert checked


def test_card_too_small_for_the_weights_holds_nothing() -> None:
    found = frontier(predictor(ROOT / "results", gpu="rtx-4090"), "decode", batches=(1,), contexts=(4096,))
    assert (0, 0) == (found.contexts[0].possible, found.batches[0].possible)
