"""Where a prediction comes from, what it adds up to, and when a card is said to have the memory."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, ROOT
from tests.synthetic import SHAPES, campaign, on_card, workload, write
from tests.test_derive_cli import older
from tests.test_derived import stored as stored_program
from vram_ledger.analysis.derivation.derived_files import configuration_of, derived_path, write_derived
from vram_ledger.analysis.derivation.program import Device, Ran
from vram_ledger.analysis.formula.config import ConfigError
from vram_ledger.analysis.ground.cards import Card, CardError, card_of, read_amount
from vram_ledger.analysis.predicting.advice import failure_text
from vram_ledger.analysis.predicting.capacity import Frontier, frontier
from vram_ledger.analysis.predicting.configs import known_as
from vram_ledger.analysis.predicting.kernels import derived_on
from vram_ledger.analysis.predicting.library import ASSUMED_OUTSIDE_BYTES, Library
from vram_ledger.analysis.predicting.prediction import DOES_NOT_FIT, FITS, WITHIN_MARGIN, Fit, Prediction
from vram_ledger.analysis.predicting.predictor import Predictor
from vram_ledger.analysis.predicting.workspace import SMALL_BYTES
from vram_ledger.errors import NothingKnown
from vram_ledger.harness.records import Environment, Measured, Measurement, OutOfMemory, Phase, ResultsFile

GPUS = CONFIGS / "gpus.toml"
GIB = 2**30
ON_CARD: Environment = dataclasses.replace(
    on_card(campaign()).environment, gpu_label="h200", gpu_name="NVIDIA H200", gpu_total_bytes=140 * GIB
)


def card(label: str = "h200", **fields: object) -> Card:
    return dataclasses.replace(card_of(label, GPUS), **fields)  # type: ignore[arg-type]


def stored(folder: Path) -> ResultsFile:
    """A synthetic campaign of a card below ``folder``."""
    results = dataclasses.replace(on_card(campaign(environment=ON_CARD)), environment=ON_CARD)
    place = folder / ON_CARD.gpu_label / "default"
    place.mkdir(parents=True)
    write(results, place / f"{BIG}.{ON_CARD.device}.abc.jsonl")
    return results


def predictor(results: Path, model: str = BIG, variant: str = "text", gpu: str = "h200") -> Predictor:
    return Library.of(results).predictor(model, variant, card(gpu))


def test_measured_point_is_the_answer_where_there_is_one(tmp_path: Path) -> None:
    results = stored(tmp_path)
    found = predictor(tmp_path).predict("prefill", 8, 32_768)
    outcome = next(m.outcome for m in results.measurements if m.workload == workload("prefill", 8, 32_768))
    assert isinstance(outcome, Measured)
    assert ("measured here", outcome.warm.requested_bytes) == (found.basis, found.requested_bytes)
    assert found.verdict == FITS


def test_point_that_ran_out_of_memory_does_not_fit_whatever_the_sum_says(tmp_path: Path) -> None:
    results = stored(tmp_path)
    lost = OutOfMemory(during="warm", asked_bytes=1, free_bytes=0, requested_bytes=1)
    lines = [Measurement(workload=workload("prefill", 1, 777), repeat=0, outcome=lost), *results.measurements]
    path = next(tmp_path.rglob("*.jsonl"))
    write(dataclasses.replace(results, measurements=tuple(lines)), path)
    assert DOES_NOT_FIT == predictor(tmp_path).predict("prefill", 1, 777).verdict


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_derived_program_precedes_the_symbols_which_say_the_same(phase: Phase, tmp_path: Path) -> None:
    derived, symbols = (predictor(f).predict(phase, 4, 3000) for f in (ROOT / "results", tmp_path))
    assert ("derived from the program", "formula only") == (derived.basis, symbols.basis)
    assert derived.requested_bytes == symbols.requested_bytes
    assert (None, None) == (symbols.allocated_bytes, symbols.reserved_bytes)


def test_counted_point_precedes_the_program_which_has_its_bytes_and_decides_whether_it_fits() -> None:
    library = Library.of(ROOT / "results")
    here, smaller = (
        library.predictor(BIG, "default", card("a100-80gb", **memory)).predict("prefill", 1, 32_768)
        for memory in ({}, {"least_bytes": 58 * GIB, "most_bytes": 58 * GIB})
    )
    program = stored_program("default", "prefill", "5.24.0")
    ran = program.run(Device(multiprocessors=108, workspace_bytes=SMALL_BYTES), 1, 32_768)
    assert isinstance(ran, Ran)
    assert ("emulated here", FITS) == (here.basis, here.verdict)
    counted = here.requested_bytes, here.allocated_bytes, here.reserved_bytes
    assert (ran.peak.requested_bytes, ran.peak.allocated_bytes, ran.peak.reserved_bytes) == counted
    assert DOES_NOT_FIT == smaller.verdict
    assert smaller.failed is not None


def test_config_that_nothing_is_stored_of_is_answered_by_the_formula_only(tmp_path: Path) -> None:
    found = Library.of(tmp_path).predictor("qwen3.5-9b").predict("decode", 2, 5000)
    assert "formula only" == found.basis
    assert found.verdict is None


def test_finetune_is_known_by_its_shapes(tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "models" / "qwen3.5-9b.json", tmp_path / "config.json")
    other = Library.of(ROOT / "results").predictor(str(tmp_path), "text")
    assert "qwen3.5-9b" == other.configuration.model
    assert "derived from the program" == other.predict("prefill", 1, 4096).basis


def test_unknown_shapes_go_by_the_name_of_their_folder(tmp_path: Path) -> None:
    shapes = dataclasses.replace(SHAPES, intermediate=4096)
    assert tmp_path.name == known_as(tmp_path / "config.json", shapes, "Qwen3_5ForCausalLM")


def test_terms_add_up_to_what_is_requested_and_the_process_is_what_is_reserved_and_what_lies_outside() -> None:
    found = predictor(ROOT / "results").predict("prefill", 3, 77_777)
    assert found.requested_bytes == sum(t.least_bytes for t in found.terms) == sum(t.most_bytes for t in found.terms)
    assert found.allocated_bytes is not None
    assert found.reserved_bytes is not None
    assert found.requested_bytes < found.allocated_bytes < found.reserved_bytes
    assert found.least_bytes == found.reserved_bytes + found.outside.least_bytes
    assert found.most_bytes == found.reserved_bytes + found.outside.most_bytes


def test_what_lies_outside_the_allocator_is_what_was_measured_on_the_card(tmp_path: Path) -> None:
    results = stored(tmp_path)

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
    stored(tmp_path)
    found = predictor(tmp_path).card
    assert found is not None
    assert (140 * GIB, 140 * GIB) == (found.least_bytes, found.most_bytes)


# ---- whether it fits, from the allocator on the card's own size ----

AT: tuple[Phase, int, int] = "prefill", 4, 16_384


def asked(least: int, most: int, outside: int | None = None) -> Prediction:
    """The workload's answer on a card of an A100's kind with so much memory."""
    own = card("a100-80gb", least_bytes=least, most_bytes=most)
    return Library.of(ROOT / "results").predictor(BIG, "text", own, outside).predict(*AT)


def least_capacity() -> int:
    """The least that the driver must have to give for the workload, and with 1 B less it fails."""
    program, device = (
        stored_program("text", "prefill", "5.24.0"),
        Device(multiprocessors=108, workspace_bytes=SMALL_BYTES),
    )
    low, high = program.requested(*AT[1:])[0], 100 * GIB
    while high - low > 1:
        middle = (low + high) // 2
        fits = isinstance(program.run(device, *AT[1:], capacity_bytes=middle), Ran)
        low, high = (low, middle) if fits else (middle, high)
    return high


LEAST = least_capacity()


@pytest.mark.parametrize(
    ("least", "most", "verdict"),
    [
        (ASSUMED_OUTSIDE_BYTES, ASSUMED_OUTSIDE_BYTES, FITS),
        (ASSUMED_OUTSIDE_BYTES - 1, ASSUMED_OUTSIDE_BYTES, WITHIN_MARGIN),
        (-1, 0, WITHIN_MARGIN),
        (-1, -1, DOES_NOT_FIT),
    ],
)
def test_verdict_is_exact_but_for_what_lies_outside_the_allocator(least: int, most: int, verdict: Fit) -> None:
    found = asked(LEAST + least, LEAST + most)
    assert (verdict, verdict != FITS) == (found.verdict, found.failed is not None)


@pytest.mark.parametrize(("size", "verdict"), [(LEAST, FITS), (LEAST - 1, DOES_NOT_FIT)])
def test_one_byte_decides_where_what_lies_outside_is_given(size: int, verdict: Fit) -> None:
    assert verdict == asked(size + 424 * 2**20, size + 424 * 2**20, 424 * 2**20).verdict


def test_on_a_full_card_what_is_reserved_is_what_is_left_after_the_cache_was_given_back() -> None:
    full, roomy = asked(LEAST, LEAST, 0), asked(200 * GIB, 200 * GIB, 0)
    assert roomy.reserved_bytes is not None
    assert full.reserved_bytes is not None
    assert full.requested_bytes <= full.reserved_bytes <= LEAST < roomy.reserved_bytes
    assert 0 == roomy.retries < full.retries
    assert (full.requested_bytes, full.allocated_bytes) == (roomy.requested_bytes, roomy.allocated_bytes)


def test_request_that_finds_no_memory_is_named_with_what_it_asks_and_what_is_free() -> None:
    own = card("a100-80gb", least_bytes=84 * 10**9, most_bytes=84 * 10**9)
    found = Library.of(ROOT / "results").predictor(BIG, "text", own).predict("prefill", 1, 131_072)
    assert found.failed is not None
    assert found.failed.origin is not None
    failure, origin = found.failed.failure, found.failed.origin
    assert ("forward", "empty_like", "model.layers.*.linear_attn") == (found.failed.during, origin.op, origin.module)
    assert (12_288 * 131_072, 12_288 * 131_072) == (failure.requested_bytes, failure.asked_bytes)
    assert failure.free_bytes < failure.asked_bytes
    assert failure.held.reserved_bytes + failure.free_bytes == own.most_bytes
    assert failure_text(found.failed).startswith(
        "out of memory in empty_like in model.layers.*.linear_attn (fla/ops/common/chunk_o.py:565): "
        f"tried to allocate 1.50 GiB, {failure.free_bytes / GIB:.2f} GiB free, "
    )


def test_weights_that_find_no_memory_are_named_as_the_build() -> None:
    found = Library.of(ROOT / "results").predictor(BIG, "text", card("rtx-4090")).predict("prefill", 1, 1)
    assert found.failed is not None
    assert ("build", None, DOES_NOT_FIT) == (found.failed.during, found.failed.origin, found.verdict)
    assert failure_text(found.failed).startswith("out of memory in building the model: tried to allocate ")


@pytest.mark.parametrize(
    ("capability", "phase", "wanted"),
    [
        ("8.0", "prefill", "8.0"), ("8.6", "decode", "8.0"), ("8.9", "prefill", "8.0"), ("12.0", "decode", "8.0"),
        ("9.0", "prefill", "9.0"), ("9.0", "decode", "9.0"), ("10.0", "prefill", "9.0"), ("10.3", "prefill", "9.0"),
        ("10.0", "decode", "8.0"), ("7.5", "prefill", None), ("11.0", "decode", None), ("", "prefill", None),
    ],
)  # fmt: skip
def test_card_runs_the_program_that_was_derived_with_its_attention_kernel(
    capability: str, phase: Phase, wanted: str | None
) -> None:
    assert wanted == derived_on(capability, phase, configuration_of(BIG, "text"))


def test_decode_step_under_a_mask_is_cudnn_s_where_one_without_is_not() -> None:
    assert ["8.0", "9.0"] == [derived_on("10.0", "decode", configuration_of(BIG, v)) for v in ("text", "text-static")]


@pytest.mark.parametrize(
    ("gpu", "phase", "derived"),
    [("a100-80gb", "decode", "8.0"), ("l40s", "prefill", "8.0"), ("h100", "prefill", "9.0"), ("h200", "decode", "9.0"),
     ("b200", "prefill", "9.0"), ("b200", "decode", "8.0")],
)  # fmt: skip
def test_program_is_that_of_the_card_s_capability(gpu: str, phase: Phase, derived: str) -> None:
    key = {
        "8.0": stored_program("text", phase, "5.24.0").derived.key,
        "9.0": {"prefill": "9ef067287372", "decode": "4d669c260260"}[phase],
    }
    found = predictor(ROOT / "results", gpu=gpu).predict(phase, 1, 5000)
    assert found.origin.startswith(f"{BIG}.text.{phase}.{key[derived]}.json (transformers 5.24.0, ")


# ---- which model, which software ----


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


def test_what_a_card_was_seen_to_do_is_of_that_workload_alone(tmp_path: Path) -> None:
    results = stored(tmp_path)
    lost = OutOfMemory(during="warm", asked_bytes=1, free_bytes=0, requested_bytes=1)
    lines = [Measurement(workload=workload("decode", 32, 4000), repeat=0, outcome=lost), *results.measurements]
    write(dataclasses.replace(results, measurements=tuple(lines)), next(tmp_path.rglob("*.jsonl")))
    seen = {at: predictor(tmp_path).predict("decode", *at).seen for at in ((32, 4000), (8, 32_768), (33, 4000), (1, 9))}
    assert [DOES_NOT_FIT, FITS, None, None] == [one and one.fit for one in seen.values()]


def test_nothing_known_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingKnown, match=r"make derive MODEL=qwen3.5-27b VARIANT=text-static"):
        predictor(tmp_path, variant="text-static").predict("prefill", 1, 4096)


def test_decode_does_not_depend_on_how_its_prompt_was_fed() -> None:
    one, other = (predictor(ROOT / "results", variant=v) for v in ("text", "text-chunk2048"))
    assert one.predict("decode", 2, 9000) == other.predict("decode", 2, 9000)


def test_a_later_chunk_needs_its_sums_in_float32_where_the_mask_is_not_cudnn_s() -> None:
    h200, a100 = (predictor(ROOT / "results", variant="text-chunk2048", gpu=g) for g in ("h200", "a100-80gb"))
    one, other = (p.predict("prefill", 4, 32_768) for p in (h200, a100))
    assert {"derived from the program"} == {one.basis, other.basis}
    workspaces = 33_554_432 - 8_519_680
    assert 24_576 * 4 * 2048 - workspaces == other.requested_bytes - one.requested_bytes


def test_older_software_can_be_asked_for(tmp_path: Path) -> None:
    for derived in (older(), stored_program("text", "prefill", "5.24.0").derived):
        write_derived(derived, derived_path(tmp_path, derived))
    library = Library.of(tmp_path)
    found = [
        library.predictor(BIG, "text", transformers=v).predict("prefill", 1, 4096)
        for v in ("5.17.0", "5.24.0", "", "5.23.0")
    ]
    assert ["derived from the program"] * 3 + ["formula only"] == [p.basis for p in found]
    assert 33_024 * 4096 == found[0].requested_bytes - found[1].requested_bytes
    assert found[1] == found[2]
    with pytest.raises(NothingKnown, match=r"nothing stored of transformers 9\.9\.9"):
        library.predictor(BIG, "text", transformers="9.9.9").predict("prefill", 1, 4096)


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


# ---- how much fits ----


def sampled(end: int, count: int = 12) -> list[int]:
    """Numbers up to an end, the nearer the denser."""
    return sorted({end, *(end - round(end * (n / count) ** 3) for n in range(1, count))} - {0})


@pytest.mark.parametrize(("phase", "chunk", "batch"), [("prefill", 0, 3), ("prefill", 8192, 4), ("decode", 0, 7)])
def test_frontier_is_where_predictions_stop_to_fit(phase: Phase, chunk: int, batch: int) -> None:
    ready = predictor(ROOT / "results", variant=f"text-chunk{chunk}" if chunk else "text", gpu="a100-80gb")
    (found,) = frontier(ready, phase, batches=(batch,), contexts=()).contexts
    assert 0 < found.certain <= found.possible < found.most

    def verdict(tokens: int) -> Fit | None:
        return ready.predict(phase, batch, tokens).verdict

    if chunk:
        assert 0 == found.certain % chunk == found.possible % chunk
    assert {FITS} == set(map(verdict, sampled(found.certain)))
    assert {FITS} != {verdict(found.certain + n) for n in ({chunk - 1, chunk} if chunk else {1})}
    assert DOES_NOT_FIT != verdict(found.possible)
    assert DOES_NOT_FIT == verdict(found.possible + (chunk or 1))


@pytest.mark.parametrize("context", [16_384, 65_536])
def test_largest_batch_is_the_last_that_fits(context: int) -> None:
    ready = predictor(ROOT / "results", gpu="a100-80gb")
    (found,) = frontier(ready, "decode", batches=(), contexts=(context,)).batches
    assert {FITS} == {ready.predict("decode", n, context).verdict for n in range(1, found.certain + 1)}
    assert FITS != ready.predict("decode", found.certain + 1, context).verdict
    assert DOES_NOT_FIT == ready.predict("decode", found.possible + 1, context).verdict


@functools.cache
def thirteen() -> tuple[Predictor, Frontier]:
    """Decode steps of 13 sequences: 30,528 tokens fit an A100 of 80 GB, and some shorter contexts do not."""
    ready = Library.of(ROOT / "results").predictor(BIG, "text", card("a100-80gb"), 424 * 2**20)
    return ready, frontier(ready, "decode", batches=(13,), contexts=())


def test_certain_is_an_end_below_which_nothing_that_is_looked_at_fails() -> None:
    ready, found = thirteen()
    (end,) = found.contexts
    verdicts = {n: ready.predict("decode", 13, n).verdict for n in (28_000, 29_000, 30_000, 30_528)}
    assert [DOES_NOT_FIT, DOES_NOT_FIT, FITS, FITS] == list(verdicts.values())
    assert end.certain < 28_000
    assert {FITS} == {ready.predict("decode", 13, n).verdict for n in sampled(end.certain)}
    assert DOES_NOT_FIT == ready.predict("decode", 13, end.certain + 1).verdict


def test_possible_is_an_end_beyond_what_fails() -> None:
    ready, found = thirteen()
    (end,) = found.contexts
    assert end.possible > 30_528
    last, beyond = (ready.predict("decode", 13, n).verdict for n in (end.possible, end.possible + 1))
    assert (FITS, DOES_NOT_FIT) == (last, beyond)


def test_card_without_end_holds_all_that_the_model_goes_to() -> None:
    ready = predictor(ROOT / "results", gpu="h200")
    (found,) = frontier(ready, "decode", batches=(1,), contexts=()).contexts
    assert (262_144, 262_144, "≥ 262,144") == (found.certain, found.possible, found.text)


def test_where_only_requests_are_known_nothing_is_certain(tmp_path: Path) -> None:
    found = frontier(predictor(tmp_path), "decode", batches=(1,), contexts=())
    assert (0, 262_144, ("replayed",)) == (found.contexts[0].certain, found.contexts[0].possible, found.words)


def test_card_too_small_for_the_weights_holds_nothing() -> None:
    found = frontier(predictor(ROOT / "results", gpu="rtx-4090"), "decode", batches=(1,), contexts=(4096,))
    assert (0, 0) == (found.contexts[0].possible, found.batches[0].possible)
