"""What a server planned: stored records equal the formulas; its process is started, read and ended in any case."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import ROOT
from tests.invoked import invoke
from vram_ledger.analysis.serving.oracle import (
    Planned,
    Printed,
    as_markdown,
    compared,
    printed,
    read_record,
    read_records,
)
from vram_ledger.commands.oracle import _tell, layout_of
from vram_ledger.errors import Fault, InputError
from vram_ledger.harness.emulation import served
from vram_ledger.harness.emulation.build import Built
from vram_ledger.harness.emulation.profile import Emulation
from vram_ledger.harness.emulation.wheel import NoEmulation
from vram_ledger.harness.models import sha256_of
from vram_ledger.harness.oracle.inside_vllm import at
from vram_ledger.harness.oracle.process import answer_of, why
from vram_ledger.harness.oracle.record import NOT_EMULATED, Start, relevant, store
from vram_ledger.harness.records import RecordError
from vram_ledger.home import MODELS, RESULTS

RECORDS = read_records(RESULTS)
IN_0_20 = [r for r in RECORDS if r.version == "0.20.1"]
GIB = 2**30

# ---- the stored records ----

# "Model loading took" of public logs of cards: 27B text, 27B, 9B and 0.8B with vision (docs/oracle.md).
PUBLISHED = {
    ("qwen3.5-27b", "text"): "50.22",
    ("qwen3.5-27b", "default"): "51.1",
    ("qwen3.5-9b", "default"): "17.66",
    ("qwen3.5-0.8b", "default"): "1.72",
}


def named(planned: Planned) -> str:
    """A record's name in a test's."""
    return planned.path.stem


def test_there_are_records_of_every_published_weight_on_two_cards() -> None:
    assert {(*key, card) for key in PUBLISHED for card in ("a100-80gb", "h100")} <= {
        (r.model, r.variant, r.card) for r in IN_0_20
    }


@pytest.mark.parametrize("planned", RECORDS, ids=named)
def test_record_equals_the_formulas(planned: Planned) -> None:
    found = compared(planned, layout_of(MODELS / f"{planned.model}.json", planned))
    assert [] == [one for one in found if not one.agrees]
    assert len(found) == 6


@pytest.mark.parametrize("planned", [r for r in IN_0_20 if (r.model, r.variant) in PUBLISHED], ids=named)
def test_weights_are_the_figure_that_cards_printed(planned: Planned) -> None:
    assert PUBLISHED[planned.model, planned.variant] == planned.printed.weights_gib


@pytest.mark.parametrize("planned", RECORDS, ids=named)
def test_what_is_printed_is_what_is_counted(planned: Planned) -> None:
    said = planned.printed
    assert float(said.weights_gib or 0) == round(planned.weights_bytes / GIB, 2)
    assert float(said.pool_gib or 0) == round(planned.pool_bytes / GIB, 2)
    assert (said.block_tokens, said.longest_request_tokens) == (planned.block_tokens, planned.longest_request_tokens)


@pytest.mark.parametrize("planned", IN_0_20, ids=named)
def test_pool_is_what_the_rest_leaves_of_what_was_requested(planned: Planned) -> None:
    rest = planned.weights_bytes + planned.activation_bytes + (planned.graphs_estimated_bytes or 0)
    assert planned.pool_bytes == planned.requested_bytes - rest


@pytest.mark.parametrize("planned", RECORDS, ids=named)
def test_stored_record_says_what_it_is_and_of_which_config(planned: Planned) -> None:
    text = planned.path.read_text(encoding="utf-8")
    value = json.loads(text)
    assert ("emulated", NOT_EMULATED) == (value["kind"], value["not_emulated"])
    assert sha256_of(MODELS / f"{planned.model}.json") == value["config_sha256"]
    assert not [place for place in ("/tmp/", "/home/", "site-packages") if place in text]


def test_block_ends_where_a_prefill_can_leave_a_state_to_be_cached() -> None:
    (on_h100,) = [r for r in RECORDS if (r.version, r.card, r.model) == ("0.33.0", "h100", "qwen3.5-27b")]
    assert (832, True) == (on_h100.block_tokens, on_h100.flashinfer_prefill)
    assert {784} == {r.block_tokens for r in RECORDS if r.model == "qwen3.5-27b" and r is not on_h100}


def test_page_shows_the_stored_records() -> None:
    page = (ROOT / "docs" / "oracle.md").read_text(encoding="utf-8")
    assert "\n".join(as_markdown(RECORDS)) in page


# ---- reading ----

LOG = """\
(EngineCore pid=7) INFO 11-25 17:36:41 [gpu_model_runner.py:4879] Model loading took 17.66 GiB memory and 0.31 seconds
INFO 11-25 17:36:41 [interface.py:606] Setting attention block size to 528 tokens to ensure that attention page size
INFO 11-25 17:36:41 [loader.py:1] Loading took long
DEBUG 11-25 17:36:42 [gdn_linear_attn.py:742] GDN prefill kernel warmup (T=64) completed for layer model.layers.0
INFO 11-25 17:36:46 [gpu_worker.py:440] Available KV cache memory: 53.35 GiB
INFO 11-25 17:36:46 [gpu_worker.py:440] Available KV cache memory: 53.35 GiB
INFO 11-25 17:36:46 [kv_cache_utils.py:1708] GPU KV cache size: 1,735,917 tokens
INFO 11-25 17:36:46 [kv_cache_utils.py:1709] Maximum concurrency for 262,144 tokens per request: 6.62x
INFO 11-25 17:38:46 [gpu_model_runner.py:6134] Graph capturing finished in 7 secs, took 1.34 GiB
"""


def test_log_keeps_its_lines_about_the_plan_once_and_without_dates() -> None:
    kept = relevant(LOG)
    assert 6 == len(kept)
    assert "INFO [gpu_model_runner.py:4879] Model loading took 17.66 GiB memory and 0.31 seconds" == kept[0]
    assert "INFO [gpu_worker.py:440] Available KV cache memory: 53.35 GiB" == kept[2]


def test_printed_figures_are_read_as_they_stand() -> None:
    assert printed(LOG.splitlines()) == Printed(
        weights_gib="17.66",
        block_tokens=528,
        pool_gib="53.35",
        cache_tokens=1_735_917,
        longest_request_tokens=262_144,
        concurrency="6.62",
        graphs_gib="1.34",
    )


def test_what_a_log_did_not_print_is_not_there() -> None:
    assert {None} == {getattr(printed([]), name) for name in Printed.__slots__}


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    """The value without the field that the names lead to."""
    first, *rest = names
    changed = {k: v for k, v in value.items() if k != first or rest}
    return changed | {first: without(value[first], *rest)} if rest else changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v | {"schema": 2}, "schema is 2, and 1 is read"),
        (lambda v: without(v, "card"), "field card is missing"),
        (lambda v: without(v, "planned", "blocks"), "field blocks is missing"),
        (lambda v: v | {"planned": v["planned"] | {"pool_bytes": None}}, "pool_bytes must be a whole number, got None"),
        (lambda v: v | {"planned": v["planned"] | {"groups": [{"kind": "x"}]}}, "a field is of another kind"),
        (lambda v: [v], "schema is None"),
    ],
)
def test_record_that_is_none_is_refused_with_its_file_and_field(tmp_path: Path, change: Any, words: str) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(change(json.loads(RECORDS[0].path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(RecordError) as refused:
        read_record(path)
    assert str(refused.value).startswith(str(path))
    assert words in str(refused.value)


def test_release_that_estimates_no_graphs_is_read(tmp_path: Path) -> None:
    value = json.loads(RECORDS[0].path.read_text(encoding="utf-8"))
    value["planned"]["graphs_estimated_bytes"] = None
    path = tmp_path / "one.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_record(path).graphs_estimated_bytes is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("INFO 11-25 [a.py:1] Graph capturing finished", "  Graph capturing finished\n"),
        ("Graph capturing finished", "  Graph capturing finished\n"),
    ],
)
def test_line_of_a_log_is_shown_from_its_words_on(line: str, shown: str) -> None:
    console = Console(record=True, file=io.StringIO())
    _tell(console, line)
    assert shown == console.export_text()


def test_planted_faults_are_differences(tmp_path: Path) -> None:
    value = json.loads(RECORDS[0].path.read_text(encoding="utf-8"))
    planned = value["planned"]
    planned |= {"blocks": planned["blocks"] + 1, "block_tokens": 16, "weights_bytes": planned["weights_bytes"] - 2**27}
    path = tmp_path / "one.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    read = read_record(path)
    found = compared(read, layout_of(MODELS / f"{read.model}.json", read))
    assert ["weights, bytes", "block, tokens", "blocks"] == [one.quantity for one in found if not one.agrees]


# ---- what is asked ----


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--runtime", "sglang"), 2, "RUNTIME is vllm: no other server is started here; got 'sglang'"),
        (("--variant", "vision"), 2, "VARIANT is text (without the vision tower) or default; got 'vision'"),
        (("--utilization", "90"), 2, "UTILIZATION is the share of the card that the server may take, such as 0.9"),
        (("--utilization", "1e-9"), 2, "UTILIZATION is the share of the card that the server may take, such as 0.9"),
        (("--context", "some"), 2, "context is a number of tokens"),
        (("--emulate", "a1000"), 2, "no GPU is labelled 'a1000'"),
        (("--model", "qwen3.5-28b"), 2, "qwen3.5-28b"),
        (("--interpreter", "/no/python"), 2, "INTERPRETER=/no/python is no program"),
        (("--interpreter", "cat"), 2, "is no Python 3.11 or newer"),
        (("--interpreter", sys.executable), 3, "-m pip install vllm==0.20.1 puts it there"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: tuple[str, ...], code: int, words: str) -> None:
    ended = invoke("oracle", *arguments)
    assert (code, 1) == (ended.exit_code, len(ended.stderr.splitlines()))
    assert words in ended.stderr


# ---- a server's process ----

START = Start(
    runtime="vllm", versions={}, card={}, emulation="", model="", config_sha256="", variant="text", options={},
    variables={}, planned={}, replaced=(), guessed=(), log=(), starts=1, seconds=1,
)  # fmt: skip

FAKE_VLLM = """
import logging, os, sys
from types import SimpleNamespace as N

class Worker:
    model_runner = N(model_memory_usage=1, kv_cache_config=N(kv_cache_groups=[]))
    peak_activation_memory, non_torch_memory, cudagraph_memory_estimate = 2, 0, 0
    requested_memory, available_kv_cache_memory_bytes = 10.0, 7
    init_snapshot = N(free_memory=8, total_memory=9)

class EngineArgs(dict):
    pass

class LLMEngine:
    def __init__(self, options):
        import torch
        print("Model loading took 50.22 GiB memory and 1 seconds", options["model"])
        print("INFO 11-25 17:00:00 [a.py:1] GPU KV cache size: 1 tokens on", torch.cuda.get_device_name(0))
        exec(os.environ.get("FAKE", ""))
        cache = N(block_size=784, num_gpu_blocks=3, gpu_memory_utilization=.92, cache_dtype="auto",
                  mamba_ssm_cache_dtype="float32", enable_prefix_caching=False)
        config = N(cache_config=cache, model_config=N(max_model_len=5, enforce_eager=True),
                   scheduler_config=N(max_num_seqs=256, max_num_batched_tokens=8192))
        self.vllm_config = config

    @classmethod
    def from_engine_args(cls, options, usage_context):
        assert usage_context == "serve"
        return cls(options)

    def collective_rpc(self, ask):
        return [ask(Worker)]

usage = type(sys)("vllm.usage.usage_lib")
usage.UsageContext = N(OPENAI_API_SERVER="serve")
sys.modules["vllm.usage"] = sys.modules["vllm.usage.usage_lib"] = usage
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python that has a vLLM which only prints its lines, and one of its fields not."""
    folder = tmp_path_factory.mktemp("fake")
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text(FAKE_VLLM, encoding="utf-8")
    (folder / "vllm-0.99.dist-info").mkdir()
    (folder / "vllm-0.99.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.99\n", encoding="utf-8")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}:$PYTHONPATH" exec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return python


# A call that only newer releases make, of pinned memory at a made-up address.
OF_NEWER_RELEASES = """
import ctypes
address = ctypes.c_void_p()
error = ctypes.CDLL(None).cudaHostGetDevicePointer(ctypes.byref(address), ctypes.c_void_p(64), 0)
assert (0, 64) == (error, address.value)
"""


def test_server_s_plan_is_stored_as_it_said_it(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", OF_NEWER_RELEASES)
    ended = invoke("oracle", "--interpreter", str(fake), "--results", str(tmp_path), "--context", "32k")
    assert 0 == ended.exit_code, ended.stderr
    path = tmp_path / "oracle" / "vllm-0.99" / "a100-80gb.qwen3.5-27b.text.eager.context-32768.json"
    assert [path] == list(tmp_path.rglob("*.*json*"))
    value = json.loads(path.read_text(encoding="utf-8"))
    assert ("emulated", "vllm", "0.99") == (value["kind"], value["runtime"], value["versions"]["vllm"])
    assert (784, 3, 1, None) == tuple(
        value["planned"][name] for name in ("block_tokens", "blocks", "weights_bytes", "state_mode")
    )
    assert value["log"] == [
        "Model loading took 50.22 GiB memory and 1 seconds qwen3.5-27b",
        "INFO [a.py:1] GPU KV cache size: 1 tokens on NVIDIA A100-SXM4-80GB",
    ]
    assert 32_768 == value["options"]["max_model_len"]


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("raise ValueError('no such model')", "it stopped: ValueError: no such model"),
        ("os._exit(3)", "it stopped with exit code 3: INFO 11-25"),
        ("__import__('ctypes').CDLL('libcudart.so.13').cudaDeviceReset()", "it called cudaDeviceReset of libcudart"),
    ],
)
def test_server_that_does_not_start_says_why_in_one_line(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, words: str
) -> None:
    monkeypatch.setenv("FAKE", does)
    ended = invoke("oracle", "--interpreter", str(fake), "--results", str(tmp_path))
    assert (1, 1) == (ended.exit_code, len(ended.stderr.splitlines()))
    assert words in ended.stderr
    assert [] == list(tmp_path.rglob("*.*"))


def running(mark: str) -> list[str]:
    """Processes that have a word on their command line."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode() for line in lines if mark.encode() in line]


CHILD = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)', sys.argv[1]]); "
)


def test_server_that_is_never_ready_is_ended_with_its_own_processes(tmp_path: Path) -> None:
    mark = f"never-ready-{os.getpid()}"
    with pytest.raises(Fault, match="not ready after 1 s; the last that it said: loading"):
        answer_of([sys.executable, "-c", CHILD + "print('loading', flush=True); time.sleep(99)", mark], {}, 1, print)
    assert [] == running(mark)


def test_second_interruption_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes in the grace of a server that does not heed the first."""
    mark = f"interrupted-twice-{os.getpid()}"
    wait = subprocess.Popen.wait

    def interrupted(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
        if timeout:
            raise KeyboardInterrupt
        return wait(process)

    def tell(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
    with pytest.raises(KeyboardInterrupt):
        answer_of([sys.executable, "-c", deaf, mark], {}, 30, tell)
    assert [] == running(mark)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_record_that_could_not_be_put_in_place_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    def fails(*paths: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fails)
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises((KeyboardInterrupt, InputError)):
        store(tmp_path / "one.json", START)
    assert [] == list(tmp_path.iterdir())


def test_calls_of_servers_are_built_apart_from_what_another_process_builds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[Path] = []

    def compiled(command: list[str | Path]) -> None:
        built.append(Path(command[command.index("-o") + 1]))
        built[-1].touch()
        if len(built) < 3:
            raise NoEmulation("no compiler")

    monkeypatch.setattr(served, "_compile", compiled)
    emulation = Emulation(variables={"LD_PRELOAD": "a.so"}, digest="0")
    stubs = Built(folder=tmp_path / "stubs", digest="1", architectures=(80,))
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda number=process: number)
        with pytest.raises(NoEmulation):
            served.for_servers(emulation, stubs)
    assert (2, []) == (len(set(built)), list(tmp_path.iterdir()))
    preload = served.for_servers(emulation, stubs).variables["LD_PRELOAD"]
    assert [preload.removesuffix(":a.so")] == list(map(str, tmp_path.iterdir()))


def test_interruption_leaves_no_process_and_no_file(fake: Path, tmp_path: Path) -> None:
    order = [sys.executable, "-m", "vram_ledger", "oracle", "--interpreter", str(fake), "--results", str(tmp_path)]
    mark = f"interrupted-{os.getpid()}"
    does = f"{CHILD.replace('sys.argv[1]', repr(mark))}print('GPU KV cache size: here', flush=True); time.sleep(99)"
    process = subprocess.Popen(
        order, cwd=ROOT, env={**os.environ, "FAKE": does}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not running(mark) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (130, "exit 130: interrupted\n") == (process.returncode, said)
    assert ([], []) == (running(mark), list(tmp_path.rglob("*.*")))


def test_reason_is_the_call_before_what_was_raised() -> None:
    called = "called cuFoo of libcuda.so.1, which the emulated card does not know"
    assert f"it {called}" == why(f"emulated card: the program {called}\nRuntimeError: x", -6)


def test_field_that_this_version_has_not_is_none() -> None:
    assert (None, 3) == (at(object(), "real.imag"), at(3, "real.real"))
