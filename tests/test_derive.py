"""The derived formula is the replay, to the byte, and what can't be derived is refused."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.replayed import Answers, small, small_config
from vram_ledger.analysis.derivation.derive import UNSOLVED, derive, without
from vram_ledger.analysis.derivation.derived import Derived, OtherProgram, OutsideDomain
from vram_ledger.analysis.derivation.derived_files import derived_path, phases_of, read_derived, to_json, write_derived
from vram_ledger.analysis.derivation.groups import CONVOLUTION, INPUTS, KV_CACHE, LOGITS, OTHER, RECURRENT, WEIGHTS
from vram_ledger.analysis.derivation.ledger import by_group, closes, ledger_markdown
from vram_ledger.analysis.derivation.moves import moves_text
from vram_ledger.analysis.derivation.pieces import NotDerived
from vram_ledger.analysis.derivation.replays import NotReplayed
from vram_ledger.analysis.derivation.verify import random_shapes
from vram_ledger.harness.events import Allocation, EventLog, live_bytes, peak_event
from vram_ledger.harness.records import Environment, Kernels, Phase, Workload

Formulas = Callable[[str, Phase], Derived]
# Variant, shapes and the longest context replayed; a chunked prefill calls the model for each chunk of its context.
CASES = [("text", 200, 262_144), ("text-static", 20, 262_144), ("text-logits", 20, 262_144), ("text-chunk64", 20, 150)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    made = Answers(small_config(tmp_path_factory.mktemp("model")))
    yield made
    made.replays.close()


@pytest.fixture(scope="module")
def formula(answers: Answers) -> Formulas:
    known: dict[tuple[str, Phase], Derived] = {}

    def get(variant: str, phase: Phase) -> Derived:
        if (variant, phase) not in known:
            known[variant, phase] = derive(answers, small(variant), phase)
        return known[variant, phase]

    return get


def differences(formula: Derived, answers: Answers, shapes: int, most_context: int) -> set[tuple[int, int]]:
    found = set()
    least_context = formula.configuration.prefill_chunk_tokens + 1  # a context of one chunk is not chunked
    for shape in random_shapes(shapes, 64, most_context, 7, least_context):
        b, c = shape.batch, shape.context_tokens
        log = answers.log(Workload(configuration=formula.configuration, phase=formula.phase, context_tokens=c, batch=b))
        end = log.marks["end"]
        peak, held = peak_event(log, log.marks["start"], end)[1], live_bytes(log)[end - 1]
        found.add((formula.peak_bytes(b, c) - peak, formula.held_bytes(b, c) - held))
    return found


@pytest.mark.parametrize(
    ("variant", "phase", "shapes", "most"), [(v, p, n, m) for v, n, m in CASES for p in phases_of(small(v))]
)
def test_no_byte_is_between_the_formula_and_a_replay_of_any_shape(
    formula: Formulas, answers: Answers, variant: str, phase: Phase, shapes: int, most: int
) -> None:
    assert {(0, 0)} == differences(formula(variant, phase), answers, shapes, most)


def test_most_of_the_shapes_replayed_are_no_multiple_of_a_chunk() -> None:
    assert sum(s.context_tokens % 64 > 0 for s in random_shapes(200, 64, 262_144, seed=7)) > 190


@pytest.mark.parametrize(("variant", "phase"), [(v, p) for v, _, _ in CASES for p in phases_of(small(v))])
def test_ledger_of_every_piece_is_closed_and_has_no_byte_without_a_group(
    formula: Formulas, variant: str, phase: Phase
) -> None:
    derived = formula(variant, phase)
    pieces = [p for r in derived.regimes for p in (*r.peak, *([r.held] if r.held else []))]
    assert all(closes(derived, p) and OTHER not in by_group(derived, p) for p in pieces)


@pytest.mark.parametrize(("variant", "phase"), [(v, p) for v, _, _ in CASES for p in phases_of(small(v))])
def test_nothing_but_weights_cache_inputs_and_outputs_is_held(formula: Formulas, variant: str, phase: Phase) -> None:
    derived = formula(variant, phase)
    groups = {g for r in derived.regimes if r.held for g in by_group(derived, r.held)}
    assert {WEIGHTS, INPUTS, KV_CACHE, RECURRENT, CONVOLUTION, LOGITS} == groups


def test_ledger_adds_up_at_a_shape_as_a_reader_adds_it_up(formula: Formulas) -> None:
    derived = formula("text", "prefill")
    regime, piece = derived.leading(3, 1001)
    rows = [line.split("|") for line in ledger_markdown(derived, regime, piece, 3, 1001) if line.startswith("| **")]
    values = [int(row[-2].strip(" *").replace(",", "")) for row in rows]
    assert derived.peak_bytes(3, 1001) == values[-1] == sum(values[:-1])


@pytest.mark.parametrize(("batch", "context"), [(1025, 100), (1, 1_048_577), (0, 100), (1, 0)])
def test_shape_outside_the_domain_is_refused(formula: Formulas, batch: int, context: int) -> None:
    with pytest.raises(OutsideDomain, match=f"B={batch:,}, L={context:,} is outside its domain"):
        formula("text", "prefill").peak_bytes(batch, context)


def test_another_library_version_is_refused(formula: Formulas, answers: Answers) -> None:
    derived = formula("text", "prefill")
    workload = Workload(configuration=small("text"), phase="prefill", context_tokens=10, batch=1)
    later = dataclasses.replace(answers.environment, transformers="9.9.9")
    with pytest.raises(OtherProgram, match=r"transformers is '9\.9\.9', the formula's is "):
        derived.check(workload, later, None)


def test_another_configuration_is_refused(formula: Formulas, answers: Answers) -> None:
    workload = Workload(configuration=small("text-static"), phase="prefill", context_tokens=10, batch=1)
    with pytest.raises(OtherProgram, match="cache is 'static', the formula's is 'dynamic'"):
        formula("text", "prefill").check(workload, answers.environment, None)


@dataclasses.dataclass
class Altered:
    """Replays of which the log of one shape is altered."""

    answers: Answers
    change: Callable[[EventLog], EventLog]

    @property
    def environment(self) -> Environment:
        return self.answers.environment

    def kernels(self, workload: Workload) -> Kernels:
        return self.answers.kernels(workload)

    def log(self, workload: Workload) -> EventLog:
        log = self.answers.log(workload)
        return self.change(log) if (workload.batch, workload.context_tokens) == (1024, 1_048_576) else log


def renamed(log: EventLog) -> EventLog:
    last = dataclasses.replace(log.allocations[-1], op="another_op")
    return dataclasses.replace(log, allocations=(*log.allocations[:-1], last))


def one_byte_more(log: EventLog) -> EventLog:
    last = dataclasses.replace(log.allocations[-1], bytes=log.allocations[-1].bytes + 1)
    return dataclasses.replace(log, allocations=(*log.allocations[:-1], last))


def test_logs_whose_sequences_do_not_agree_are_refused_with_the_shape(answers: Answers) -> None:
    with pytest.raises(NotDerived, match=r"the sequence of events at B=1024, L=1,048,576 is not that at B=2, L=1"):
        derive(Altered(answers, renamed), small("text"), "decode")


def test_one_byte_that_no_form_has_is_refused(answers: Answers) -> None:
    with pytest.raises(NotDerived, match="no whole combination of 1, B, L, B·L"):
        derive(Altered(answers, one_byte_more), small("text"), "decode")


def test_torch_reference_is_declared_replay_only(answers: Answers) -> None:
    with pytest.raises(NotDerived, match="replay only"):
        derive(answers, small("text-reference"), "prefill")


def test_static_cache_with_a_chunked_prefill_is_refused_with_the_reason(answers: Answers) -> None:
    with pytest.raises(NotReplayed, match="reads the cache's length off the device"):
        derive(answers, small("text-static-chunk64"), "prefill")


def test_stored_formula_is_read_back_as_it_was(formula: Formulas, tmp_path: Path) -> None:
    derived = formula("text", "prefill")
    path = derived_path(tmp_path, derived)
    write_derived(derived, path)
    assert to_json(derived) == to_json(read_derived(path))


def test_a_planted_copy_is_named_with_its_source_line(formula: Formulas, answers: Answers, tmp_path: Path) -> None:
    source = "tests/workers/extra_copy.py"
    text = (ROOT / source).read_text(encoding="utf-8").splitlines()
    line = next(number for number, row in enumerate(text, start=1) if "the planted line" in row)
    planted = Answers(small_config(tmp_path), "tests.workers.extra_copy")
    try:
        changed = derive(planted, small("text"), "prefill")
    finally:
        planted.replays.close()
    came = [row for row in moves_text(formula("text", "prefill"), changed) if "came:" in row]
    assert any("1 × clone (B, L, 64) bfloat16, 128·B·L" in row and f"{source}:{line}" in row for row in came)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_no_byte_is_between_the_formula_and_a_replay_of_the_default_class(answers: Answers, phase: Phase) -> None:
    assert {(0, 0)} == differences(derive(answers, small("default"), phase), answers, 20, 262_144)


def test_accumulators_of_flash_attention_s_splits_are_left_out_of_a_formula() -> None:
    fields = {"shape": (1,), "dtype": "uint8", "module": "", "source": ""}
    kept = Allocation(born=0, died=3, bytes=8, op="mm", **fields)  # type: ignore[arg-type]
    split = Allocation(born=1, died=2, bytes=99, op=UNSOLVED, **fields)  # type: ignore[arg-type]
    log = EventLog(allocations=(kept, split), events=4, marks={"start": 0, "end": 4})
    without_it = EventLog(allocations=(dataclasses.replace(kept, died=1),), events=2, marks={"start": 0, "end": 2})
    assert without_it == without(log, UNSOLVED)
