"""The derived formula is the replay, to the byte, and what can't be derived is refused."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.replayed import HEADS, Answers, small, small_config
from vram_ledger.analysis.allocation.rules import Usage
from vram_ledger.analysis.derivation.derive import check_derivable, derive, without
from vram_ledger.analysis.derivation.derived import OtherProgram, OutsideDomain, Regime
from vram_ledger.analysis.derivation.derived_files import derived_path, phases_of, read_derived, to_json, write_derived
from vram_ledger.analysis.derivation.forms import Call, Shape, random_shapes
from vram_ledger.analysis.derivation.groups import CONVOLUTION, INPUTS, KV_CACHE, LOGITS, OTHER, RECURRENT, WEIGHTS
from vram_ledger.analysis.derivation.ledger import by_group, ledger_markdown
from vram_ledger.analysis.derivation.moves import moves_text
from vram_ledger.analysis.derivation.pieces import Piece, held_piece, leading_piece, peak_pieces, piece_bytes
from vram_ledger.analysis.derivation.program import Device, Program, Ran
from vram_ledger.analysis.derivation.solved import NotDerived
from vram_ledger.harness.events import Allocation, EventLog, live_bytes, peak_event
from vram_ledger.harness.records import Environment, Kernels, Phase, Workload
from vram_ledger.harness.splits import UNSOLVED

Formulas = Callable[[str, Phase], Program]
CASES = [("text", 100), ("text-static", 20), ("text-logits", 20)]  # variant, and shapes that are run
MULTIPROCESSORS = 108


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    made = Answers(small_config(tmp_path_factory.mktemp("model")))
    yield made
    made.replays.close()


@pytest.fixture(scope="module")
def formula(answers: Answers) -> Formulas:
    known: dict[tuple[str, Phase], Program] = {}

    def get(variant: str, phase: Phase) -> Program:
        if (variant, phase) not in known:
            known[variant, phase] = Program(derive(answers, small(variant), phase, HEADS))
        return known[variant, phase]

    return get


def differences(program: Program, answers: Answers, shapes: int, chunk: int = 0) -> set[tuple[int, int]]:
    """Of random shapes, requested bytes at the peak and after it less those of a run on the emulated card."""
    found = set()
    most, configuration = (
        (5 * chunk, program.derived.configuration) if chunk else (262_144, program.derived.configuration)
    )
    for shape in random_shapes(shapes, 16, most, 7, chunk + 1):
        workload = Workload(
            configuration=dataclasses.replace(configuration, prefill_chunk_tokens=chunk),
            phase=program.derived.phase,
            context_tokens=shape.context_tokens,
            batch=shape.batch,
        )
        log = answers.log(workload)
        workspace = sum(a.bytes for a in log.allocations if a.op == "workspace")
        peak, held = peak_event(log, log.marks["start"], log.marks["end"])[1], live_bytes(log)[log.marks["end"] - 1]
        requested = program.requested(shape.batch, shape.context_tokens, chunk, MULTIPROCESSORS)
        found.add((requested[0] + workspace - peak, requested[1] + workspace - held))
    return found


@pytest.mark.parametrize(("variant", "phase", "shapes"), [(v, p, n) for v, n in CASES for p in phases_of(small(v))])
def test_no_byte_is_between_the_program_and_a_run_of_any_shape(
    formula: Formulas, answers: Answers, variant: str, phase: Phase, shapes: int
) -> None:
    assert {(0, 0)} == differences(formula(variant, phase), answers, shapes)


@pytest.mark.parametrize("chunk", [8, 64, 136])
def test_no_byte_is_between_the_program_and_a_run_in_chunks_of_any_size(
    formula: Formulas, answers: Answers, chunk: int
) -> None:
    assert {(0, 0)} == differences(formula("text", "prefill"), answers, 20, chunk)


def test_most_of_the_shapes_replayed_are_no_multiple_of_a_chunk() -> None:
    assert sum(s.context_tokens % 64 > 0 for s in random_shapes(200, 64, 262_144, seed=7)) > 190


def pieces_of(program: Program) -> list[Piece]:
    """Every point of which a program has a form: of the peak, and after each kind of call."""
    regimes = program.derived.regimes
    return [p for r in regimes for p in (*peak_pieces(program, r), held_piece(program, r))]


@pytest.mark.parametrize(("variant", "phase"), [(v, p) for v, _ in CASES for p in phases_of(small(v))])
def test_ledger_of_every_piece_has_no_byte_without_a_group(formula: Formulas, variant: str, phase: Phase) -> None:
    assert all(OTHER not in by_group(piece) for piece in pieces_of(formula(variant, phase)))


@pytest.mark.parametrize(("variant", "phase"), [(v, p) for v, _ in CASES for p in phases_of(small(v))])
def test_the_largest_piece_is_the_peak_of_the_steps(formula: Formulas, variant: str, phase: Phase) -> None:
    program = formula(variant, phase)
    for shape in random_shapes(100, 64, 262_144, 11):
        call: Call = "decode" if phase == "decode" else "whole"
        regime = program.course(call, shape).regime
        largest = max(piece_bytes(p, regime, shape) for p in peak_pieces_of(program, regime))
        assert largest == program.peak_bytes(shape.batch, shape.context_tokens)


@functools.cache
def peak_pieces_of(program: Program, regime: Regime) -> tuple[Piece, ...]:
    """Worked out once a regime."""
    return peak_pieces(program, regime)


@pytest.mark.parametrize(("variant", "phase"), [(v, p) for v, _ in CASES for p in phases_of(small(v))])
def test_nothing_but_weights_cache_inputs_and_outputs_is_held(formula: Formulas, variant: str, phase: Phase) -> None:
    program = formula(variant, phase)
    ends = [r for r in program.derived.regimes if r.call in ("whole", "decode")]
    groups = {group for regime in ends for group in by_group(held_piece(program, regime))}
    assert {WEIGHTS, INPUTS, KV_CACHE, RECURRENT, CONVOLUTION, LOGITS} == groups


def test_ledger_adds_up_at_a_shape_as_a_reader_adds_it_up(formula: Formulas) -> None:
    program = formula("text", "prefill")
    piece, shape = leading_piece(program, 3, 1001)
    rows = [line.split("|") for line in ledger_markdown(program, piece, shape) if line.startswith("| **")]
    values = [int(row[-2].strip(" *").replace(",", "")) for row in rows]
    assert program.peak_bytes(3, 1001) == values[-1] == sum(values[:-1])


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_allocated_and_reserved_are_the_card_s_at_any_shape(formula: Formulas, answers: Answers, phase: Phase) -> None:
    program = formula("text", phase)
    device = Device(multiprocessors=MULTIPROCESSORS, workspace_bytes=program.derived.build.sizes[0])
    for shape in random_shapes(30, 16, 65_536, 3):
        ran = program.run(device, shape.batch, shape.context_tokens)
        assert isinstance(ran, Ran)
        assert ran.peak == usage_of(answers, "text", phase, shape)


def usage_of(answers: Answers, variant: str, phase: Phase, shape: Shape) -> Usage:
    """What the emulated card counts at a shape."""
    peak = answers.measured(
        Workload(configuration=small(variant), phase=phase, context_tokens=shape.context_tokens, batch=shape.batch)
    ).warm
    assert peak.allocated_bytes is not None
    assert peak.reserved_bytes is not None
    return Usage(
        requested_bytes=peak.requested_bytes,
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
    )


@pytest.mark.parametrize(("batch", "context"), [(1025, 100), (1, 262_145), (0, 100), (1, 0)])
def test_shape_outside_the_domain_is_refused(formula: Formulas, batch: int, context: int) -> None:
    with pytest.raises(OutsideDomain, match=f"B={batch:,}, L={context:,} is outside its domain"):
        formula("text", "prefill").peak_bytes(batch, context)


def test_another_library_version_is_refused(formula: Formulas, answers: Answers) -> None:
    derived = formula("text", "prefill").derived
    workload = Workload(configuration=small("text"), phase="prefill", context_tokens=10, batch=1)
    later = dataclasses.replace(answers.environment, transformers="9.9.9")
    with pytest.raises(OtherProgram, match=r"transformers is '9\.9\.9', the formula's is "):
        derived.check(workload, later, None)


def test_another_configuration_is_refused(formula: Formulas, answers: Answers) -> None:
    workload = Workload(configuration=small("text-static"), phase="prefill", context_tokens=10, batch=1)
    with pytest.raises(OtherProgram, match="cache is 'static', the formula's is 'dynamic'"):
        formula("text", "prefill").derived.check(workload, answers.environment, None)


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

    def built(self, workload: Workload) -> list[int]:
        return self.answers.built(workload)

    def log(self, workload: Workload) -> EventLog:
        log = self.answers.log(workload)
        return self.change(log) if (workload.batch, workload.context_tokens) == (1, 262_144) else log


def renamed(log: EventLog) -> EventLog:
    last = dataclasses.replace(log.allocations[-1], op="another_op")
    return dataclasses.replace(log, allocations=(*log.allocations[:-1], last))


def one_byte_more(log: EventLog) -> EventLog:
    last = dataclasses.replace(log.allocations[-1], bytes=log.allocations[-1].bytes + 1)
    return dataclasses.replace(log, allocations=(*log.allocations[:-1], last))


def test_logs_whose_sequences_do_not_agree_are_refused_with_the_shape(answers: Answers) -> None:
    with pytest.raises(NotDerived, match=r"the sequence of events at B=1, L=262,144 is not that at B=1, L="):
        derive(Altered(answers, renamed), small("text"), "decode", HEADS)


def test_one_byte_that_no_form_has_is_refused(answers: Answers) -> None:
    with pytest.raises(NotDerived, match="no whole combination of 1, B, L, B·L"):
        derive(Altered(answers, one_byte_more), small("text"), "decode", HEADS)


def test_the_torch_reference_is_derived_with_its_loop_over_chunks(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vram_ledger.analysis.derivation.derive.MOST_LOOPED_TOKENS", 1000)
    program = Program(derive(answers, small("text-reference"), "prefill", HEADS))
    assert any(regime.loops for regime in program.derived.regimes)
    device = Device(multiprocessors=MULTIPROCESSORS, workspace_bytes=program.derived.build.sizes[0])
    for shape in [
        *random_shapes(12, 16, 1000, 3),
        Shape(batch=2, context_tokens=640),
        Shape(batch=1, context_tokens=64),
    ]:
        ran = program.run(device, shape.batch, shape.context_tokens)
        assert isinstance(ran, Ran)
        assert ran.peak == usage_of(answers, "text-reference", "prefill", shape)


def test_a_variant_with_a_chunk_is_that_without() -> None:
    with pytest.raises(NotDerived, match="in chunks of any size: name the variant without chunk"):
        check_derivable(small("text-chunk64"))


def test_stored_formula_is_read_back_as_it_was(formula: Formulas, tmp_path: Path) -> None:
    derived = formula("text", "prefill").derived
    path = derived_path(tmp_path, derived)
    write_derived(derived, path)
    assert to_json(derived) == to_json(read_derived(path))


def test_a_planted_copy_is_named_with_its_source_line(formula: Formulas, answers: Answers, tmp_path: Path) -> None:
    source = "tests/workers/extra_copy.py"
    text = (ROOT / source).read_text(encoding="utf-8").splitlines()
    line = next(number for number, row in enumerate(text, start=1) if "the planted line" in row)
    planted = Answers(small_config(tmp_path), "tests.workers.extra_copy")
    try:
        changed = Program(derive(planted, small("text"), "prefill", HEADS))
    finally:
        planted.replays.close()
    came = [row for row in moves_text(formula("text", "prefill"), changed) if "came:" in row]
    assert any("1 × clone (B, L, 64) bfloat16, 128·B·L" in row and f"{source}:{line}" in row for row in came)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_no_byte_is_between_the_formula_and_a_replay_of_the_default_class(answers: Answers, phase: Phase) -> None:
    assert {(0, 0)} == differences(Program(derive(answers, small("default"), phase, HEADS)), answers, 20)


def test_accumulators_of_flash_attention_s_splits_are_left_out_of_a_formula() -> None:
    fields = {"shape": (1,), "dtype": "uint8", "module": "", "source": ""}
    kept = Allocation(born=0, died=3, bytes=8, op="mm", **fields)  # type: ignore[arg-type]
    split = Allocation(born=1, died=2, bytes=99, op=UNSOLVED, **fields)  # type: ignore[arg-type]
    log = EventLog(allocations=(kept, split), events=4, marks={"start": 0, "end": 4})
    without_it = EventLog(allocations=(dataclasses.replace(kept, died=1),), events=2, marks={"start": 0, "end": 2})
    assert without_it == without(log, [UNSOLVED])
