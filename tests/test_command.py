"""An estimator that is another program: what it may answer, how it may fail, and that it is gone afterwards."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.refereed import FIRST_REQUEST, campaign, run
from vram_ledger.analysis.estimating.breakdown import EstimatorError, checked
from vram_ledger.analysis.estimating.command import running
from vram_ledger.analysis.refereeing.referee import score_all

GOOD = {"predicts": "allocated", "weights_bytes": 54_000_000_000, "total_bytes": 55_000_000_000}


def python(program: str) -> str:
    return shlex.join([sys.executable, "-c", program])


def answering(text: str) -> str:
    """A command that answers every request with the same line."""
    return python(f"import sys\nfor line in sys.stdin: print({text!r}, flush=True)")


def without(name: str) -> str:
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


BAD = {
    "not JSON (": answering("ready"),
    "expected an object": answering("[1, 2]"),
    "missing total_bytes": answering(without("total_bytes")),
    "missing weights_bytes": answering(without("weights_bytes")),
    "missing predicts": answering(without("predicts")),
    "unknown kv_bytes": answering(json.dumps(GOOD | {"kv_bytes": 1})),
    "predicts 'vram' is not one of": answering(json.dumps(GOOD | {"predicts": "vram"})),
    "total_bytes must be 0 bytes or more, got nan": answering(json.dumps(GOOD | {"total_bytes": float("nan")})),
    "total_bytes must be 0 bytes or more, got inf": answering(json.dumps(GOOD | {"total_bytes": float("inf")})),
    "kv_cache_bytes must be 0 bytes or more, got -1": answering(json.dumps(GOOD | {"kv_cache_bytes": -1})),
    "kv_cache_bytes must be a number of bytes, got '1'": answering(json.dumps(GOOD | {"kv_cache_bytes": "1"})),
    "kv_cache_bytes must be a number of bytes, got True": answering(json.dumps(GOOD | {"kv_cache_bytes": True})),
    "the terms add up to": answering(json.dumps(GOOD | {"kv_cache_bytes": 2_000_000_000})),
    "give the whole or the two": answering(json.dumps(GOOD | {"state_bytes": 1, "conv_state_bytes": 1})),
    "it looks like GB: multiply by 1,000,000,000": answering(json.dumps(GOOD | {"weights_bytes": 54})),
    "divide by 1,000,000,000": answering(json.dumps(GOOD | {"total_bytes": 55 * 10**18})),
    "exited with 3 without an answer; its last words: out of ideas": python(
        "import sys; print('out of ideas', file=sys.stderr); sys.exit(3)"
    ),
    "was killed by signal 9": python("import os; os.kill(os.getpid(), 9)"),
    "no answer within 0.5 s": python("import time; time.sleep(60)"),
    "closed its stdout": python("import os, time; os.close(1); time.sleep(60)"),
    "not UTF-8": python("import sys; sys.stdout.buffer.write(bytes([255, 10])); sys.stdout.flush(); input()"),
    "and no end of the line": python("print('x' * 2_000_000, end='', flush=True); input()"),
}  # fmt: skip


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_answer_is_an_error_that_names_the_request(complaint: str) -> None:
    result = run(BAD[complaint], "--deadline-s", 0.5 if "within" in complaint or "stdout" in complaint else 20)
    assert (2, True, True) == (result.exit_code, FIRST_REQUEST in result.stderr, complaint in result.stderr), (
        result.stderr
    )


def test_a_second_line_for_one_request_is_not_taken_for_the_next_answer() -> None:
    line = json.dumps(GOOD)
    result = run(
        python(f"import sys\nfor _ in sys.stdin: sys.stdout.write({(line + chr(10)) * 2!r}); sys.stdout.flush()")
    )
    assert (2, True) == (result.exit_code, "before it was asked, the command wrote" in result.stderr)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fitmygpuu", "is no estimator; near: fitmygpu"),
        ("", "is no estimator"),
        ("'unbalanced", "not a command for a shell"),
        ("./no-such-program --now", "./no-such-program: can't be started (No such file or directory)"),
        ("no-such.py:estimate", "there is no file no-such.py"),
        ("no-such.csv", "no-such.csv: No such file or directory"),
    ],
)
def test_what_is_no_estimator_is_said_so(text: str, complaint: str) -> None:
    result = run(text)
    assert (2, True) == (result.exit_code, complaint in result.stderr), result.stderr


def ended(pid: int) -> bool:
    """Whether nobody is left of a process group; a killed child of a killed child is reaped by init in a moment."""
    for _ in range(100):
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_hanging_command_and_its_children_are_gone_afterwards() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(EstimatorError), running([sys.executable, "-c", program], 0.3) as command:
        command.estimate(campaign().points[0].request)
    assert ended(command.pid)


def test_a_terminated_validation_takes_its_command_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    ours = subprocess.Popen(
        [sys.executable, "-m", "vram_ledger", "validate", python(program), "--file", str(campaign().results.path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(500):
        if note.exists() and note.read_text():
            break
        time.sleep(0.02)
    ours.send_signal(signal.SIGTERM)
    assert (128 + signal.SIGTERM, True) == (ours.wait(20), ended(int(note.read_text())))


FUNCTION = """
import dataclasses


def estimate(request):
    print("a word for whoever reads along")
    return {"predicts": "allocated", "weights_bytes": 54e9, "total_bytes": 55e9 + request["batch"] + request.batch}


def same(request):
    assert request["shapes"]["n_full"] == request.shapes.n_full and request["phase"] == request.phase
    return {"predicts": "allocated", "weights_bytes": request.checkpoint_bytes, "total_bytes": 60e9}


def broken(request):
    return request.shapes.n_fall


def lacking(request):
    return request["shape"]


def decode_only(request):
    return None if request.phase == "prefill" else estimate(request)


def nothing(request):
    return None
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTION, encoding="utf-8")
    return path


def test_a_python_function_gets_the_request_as_a_dict_and_by_attribute(functions: Path) -> None:
    found = score_all(f"{functions}:estimate", [campaign()]).scored[0]
    assert {55_000_000_000 + 2 * e.request.batch for e in found.totals} == {e.predicted_bytes for e in found.totals}


def test_a_python_function_gets_what_a_command_gets(functions: Path) -> None:
    found = score_all(f"{functions}:same", [campaign()]).scored[0]
    assert {55_562_872_800} == {e.predicted_bytes for e in found.errors if e.term == "weights"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("broken", "no 'n_fall' here; near: n_full"), ("lacking", "no 'shape' here; near: shapes")],
)
def test_a_python_function_that_raises_is_a_clear_error_that_calls_it_so(functions: Path, name: str, said: str) -> None:
    result = run(f"{functions}:{name}")
    assert (2, True) == (result.exit_code, FIRST_REQUEST in result.stderr)
    assert f"the function {name} of {functions} exited with 1" in result.stderr
    assert said in result.stderr


def test_points_that_are_declined_are_counted_and_the_rest_is_scored(functions: Path) -> None:
    result = run(f"{functions}:decode_only")
    assert 0 == result.exit_code
    assert "It declined 28 of 60 points, and is held against the rest." in result.stdout


def test_an_estimator_that_declines_everything_is_no_success(functions: Path) -> None:
    result = run(f"{functions}:nothing")
    assert (2, True) == (result.exit_code, "declined all 60 points of qwen3.5-27b" in result.stderr)


@pytest.mark.parametrize(
    "name", ["my calc.py", "it's.py", 'q"q.py', "новый.py", "a\nb.py", "a;b.py", "$(x).py", "*.py"]
)
def test_a_path_that_is_there_is_that_path_however_it_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FUNCTION, encoding="utf-8")
    assert 0 == run(f"{tmp_path / name}:estimate").exit_code


def test_a_program_whose_name_has_a_space_is_run(tmp_path: Path) -> None:
    path = tmp_path / "my calculator"
    answer = f"import sys\nfor _ in sys.stdin: print({json.dumps(GOOD)!r}, flush=True)\n"
    path.write_text(f"#!{sys.executable}\n{answer}", encoding="utf-8")
    path.chmod(0o755)
    assert 0 == run(path).exit_code


def test_a_flood_on_stderr_is_ended_and_its_last_words_are_kept() -> None:
    began = time.monotonic()
    result = run(python("import sys\nwhile True: sys.stderr.write('y' * 79 + chr(10))"))
    assert (2, True) == (result.exit_code, "wrote more than 67,108,864 B to stderr" in result.stderr)
    assert len(result.stderr) < 2000
    assert time.monotonic() - began < 25


def test_a_child_in_a_session_of_its_own_does_not_outlive_the_validation(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)'], start_new_session=True)\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        f"for _ in sys.stdin: print({json.dumps(GOOD)!r}, flush=True)"
    )
    assert 0 == run(python(program)).exit_code
    assert ended(int(note.read_text()))


def test_a_command_that_ends_while_a_child_holds_its_stdout_is_noticed_at_once() -> None:
    program = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])\n"
        f"input(); print({json.dumps(GOOD)!r}, flush=True)"
    )
    began = time.monotonic()
    result = run(python(program))
    assert (2, True) == (result.exit_code, "the command exited with 0 without an answer" in result.stderr)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
        '{"total_bytes": ' + "9" * 10_000 + "}",
        "NaN",
        '"x"',
        "{",
        "\x00",
    ],
    ids=["nested lists", "nested objects", "digits", "NaN", "string", "cut", "NUL"],
)
def test_an_answer_that_is_none_is_bad_input_in_one_line(answer: str, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(answer + "\n", encoding="utf-8")
    answer_file = str(tmp_path / "answer")
    program = f"import sys\nfor _ in sys.stdin: sys.stdout.write(open({answer_file!r}).read()); sys.stdout.flush()"
    result = run(python(program))
    assert (2, 1) == (result.exit_code, result.stderr.count("\n"))
    assert len(result.stderr) < 1000


def test_a_python_file_without_the_function_is_a_clear_error(functions: Path) -> None:
    assert "has no function other" in run(f"{functions}:other").stderr


def test_an_answer_may_have_fractions_of_a_byte() -> None:
    assert 2 == checked(GOOD | {"weights_bytes": 1.6}, "x").weights_bytes
