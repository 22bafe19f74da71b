"""Which implementation each stage takes: the rules of transformers and PyTorch, and the command that tells."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.invoked import invoke
from vram_ledger.analysis.derivation.derived_files import named_formula
from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness import installed
from vram_ledger.harness.emulation.elsewhere import stubs_of
from vram_ledger.harness.installed import Installed, Stage, ask, numbers_of, stages_of
from vram_ledger.harness.interpreter import told_by
from vram_ledger.harness.oracle.asked import question

THERE = Installed(
    python="3.12.1",
    executable="/env/bin/python",
    versions={
        "torch": "2.14.1+cu130",
        "transformers": "5.24.0",
        "flash-linear-attention": "0.6.0",
        "causal-conv1d": None,
        "triton": "3.8.0",
        "kernels": None,
        "flash-attn": None,
    },
    torch={"cuda": "13.0", "hip": None, "available": True, "card": "NVIDIA A100", "capability": [8, 0], "cudnn": 92400},
    by_import=True,
    by_card=False,
    fused_norm=False,
    refused={"fla": "", "causal_conv1d": "not installed"},
    switches={},
)
OLD = dataclasses.replace(THERE, by_import=False, by_card=True, fused_norm=True)
A100, H100, B200, T4 = (8, 0), (9, 0), (10, 0), (7, 5)


def stages(there: Installed, capability: tuple[int, int] | None = A100, dtype: str = "bfloat16") -> dict[str, Stage]:
    """The stages of a model with heads of 256, by name."""
    return {stage.name: stage for stage in stages_of(there, capability, dtype, 256)}


def test_stages_are_those_that_were_seen_to_run_where_the_program_was_derived() -> None:
    found = stages(THERE)
    for phase, rule in (("prefill", "chunk"), ("decode", "fused_recurrent")):
        seen = named_formula(f"qwen3.5-27b text {phase} 5.24.0 emulated-a100-80gb", "FILE").kernels
        assert seen.delta_rule is not None
        assert seen.delta_rule.startswith(f"fla.ops.gated_delta_rule.{rule}")
        assert (seen.attention, seen.norm) == (
            "aten::_scaled_dot_product_flash_attention",
            "transformers.models.qwen3_5.modeling_qwen3_5.Qwen3_5RMSNormGated.forward",
        )
    assert ("fla, chunked", "fla, fused recurrent", False) == (
        found["delta rule"].prefill,
        found["delta rule"].decode,
        found["delta rule"].fallen,
    )
    assert ("torch conv1d", "flash (PyTorch)", "torch") == (
        found["convolution"].prefill,
        found["attention"].prefill,
        found["gated norm"].prefill,
    )


@pytest.mark.parametrize("there", [THERE, OLD])
def test_without_fla_the_delta_rule_is_the_reference_and_says_why(there: Installed) -> None:
    found = stages(dataclasses.replace(there, refused={"fla": "not installed", "causal_conv1d": "not installed"}))
    rule = found["delta rule"]
    assert (True, "flash-linear-attention: not installed") == (rule.fallen, rule.why)
    assert there.fused_norm == found["gated norm"].fallen


@pytest.mark.parametrize(
    ("changes", "capability", "why"),
    [
        ({"versions": THERE.versions | {"flash-linear-attention": "0.2.1"}}, A100, "0.2.1 is older than 0.2.2"),
        ({"torch": {"cuda": None, "hip": None}}, A100, "built without CUDA"),
        ({}, None, "torch sees no card"),
    ],
)
def test_up_to_5_14_fla_counts_by_version_and_card_and_since_then_by_its_import(
    changes: dict[str, object], capability: tuple[int, int] | None, why: str
) -> None:
    old = stages(dataclasses.replace(OLD, **changes), capability)["delta rule"]  # type: ignore[arg-type]
    new = stages(dataclasses.replace(THERE, **changes), capability)["delta rule"]  # type: ignore[arg-type]
    assert (True, False) == (old.fallen, new.fallen)
    assert why in old.why


@pytest.mark.parametrize(
    ("capability", "dtype", "prefill", "decode"),
    [
        (A100, "bfloat16", "flash (PyTorch)", "flash (PyTorch)"),
        (H100, "bfloat16", "cuDNN", "cuDNN"),
        (B200, "bfloat16", "cuDNN", "flash (PyTorch)"),
        (H100, "float32", "memory-efficient (PyTorch)", "memory-efficient (PyTorch)"),
        (T4, "bfloat16", "math: no fused kernel", "math: no fused kernel"),
        (T4, "float16", "memory-efficient (PyTorch)", "memory-efficient (PyTorch)"),
        (None, "bfloat16", "the CPU's", "the CPU's"),
    ],
)
def test_attention_goes_by_card_and_dtype(
    capability: tuple[int, int] | None, dtype: str, prefill: str, decode: str
) -> None:
    found = stages(THERE, capability, dtype)["attention"]
    assert (prefill, decode) == (found.prefill, found.decode)
    assert ("math" in prefill) == found.fallen


@pytest.mark.parametrize(
    "changes",
    [
        {"switches": {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}},
        {"torch": {"cuda": "13.0", "cudnn": 91002}},
        {"torch": {"cuda": "12.8"}, "versions": THERE.versions | {"torch": "2.10.0+cu128"}},
    ],
)
def test_cudnn_stands_back_where_it_is_old_or_told_to(changes: dict[str, object]) -> None:
    found = stages(dataclasses.replace(THERE, **changes), H100)["attention"]  # type: ignore[arg-type]
    assert "flash (PyTorch)" == found.prefill


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.14.1+cu130", (2, 14, 1)), ("2.11.0a0", (2, 11, 0)), ("0.6.0", (0, 6, 0)), ("x", ())]
)
def test_version_is_read_as_far_as_it_is_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert numbers == numbers_of(version)


# ---- the command ----


def told(monkeypatch: pytest.MonkeyPatch, there: Installed) -> None:
    monkeypatch.setattr(installed, "ask", lambda interpreter: there)


def test_command_says_what_runs_and_what_the_other_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, THERE)
    done = invoke("kernels")
    assert (0, "exit 0: the kernels run") == (done.exit_code, done.stdout.splitlines()[-1])
    assert "fla, chunked" in done.stdout
    fla, torch = (
        json.loads(invoke("predict", "--context", 8192, "--kernels", kernels, "--json", "--symbols").output)
        for kernels in ("fla", "torch")
    )
    more = torch["requested_bytes"] - fla["requested_bytes"]
    assert 1_431_334_912 == more
    assert f"asked for at the peak with fla; with torch reference {more:,} B more" in done.stdout


def test_where_the_default_class_has_no_program_the_text_class_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, THERE)
    text = invoke("kernels", "--gpu", "a100-80gb", "--model", "qwen3.5-9b", "--context", "32k").stdout
    assert "prefill, text class: 23.10 GB" in text


def test_peaks_of_attention_without_a_fused_kernel_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, THERE)
    done = invoke("kernels", "--gpu", "t4")
    assert (1, False) == (done.exit_code, "asked for at the peak" in done.stdout)
    assert "The peaks are not known: no program is derived of attention without a fused kernel." in done.stdout


def test_fall_back_ends_with_1_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, dataclasses.replace(THERE, refused={"fla": "not installed", "causal_conv1d": ""}))
    done = invoke("kernels")
    assert (1, "exit 1: silently the fall-back: delta rule") == (done.exit_code, done.stdout.splitlines()[-1])
    assert "with torch reference; with fla 1,431,334,912 B less" in done.stdout


def test_environment_without_a_card_can_not_tell_until_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, dataclasses.replace(THERE, torch={"cuda": None, "available": False, "capability": None}))
    assert 4 == invoke("kernels").exit_code
    assert 0 == invoke("kernels", "--emulate", "rtx-4090").exit_code


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"torch": None}, "torch is not installed"),
        ({"torch": {"broken": "OSError: libcudart.so.13"}}, "torch can't be imported: OSError: libcudart.so.13"),
        ({"versions": THERE.versions | {"transformers": None}}, "transformers is not installed"),
        ({"by_import": False}, "transformers 5.24.0 has no Qwen3.5"),
    ],
)
def test_environment_in_which_no_model_runs_says_what_is_missing(
    changes: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, dataclasses.replace(THERE, **changes))  # type: ignore[arg-type]
    done = invoke("kernels", "--gpu", "h100")
    assert (3, True) == (done.exit_code, done.stderr.rstrip().endswith(f"runs with /env/bin/python: {why}"))


def test_two_cards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, THERE)
    done = invoke("kernels", "--gpu", "h100", "--emulate", "h200")
    assert (2, True) == (done.exit_code, "contradict each other" in done.stderr)


# ---- an environment of one's own ----


def test_an_interpreter_tells_what_it_has(tmp_path: Path) -> None:
    there = ask(interpreter(tmp_path, "-S"))  # without its packages
    assert (None, "torch is not installed") == (there.versions["torch"], there.nothing_runs)
    assert sys.executable == there.executable


def of_server(interpreter: str) -> object:
    """What is asked of an interpreter before a server is started with it."""
    return question("vllm", "qwen3.5-9b", "l4", "text", 0, "", interpreter)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/bin/false", "/bin/false is no Python 3.11 or newer that can tell what it has: it ended with 1"),
        ("/bin/echo", "/bin/echo is no Python 3.11 or newer: it prints something else than it was asked for"),
        ("/bin/true", "/bin/true is no Python 3.11 or newer: it prints something else than it was asked for"),
    ],
)
@pytest.mark.parametrize("asked", [ask, stubs_of, of_server])
def test_what_is_no_python_is_refused(asked: Callable[[str], object], name: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        asked(name)
    assert words == str(refused.value)


@pytest.mark.parametrize("asked", [ask, stubs_of])
def test_what_is_not_there_can_not_be_run(asked: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere can't be run: No such file or directory$"):
        asked(str(tmp_path / "nowhere"))


def test_an_interpreter_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(WrongEnvironment, match=r"does not tell what it has within 1 s$"):
        told_by(interpreter(tmp_path, "-S"), "import time; time.sleep(9)", deadline_s=1)


def interpreter(folder: Path, option: str) -> str:
    """An interpreter that is given an option."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {option} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


PACKAGES = {
    "torch/__init__.py": (
        "class version: cuda, hip = None, None\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
    ),
    "transformers/models/qwen3_5/modeling_qwen3_5.py": '@use_kernel_func_from_hub_with_fallback("f", "fla")\n',
    "transformers/__init__.py": "",
    "fla/__init__.py": "raise RuntimeError('no driver')\n",
    "causal_conv1d/__init__.py": "causal_conv1d_fn = 1\n",
}


def test_imports_are_tried_as_transformers_tries_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in PACKAGES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    there = ask(interpreter(tmp_path, "-S"))
    assert (True, False, None) == (there.by_import, there.by_card, there.card)
    assert "its import fails: RuntimeError: no driver" == there.refused["fla"]
    assert "it has no causal_conv1d_update" == there.refused["causal_conv1d"]
