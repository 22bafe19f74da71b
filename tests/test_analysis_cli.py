"""The commands: exit codes, what they print, and that bad input leaves no trace."""

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.invoked import Result, invoke
from tests.synthetic import (
    CONFIG,
    CONFIGURATION,
    ENVIRONMENT,
    SHAPES,
    campaign,
    on_card,
    reshaped,
    revalued,
    workload,
    workloads,
    write,
)
from vram_ledger.analysis.calibrating.calibration import CalibrationError, read_calibration
from vram_ledger.analysis.evidence.tables import markdown, print_verdicts
from vram_ledger.analysis.formula.terms import predict
from vram_ledger.analysis.judging.drift import judge
from vram_ledger.harness.lines import SCHEMA
from vram_ledger.harness.records import Measurement, OutOfMemory, ResultsFile

ROOT = Path(__file__).parents[1]
NAME = "qwen3.5-27b"


def run(*arguments: object) -> Result:
    return invoke(*arguments)


def last_line(result: Result) -> str:
    return result.stdout.splitlines()[-1]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write(campaign(), tmp_path / f"{NAME}.jsonl")


@pytest.fixture
def calibration(results: Path) -> Path:
    assert run("calibrate", results).exit_code == 0
    return results.with_name(f"{NAME}.calibration.json")


def test_an_unchanged_campaign_exits_with_0(results: Path) -> None:
    result = run("judge", results)
    assert (0, "exit 0: in agreement") == (result.exit_code, last_line(result))


def test_drift_exits_with_1_and_its_cause_is_the_last_line(tmp_path: Path) -> None:
    result = run("judge", write(campaign(reshaped(kv_heads=2)), tmp_path / "drifted.jsonl"))
    assert (1, "exit 1: drift — weights, kv_cache, held (2 KV heads instead of 4)") == (
        result.exit_code,
        last_line(result),
    )


def test_a_fake_result_says_so_in_its_first_line(results: Path) -> None:
    assert "FAKE DEVICE — replayed, not measured" == run("judge", results).stdout.splitlines()[0]


def test_a_fake_result_says_so_in_the_title_of_its_table(results: Path) -> None:
    assert 2 == run("judge", results).stdout.count("FAKE DEVICE — replayed, not measured")


def test_a_measured_result_is_not_called_fake(tmp_path: Path) -> None:
    result = run("judge", write(on_card(campaign()), tmp_path / "card.jsonl"))
    assert (0, False) == (result.exit_code, "FAKE" in result.stdout)


def test_an_unfinished_last_line_is_left_out(results: Path) -> None:
    with results.open("a") as file:
        file.write('{"kind":"measurement","work')
    assert 0 == run("judge", results).exit_code


def test_a_calibration_is_written_and_judged_against(calibration: Path, results: Path) -> None:
    assert f"calibration {calibration.name} {ENVIRONMENT.fingerprint()}" in run("judge", results).stdout


def test_a_calibration_is_the_same_bytes_every_time(calibration: Path, results: Path) -> None:
    first = calibration.read_bytes()
    run("calibrate", results)
    assert first == calibration.read_bytes()


def test_a_calibration_leaves_its_tables_and_no_other_file(calibration: Path) -> None:
    tables = [f"{NAME}.calibration.{kind}" for kind in ("csv", "json", "md")]
    assert [*tables, f"{NAME}.jsonl"] == sorted(p.name for p in calibration.parent.iterdir())


def test_a_calibration_has_sorted_keys_and_ends_its_last_line(calibration: Path) -> None:
    text = calibration.read_text()
    assert json.dumps(json.loads(text), sort_keys=True, indent=1, ensure_ascii=False) + "\n" == text


def test_a_calibration_names_its_results_file_without_folders(calibration: Path) -> None:
    assert f"{NAME}.jsonl" == read_calibration(calibration).results_file


def test_a_red_campaign_is_refused_a_calibration(tmp_path: Path) -> None:
    result = run("calibrate", write(campaign(revalued(kv_cache=0.5)), tmp_path / "drifted.jsonl"))
    assert (1, ["drifted.jsonl"], True) == (
        result.exit_code,
        [p.name for p in tmp_path.iterdir()],
        "its own drift check is red: exit 1: drift — kv_cache, held (KV cache in 8 bits)" in result.stderr,
    )


def test_no_calibration_is_written_if_one_of_the_files_is_bad(results: Path) -> None:
    assert (2, False) == (
        run("calibrate", results, results.with_name("absent.jsonl")).exit_code,
        results.with_name(f"{NAME}.calibration.json").exists(),
    )


def test_two_environments_are_not_written_to_one_calibration(results: Path) -> None:
    other = write(campaign(environment=dataclasses.replace(ENVIRONMENT, torch="2.13.0")), results.with_name("b.jsonl"))
    result = run("calibrate", results, other)
    assert (2, True) == (result.exit_code, "would be written from two results files" in result.stderr)


def check_refused(result: Result, code: int, *parts: str) -> None:
    """The exit code, one line on stderr that starts as documented and has these parts, and nothing else printed."""
    assert (code, "", 1) == (result.exit_code, result.stdout, result.stderr.count("\n"))
    assert (f"exit {code}: ", []) == (result.stderr[:8], [part for part in parts if part not in result.stderr])


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    check_refused(run("judge", tmp_path / "absent.jsonl"), 2, "absent.jsonl: no such results file")


def test_a_folder_is_bad_input(tmp_path: Path) -> None:
    check_refused(run("judge", tmp_path), 2, str(tmp_path))


def test_a_file_that_is_not_text_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\n")
    check_refused(run("judge", tmp_path / "x.jsonl"), 2, "not UTF-8")


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda text: text.replace(f'"schema":{SCHEMA}', '"schema":99'), ":1: schema 99"),
        (lambda text: text.replace('"repeat":0', '"repeat":"no"', 1), ":2.repeat: expected int"),
        (lambda text: "hello\n" + text, ":1: not JSON"),
        (lambda text: "", "first line is not an environment"),
        (lambda text: text.partition("\n")[0] + "\n", "no measurements yet"),
        (lambda text: text + text.partition("\n")[0] + "\n", "a second environment"),
        (lambda text: text.replace(NAME, "../../etc/passwd"), "is not the name of a model"),
        (lambda text: text.replace(NAME, "qwen9"), "qwen9.json: No such file"),
        (lambda text: text.replace(NAME, "qwen3.5-9b", 1), "configuration.model is qwen3.5-9b and qwen3.5-27b"),
        (lambda text: text.replace("bfloat16", "fp3"), "dtype 'fp3' is not one of"),
    ],
)
def test_a_results_file_that_is_not_as_written_is_bad_input(
    results: Path, edit: Callable[[str], str], part: str
) -> None:
    results.write_text(edit(results.read_text()))
    check_refused(run("judge", results), 2, part)


def test_a_malformed_config_is_bad_input(results: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{\n}}")
    check_refused(run("judge", results, "--config", tmp_path / "c.json"), 2, "c.json:2: not JSON")


def test_a_config_with_fields_missing_names_them(results: Path, tmp_path: Path) -> None:
    data = json.loads(CONFIG.read_text())
    del data["text_config"]["head_dim"], data["vision_config"]["depth"]
    (tmp_path / "c.json").write_text(json.dumps(data))
    check_refused(
        run("judge", results, "--config", tmp_path / "c.json"),
        2,
        "missing text_config.head_dim; ",
        "vision_config.depth",
    )


def test_a_config_that_changed_since_the_measurement_is_another_environment(tmp_path: Path) -> None:
    other = dataclasses.replace(ENVIRONMENT, config_sha256="f" * 64)
    check_refused(
        run("judge", write(campaign(environment=other), tmp_path / "x.jsonl")),
        3,
        "qwen3.5-27b.json is not the config that was measured: sha256 ",
        "measured ffffffffffff",
    )


def test_a_given_config_may_differ_and_the_drift_is_named(results: Path, tmp_path: Path) -> None:
    data = json.loads(CONFIG.read_text())
    data["text_config"]["num_key_value_heads"] = 2
    (tmp_path / "two.json").write_text(json.dumps(data))
    result = run("judge", results, "--config", tmp_path / "two.json")
    assert (1, "exit 1: drift — weights, kv_cache, held (4 KV heads instead of 2)", True) == (
        result.exit_code,
        last_line(result),
        "note: " in result.stdout,
    )


@pytest.mark.parametrize(
    "other", [on_card(campaign()), campaign(environment=dataclasses.replace(ENVIRONMENT, gpu_label="fake-a100-80gb"))]
)
def test_a_calibration_of_another_card_is_another_environment(
    calibration: Path, tmp_path: Path, other: ResultsFile
) -> None:
    card = write(other, tmp_path / "card.jsonl")
    check_refused(
        run("judge", card), 3, "qwen3.5-27b.calibration.json is for fake fake-h100, but the measurement is of"
    )


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda text: text[:100], "not JSON"),
        (lambda text: "[]", "calibration schema None"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "calibration schema 2"),
        (lambda text: text.replace('"fingerprint"', '"fingerprints"'), "missing field fingerprint"),
        (lambda text: text.replace('"torch": "2.11.0"', '"torch": "2.12.0"'), "was the file edited?"),
        (lambda text: text.replace('"value": 202016', '"value": "many"'), "value: expected float"),
    ],
)
def test_a_calibration_that_is_not_as_written_is_bad_input(
    calibration: Path, results: Path, edit: Callable[[str], str], part: str
) -> None:
    calibration.write_text(edit(calibration.read_text()))
    check_refused(run("judge", results), 2, calibration.name, part)


def test_a_calibration_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b"\xff")
    with pytest.raises(CalibrationError, match=r"c\.json: not a text file"):
        read_calibration(tmp_path / "c.json")


def test_a_given_calibration_that_is_not_there_is_bad_input(results: Path) -> None:
    check_refused(run("judge", results, "--calibration", "absent.json"), 2, "absent.json: No such file")


def test_an_out_of_memory_line_is_listed(tmp_path: Path) -> None:
    outcome = OutOfMemory(during="warm", asked_bytes=2**30, free_bytes=5, requested_bytes=None)
    full = Measurement(workload=workload("prefill", 64, 262_144), repeat=0, outcome=outcome)
    more = dataclasses.replace(campaign(), measurements=(*campaign().measurements, full))
    assert (
        "out of memory: prefill B=64, L=262,144, during warm: asked for 1,073,741,824 B with 5 B free"
        in run("judge", write(more, tmp_path / "x.jsonl")).stdout
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_of_a_table_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    written = io.StringIO()
    print_verdicts(Console(width=width, file=written), ENVIRONMENT, judge(campaign(), SHAPES), [])
    lines = written.getvalue().splitlines()
    assert (True, 2) == (
        all(len(line) <= width for line in lines[2:]),
        next(line for line in lines if "weights" in line).count("53,791,996,928"),
    )


def test_regimes_that_differ_only_in_the_line_are_told_apart(tmp_path: Path) -> None:
    text = write(campaign(), tmp_path / "x.jsonl").read_text().splitlines(keepends=True)
    text[1:6] = [line.replace("chunk.py:88", "chunk.py:99") for line in text[1:6]]
    (tmp_path / "x.jsonl").write_text("".join(text))
    stdout = run("judge", tmp_path / "x.jsonl").stdout
    assert (True, True) == ("empty_like @88" in stdout, "empty_like @99" in stdout)


def test_markdown_has_a_row_for_each_verdict_of_each_configuration() -> None:
    static = dataclasses.replace(CONFIGURATION, cache="static")
    verdicts = judge(campaign(points=[*workloads(), *workloads(static)]), SHAPES)
    rows = [line for line in markdown(ENVIRONMENT, verdicts).splitlines() if line.startswith("| ")]
    assert len(verdicts) + 2 * 2 == len(rows)


def test_markdown_of_a_fake_result_says_so_first() -> None:
    text = markdown(ENVIRONMENT, judge(campaign(points=[workload("prefill", 1, 512)]), SHAPES))
    assert "**FAKE DEVICE — replayed, not measured**" == text.splitlines()[0]


def test_a_model_without_linear_layers_is_judged(tmp_path: Path) -> None:
    data = json.loads(CONFIG.read_text())["text_config"]
    data = {k: v for k, v in data.items() if not k.startswith("linear_")}
    data["layer_types"] = ["full_attention"] * 64
    (tmp_path / "full.json").write_text(json.dumps(data))
    plain = dataclasses.replace(SHAPES, n_full=64, n_linear=0, vision=None)
    result = run(
        "judge",
        write(campaign(lambda w: predict(plain, w)), tmp_path / "x.jsonl"),
        "--config",
        tmp_path / "full.json",
    )
    assert "exit 0: in agreement" == last_line(result)


def test_judging_imports_neither_torch_nor_what_is_slow_to_import(results: Path) -> None:
    program = (
        "import sys; from tests.invoked import invoke; "
        f"assert invoke('judge', {str(results)!r}).exit_code == 0; "
        "print([m for m in ('torch', 'transformers', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
