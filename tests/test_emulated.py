"""An emulated card's results are judged like a card's: by the program's formula, and full is not faulty."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, ROOT
from tests.emulated import GUESS, WORKSPACE_BYTES, changed, emulated, environment, out_of_memory, replay, standard
from tests.invoked import Result, invoke
from tests.synthetic import write
from vram_ledger.analysis.calibrating.calibration import make_calibration, read_calibration
from vram_ledger.analysis.calibrating.claims import claims_markdown, read_campaigns
from vram_ledger.analysis.evidence.verdict import Verdict, exit_code, point, summary
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.judging.campaign import formulas_for
from vram_ledger.analysis.judging.derived import TERM
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.analysis.judging.stored import TOO_FEW
from vram_ledger.harness.records import Measured, ResultsFile, Workload

SHAPES = read_shapes(CONFIGS / "models" / f"{BIG}.json")
Change = Callable[[Workload, Measured], Measured]


def judged(results: ResultsFile) -> tuple[Verdict, ...]:
    return judge(results, SHAPES, derived=formulas_for(results))


def derived_rows(results: ResultsFile) -> list[Verdict]:
    return [v for v in judged(results) if v.term == TERM]


def grown(bytes_of: Callable[[Workload], int], held: bool = False) -> Change:
    """More bytes at the peak, or held after it, at every point."""

    def change(w: Workload, m: Measured) -> Measured:
        if held:
            return dataclasses.replace(m, held_bytes=m.held_bytes + bytes_of(w))
        warm = dataclasses.replace(m.warm, requested_bytes=m.warm.requested_bytes + bytes_of(w))
        return dataclasses.replace(m, warm=warm)

    return change


def run(*arguments: object) -> Result:
    return invoke(*arguments)


def filed(folder: Path, results: ResultsFile, grid: str = "default") -> Path:
    """The results as a file where the harness would put them."""
    path = folder / results.environment.gpu_label / grid / f"{BIG}.{results.environment.device}.abc.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(results, path)


@pytest.mark.parametrize("device", ["emulated", "cuda"])
def test_a_card_meets_the_program_s_formula_beside_its_workspace(device: str) -> None:
    results = emulated(device=device)
    assert AGREE == [(v.decision, v.difference_bytes, v.tolerance_bytes) for v in derived_rows(results)]
    assert (0, "exit 0: in agreement") == (exit_code(judged(results)), summary(judged(results)))


AGREE = [("EQUIVALENT", 0, 0)] * 2


def test_memory_inside_an_op_is_found() -> None:
    def accumulator(w: Workload) -> int:
        return 24_576 * w.batch * 512 if w.phase == "prefill" and w.context_tokens == 8192 else 0

    failing = [v for v in derived_rows(emulated(change=grown(accumulator))) if not v.passes]
    assert [("prefill", "memory that the program does not ask for")] == [(v.regime.phase, v.cause) for v in failing]
    assert [24_576 * 512 * 8] == [v.difference_bytes for v in failing]


def test_one_byte_held_beside_the_program_is_found() -> None:
    rows = derived_rows(emulated(change=grown(lambda w: w.phase == "decode", held=True)))
    assert {("prefill", 0, ""), ("decode", 1, "memory held that the program does not keep")} == {
        (v.regime.phase, v.difference_bytes, v.cause) for v in rows
    }


@pytest.mark.parametrize("change", [{"transformers": "9.9.9"}, {"fla": None}, {"causal_conv1d": "1.6.0"}])
def test_a_card_with_other_code_has_no_formula(change: dict[str, str | None]) -> None:
    own = emulated()
    other = dataclasses.replace(own.environment, **change)  # type: ignore[arg-type]
    assert [] == derived_rows(dataclasses.replace(own, environment=other))


@pytest.mark.parametrize("change", [{"torch": "2.99.0+cu150"}, {"triton": "9.0"}, {"gpu_capability": "12.0"}])
def test_what_decides_only_the_inside_of_an_op_is_held_against_the_formula(change: dict[str, str]) -> None:
    own = emulated()
    other = dataclasses.replace(own.environment, **change)  # type: ignore[arg-type]
    assert AGREE == [
        (v.decision, v.difference_bytes, v.tolerance_bytes)
        for v in derived_rows(dataclasses.replace(own, environment=other))
    ]


def test_a_build_of_the_same_source_is_the_same_program() -> None:
    own = replay()
    cuda_build = dataclasses.replace(own.environment, torch=own.environment.torch.replace("+cpu", "+cu130"))
    assert "+cu130" in cuda_build.torch
    assert 2 == len(derived_rows(dataclasses.replace(own, environment=cuda_build)))


def test_a_replay_of_another_torch_has_no_formula() -> None:
    own = replay()
    other = dataclasses.replace(own.environment, torch="2.99.0+cpu")
    assert [] == derived_rows(dataclasses.replace(own, environment=other))


def test_a_cpu_has_no_formula() -> None:
    own = emulated()
    cpu = dataclasses.replace(own.environment, device="cpu", gpu_label="cpu", gpu_capability=None)
    assert [] == derived_rows(dataclasses.replace(own, environment=cpu))


def test_formulas_of_every_card_are_looked_through() -> None:
    assert ROOT / "results" / "a100-80gb" not in set((ROOT / "results").iterdir())
    assert {"prefill", "decode"} == {f.derived.phase for f in formulas_for(emulated())}


def test_a_full_card_leaves_terms_without_reference_and_passes() -> None:
    own = replay("axes")  # an H200's, whose kernel takes less under the mask of a later chunk
    whole = tuple(m for m in own.measurements if not m.workload.configuration.prefill_chunk_tokens)
    verdicts = judged(emulated(dataclasses.replace(own, measurements=whole)))
    short = [v for v in verdicts if v.cause.startswith(TOO_FEW)]
    assert short
    assert {"NO_REFERENCE"} == {v.decision for v in short}
    assert (0, set()) == (exit_code(verdicts), {v.term for v in verdicts if v.decision == "UNIDENTIFIABLE"})


def test_too_few_points_of_a_grid_that_fitted_are_unidentifiable() -> None:
    own = emulated(total_bytes=10**15)
    few = [m for m in own.measurements if m.workload.phase == "prefill"][:3]
    verdicts = judge(dataclasses.replace(own, measurements=tuple(few)), SHAPES)
    assert ("UNIDENTIFIABLE", 1) == (
        next(v.decision for v in verdicts if v.term == "transient"),
        exit_code(verdicts),
    )


def test_out_of_memory_in_another_phase_excuses_nothing() -> None:
    own = emulated(total_bytes=10**15)
    few = [m for m in own.measurements if m.workload.phase == "prefill"][:3]
    line = next(m for m in own.measurements if m.workload.phase == "decode")
    assert isinstance(line.outcome, Measured)
    lost = dataclasses.replace(line, outcome=out_of_memory(line.outcome))
    verdicts = judge(dataclasses.replace(own, measurements=(*few, lost)), SHAPES)
    assert "UNIDENTIFIABLE" in {v.decision for v in verdicts}


def test_a_full_card_is_calibrated_in_its_sound_terms(tmp_path: Path) -> None:
    file = filed(tmp_path, emulated(replay("axes")), "axes")
    assert 0 == run("calibrate", file).exit_code
    stored = read_calibration(file.with_name(f"{BIG}.calibration.json"))
    assert {"weights", "kv_cache", "workspace", "held", "transient"} <= {t.term for t in stored.terms}
    assert {WORKSPACE_BYTES} == {c.value for t in stored.terms if t.term == "workspace" for c in t.coefficients}


def test_a_model_that_does_not_fit_ends_well_and_has_no_calibration(tmp_path: Path) -> None:
    own = emulated()
    first = own.measurements[0]
    assert isinstance(first.outcome, Measured)
    lost = dataclasses.replace(first, outcome=out_of_memory(first.outcome, "build"))
    file = filed(tmp_path, dataclasses.replace(own, measurements=(lost,)))
    done = run("judge", file)
    assert (0, "exit 0: in agreement; does not fit: build") == (done.exit_code, done.output.splitlines()[-1])
    done = run("calibrate", file)
    assert (0, True) == (done.exit_code, "does not fit: build, so there is no calibration" in done.output)
    assert [] == list(tmp_path.rglob("*.calibration.json"))


def test_claims_say_what_is_missing_and_settle_the_rest(tmp_path: Path) -> None:
    run("calibrate", filed(tmp_path, emulated()))
    text = "\n".join(claims_markdown(read_campaigns(tmp_path / "emulated-a100-80gb")))
    assert "**EMULATED CARD — no kernels, not measured**" in text
    assert f"axes/{BIG}.calibration.json is missing | **not settled**" in text
    assert "154,927,104 B a sequence" in text
    assert "262,144 tokens" not in text


def test_tuning_in_one_process_alone_is_no_drift() -> None:
    own = emulated()
    *others, last = [m for m in own.measurements if m.repeat == 1]
    assert isinstance(last.outcome, Measured)
    assert last.outcome.cold is not None
    buffer = dataclasses.replace(last.outcome.cold, requested_bytes=last.outcome.cold.requested_bytes + 2**28)
    for tuned, decision in ((True, "EQUIVALENT"), (False, "DRIFT")):
        again = changed(last, cold=buffer, tuned=tuned)
        lines = tuple(again if m is last else m for m in own.measurements)
        verdicts = judge(dataclasses.replace(own, measurements=lines), SHAPES)
        assert [decision] == [v.decision for v in verdicts if v.term == "repeatability"]
    assert others


def guessing(results: ResultsFile, numbers: range) -> ResultsFile:
    """A file of which these lines have an invented read, and bytes that no formula gives."""
    lines = [
        changed(m, guessed=(GUESS,), held_bytes=m.outcome.warm.requested_bytes)
        if i in numbers and isinstance(m.outcome, Measured)
        else m
        for i, m in enumerate(results.measurements)
    ]
    return dataclasses.replace(results, measurements=tuple(lines))


def test_points_with_invented_reads_are_counted_and_left_out_of_every_fit() -> None:
    verdicts = judged(guessing(emulated(), range(1, 4)))
    (row,) = [v for v in verdicts if v.term == "invented reads"]
    assert ("NO_REFERENCE", "3 of 49 points", True) == (row.decision, row.fitted, GUESS.source in row.cause)
    assert 46 == next(v.n for v in verdicts if v.term == "weights")
    assert 0 == exit_code(verdicts)


def test_a_file_of_nothing_but_invented_reads_proves_nothing() -> None:
    verdicts = judged(guessing(emulated(), range(10**6)))
    assert ("INCONCLUSIVE", 1) == (
        next(v.decision for v in verdicts if v.term == "invented reads"),
        exit_code(verdicts),
    )


def test_judge_names_the_workload_and_the_line_of_an_invented_read(tmp_path: Path) -> None:
    own = emulated()
    expected = f"invented reads: {own.measurements[1].workload.phase} {point(own.measurements[1].workload)}, left out"
    output = run("judge", filed(tmp_path, guessing(own, range(1, 2)))).output
    assert [True] == [GUESS.source in line for line in output.splitlines() if line.startswith(expected)]


def test_a_file_without_invented_reads_says_nothing_of_them(tmp_path: Path) -> None:
    assert "invented" not in run("judge", filed(tmp_path, emulated())).output


def test_another_emulation_is_the_cause_before_anything_else() -> None:
    own = emulated(change=grown(lambda w: 10**6))
    calibration = make_calibration(emulated(), all_fitted_terms(emulated()), judge(emulated(), SHAPES), "c.json")
    other = dataclasses.replace(own.environment, emulation="ba9876543210", fla="0.6.1")
    moved = dataclasses.replace(own, environment=other, standards=(standard("start", 0),))
    causes = {v.cause for v in judge(moved, SHAPES, calibration=calibration) if v.decision == "DRIFT"}
    assert causes
    assert all("emulation drift" in cause for cause in causes)


def test_what_is_emulated_and_what_is_measured_never_share_a_calibration(tmp_path: Path) -> None:
    calibrated = filed(tmp_path, emulated())
    run("calibrate", calibrated)
    card = filed(tmp_path, emulated(device="cuda"))
    done = run("judge", card, "--calibration", calibrated.with_name(f"{BIG}.calibration.json"))
    assert (3, True) == (done.exit_code, "is for emulated emulated-a100-80gb" in done.output)
    assert "a100-80gb" == environment("cuda").card == environment().card
