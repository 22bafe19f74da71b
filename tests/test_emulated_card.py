"""The emulated card gives a real card's bytes, tells truth from invention, and says what it can't do."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import BIG, CONFIGS, NANO, ROOT, Ask
from vram_ledger.analysis.ground.figures import PUBLIC
from vram_ledger.analysis.public.protocols import read_told
from vram_ledger.harness.emulation import build, wheel
from vram_ledger.harness.emulation.build import LIBRARIES, built_stubs
from vram_ledger.harness.emulation.profile import Profile, emulation_of, profile_of
from vram_ledger.harness.emulation.wheel import InstalledTorch, NoEmulation, find_wheel
from vram_ledger.harness.gpus import labelled, read_gpus
from vram_ledger.harness.machine import card_there

RTX_4090 = labelled(read_gpus(CONFIGS / "gpus.toml"), "rtx-4090")[0]
PROTOCOL = ROOT / "examples" / "protocols" / "prefill_then_generate.py"
CONTEXTS = (128, 2048, 16_384)

# IshaanGubbala/HatchlingZero, results/local/hz0h_qwen35_decode_benchmark.json, a card of 23.52 GiB: bytes.
REAL_PREFILL = {128: 1_602_327_552, 2048: 2_559_823_872, 16_384: 9_709_129_728}
REAL_DECODE = {128: 1_645_041_152, 2048: 2_650_632_704, 16_384: 10_151_353_856}


def harness(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``python -m vram_ledger`` with these arguments."""
    command = [sys.executable, "-m", "vram_ledger", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def emulated(*command: str, card: str = "rtx-4090") -> "subprocess.CompletedProcess[str]":
    """A program on an emulated card."""
    return harness("emulate", "--card", card, "--", *command)


def python(program: str, card: str = "rtx-4090") -> "subprocess.CompletedProcess[str]":
    """A few lines of Python on an emulated card."""
    return emulated("python", "-c", f"import torch\n{program}", card=card)


@pytest.fixture(scope="module")
def protocol() -> dict[str, Any]:
    """What the published protocol prints on an emulated card of the same size, in plain transformers."""
    config = CONFIGS / "models" / "qwen3.5-0.8b.json"
    ran = emulated("python", str(PROTOCOL), str(config), "fla", *map(str, CONTEXTS), "65536")
    assert 0 == ran.returncode, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("context", CONTEXTS)
def test_published_prefill_peak_comes_out_to_the_byte(protocol: dict[str, Any], context: int) -> None:
    assert REAL_PREFILL[context] == protocol[f"prefill {context}"]


@pytest.mark.parametrize("context", CONTEXTS)
def test_published_decode_peak_comes_out_to_the_byte(protocol: dict[str, Any], context: int) -> None:
    assert REAL_DECODE[context] == protocol[f"generate {context}"]


def test_stored_result_is_what_the_protocol_tells_now(protocol: dict[str, Any]) -> None:
    told = read_told(PUBLIC / "protocols" / "prefill-then-generate-fla.json").told
    assert protocol == {name: value for name, value in told.items() if "131072" not in name}


def test_published_out_of_memory_error_comes_out(protocol: dict[str, Any]) -> None:
    message = protocol["out of memory 65536"]
    assert "Tried to allocate 30.31 GiB. GPU 0 has a total capacity of 23.52 GiB" in message
    assert "1.56 GiB is allocated by PyTorch" in message


@pytest.mark.parametrize("gpu", ["a100-80gb", "h100"])
@pytest.mark.parametrize(
    ("phase", "batch", "context"), [("prefill", 2, 1000), ("prefill", 1, 8192), ("decode", 2, 4096)]
)
def test_27b_requests_what_the_replay_does_and_the_workspace(
    ask: Ask, gpu: str, phase: str, batch: int, context: int
) -> None:
    card, replay = (ask(device=d, gpu=gpu, model=BIG).measure(phase, batch, context) for d in ("emulated", "fake"))
    workspace = card.baseline_bytes - card.weights_bytes - card.buffers_bytes
    assert (replay.weights_bytes, replay.held) == (card.weights_bytes, card.held)
    assert replay.warm.requested_bytes == card.warm.requested_bytes - workspace
    assert {"a100-80gb": 8_519_680, "h100": 33_554_432}[gpu] == workspace


def test_counters_repeat_in_a_worker(ask: Ask) -> None:
    worker = ask(device="emulated", gpu="a100-80gb", model=BIG)
    first, again = (worker.measure("prefill", 2, 1000) for _ in range(2))
    assert (first.cold, first.warm) == (again.cold, again.warm)


@pytest.mark.parametrize(
    ("gpu", "op"),
    [
        ("a100-80gb", "_scaled_dot_product_flash_attention"),
        ("h100", "_scaled_dot_product_cudnn_attention"),
        ("rtx-4090", "_scaled_dot_product_flash_attention"),
    ],
)
def test_attention_is_the_one_that_pytorch_takes_on_the_card(ask: Ask, gpu: str, op: str) -> None:
    assert f"aten::{op}" == ask(device="emulated", gpu=gpu, model=NANO).measure("prefill", 1, 512).kernels.attention


def test_no_value_is_invented_in_a_measurement(ask: Ask) -> None:
    assert () == ask(device="emulated", gpu="a100-80gb", model=BIG).measure("prefill", 2, 1000).guessed


def test_invented_read_is_told_with_its_line_and_marks_the_workload(ask: Ask) -> None:
    # A chunked prefill into a static cache reads the cache's length, which a kernel counted up, off the card.
    worker = ask(device="emulated", gpu="a100-80gb", model=NANO)
    guessed = worker.measure("prefill", 1, 512, cache="static", prefill_chunk_tokens=128).guessed
    assert [True] == list({"transformers/" in read.source for read in guessed})


TRUTHS = """
on_card = torch.tensor([3, 5, 7]).to("cuda")
print(on_card.tolist())
print(on_card[1].item())
print(on_card.clone().tolist())
large = torch.empty(64, device="cuda")
large[8:11] = torch.tensor([1.0, 2.0, 3.0], device="cuda")
part = torch.empty(64, device="cuda")
part[3:5].copy_(torch.tensor([1.0, 2.0]))
print(part[3:5].tolist())
part.mul_(2)
print(part[3:5].tolist())
rows = torch.empty(8, 128, device="cuda")
rows.copy_(torch.ones(8, 128))
rows[1].copy_(torch.full((128,), 2.0))
print(rows[1, 0].item())
rows.mul_(100)
print(rows[1, 0].item())
on_card.add_(1)
print(on_card.tolist())
print((torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).sum().item())
"""


def test_copied_values_come_back_and_computed_ones_are_told(tmp_path: Path) -> None:
    program = tmp_path / "truths.py"
    program.write_text(f"import torch\n{TRUTHS}", encoding="utf-8")
    ran = emulated("python", str(program))
    assert 0 == ran.returncode, ran.stderr
    true = ["[3, 5, 7]", "5", "[3, 5, 7]", "[1.0, 2.0]"]
    assert [*true, "[0.0, 0.0]", "2.0", "0.0", "[0, 0, 0]", "0.0"] == ran.stdout.splitlines()
    told = [line.split()[0] for line in ran.stderr.splitlines() if "truths.py:" in line]
    assert ["truths.py:13", "truths.py:19", "truths.py:21", "truths.py:22"] == sorted(told)


def test_exit_code_and_output_are_the_program_s(tmp_path: Path) -> None:
    ran = python("print('said'); raise SystemExit(7)")
    assert (7, "said\n") == (ran.returncode, ran.stdout)


def test_peaks_outlive_the_program_s_own_reset() -> None:
    ran = python("torch.ones(2**28, device='cuda'); torch.cuda.reset_peak_memory_stats(); torch.ones(5, device='cuda')")
    assert "1,073,741,824" in ran.stderr


def test_torch_that_was_looked_for_before_it_is_imported_tells_its_peaks_too() -> None:
    look = "import importlib.util; importlib.util.find_spec('torch')"
    reset = "torch.ones(2**28, device='cuda'); torch.accelerator.reset_peak_memory_stats()"
    ran = emulated("python", "-c", f"{look}\nimport torch\n{reset}")
    assert "1,073,741,824" in ran.stderr


def test_visible_devices_are_the_program_s_to_choose() -> None:
    choose = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = '1'"
    ran = emulated("python", "-c", f"{choose}\nimport torch; torch.ones(5, device='cuda')", card="l4,rtx-4090")
    assert "0 GeForce RTX 4090" in ran.stderr


def test_report_goes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    program = "import torch; torch.ones(5, device='cuda'); raise SystemExit(255)"
    ran = harness("emulate", "--card", "l4", "--report", str(file), "--", "python", "-c", program)
    told = json.loads(file.read_text(encoding="utf-8"))
    assert (255, 255, 0) == (ran.returncode, told["exit_code"], told["signal"])
    assert [20, 512, 2 * 2**20] == [told["peaks"][0][f"{c}_bytes"] for c in ("requested", "allocated", "reserved")]


def test_report_without_a_folder_is_refused_before_anything_runs(tmp_path: Path) -> None:
    ran = harness("emulate", "--report", str(tmp_path / "no" / "r.json"), "--", "python", "-c", "print('ran')")
    assert (2, "") == (ran.returncode, ran.stdout)


def test_each_card_has_its_own_memory() -> None:
    ran = python("torch.ones(2**20, device='cuda:1'); print(torch.cuda.get_device_name(1))", card="rtx-4090,l4")
    assert "NVIDIA L4\n" == ran.stdout
    assert "1 L4" in ran.stderr
    assert "0 GeForce RTX 4090" not in ran.stderr


def test_program_that_does_not_fit_gets_pytorch_s_own_error() -> None:
    ran = python("torch.empty(30 << 30, dtype=torch.uint8, device='cuda')")
    assert (1, True) == (ran.returncode, "torch.OutOfMemoryError: CUDA out of memory" in ran.stderr)


def test_call_that_is_not_known_ends_the_program_with_its_name() -> None:
    ran = python("import ctypes; torch.cuda.init(); ctypes.CDLL('libcuda.so.1').cuGreenCtxCreate()")
    assert 134 == ran.returncode
    assert "the program called cuGreenCtxCreate of libcuda.so.1, which the emulated card does not know" in ran.stderr


def test_accelerate_spreads_a_model_over_emulated_cards() -> None:
    ran = emulated("python", "-m", "tests.programs.spread", card="l4,l4")
    assert 0 == ran.returncode, ran.stderr
    assert [True, True] == [peak > 2**30 for peak in json.loads(ran.stdout.splitlines()[-1])]


def test_training_step_has_parameters_gradients_moments_and_an_update() -> None:
    ran = emulated("python", "-m", "tests.programs.step")
    assert 0 == ran.returncode, ran.stderr
    parameters = 4 * (2 * 1024 * 4096 + 4096 + 1024)
    assert 5 * parameters <= int(ran.stdout) <= 5 * parameters + 32 * 2**20


@pytest.mark.parametrize(("options", "buffer_bytes"), [((), 0), (("--compile",), 256 * 2**20)])
def test_buffer_of_tuning_is_there_if_kernels_are_compiled(options: tuple[str, ...], buffer_bytes: int) -> None:
    ran = harness("emulate", *options, "--card", "h100", "--", "python", "-m", "tests.programs.tuned")
    assert 0 == ran.returncode, ran.stderr
    first, second = json.loads(ran.stdout.splitlines()[-1])
    assert (buffer_bytes, 2 * 4 * 2**20) == (first - second, second)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("rtx-9999", "exit 2: bad input: no GPU is labelled 'rtx-9999'"),
        ("a100", "exit 2: bad input: --card=a100 can be a100-40gb or a100-80gb; say which"),
    ],
)
def test_card_that_is_not_known_is_refused(label: str, said: str) -> None:
    ran = python("", card=label)
    assert (2, True) == (ran.returncode, said in ran.stderr)


def test_program_that_is_not_there_is_refused() -> None:
    ran = emulated("no-such-program")
    assert (2, True) == (ran.returncode, "exit 2: bad input: no program is called 'no-such-program'" in ran.stderr)


# ---- where no card can be emulated ----


def refused(monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]) -> str:
    """Why a card is not emulated after a change of the machine."""
    change(monkeypatch)
    with pytest.raises(NoEmulation) as caught:
        emulation_of((profile_of(RTX_4090),))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def installed(version: str, cuda: str | None) -> Callable[[pytest.MonkeyPatch], None]:
    """A machine with another build of PyTorch."""
    torch = InstalledTorch(package=Path("/nowhere/torch"), version=version, cuda=cuda)
    return lambda patch: patch.setattr(wheel, "installed_torch", lambda: torch)


def system(name: str, machine: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Another kind of machine."""
    platform = SimpleNamespace(system=lambda: name, machine=lambda: machine)
    return lambda patch: patch.setattr(wheel, "platform", platform)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (installed("2.14.1+cpu", None), "needs a CUDA build of PyTorch, and torch 2.14.1+cpu is a CPU-only one"),
        (installed("2.10.0", "12.8"), "needs PyTorch for CUDA 13, and torch 2.10.0 is for CUDA 12.8"),
        (system("Darwin", "arm64"), "needs Linux on x86-64, and this is Darwin on arm64"),
    ],
)
def test_build_or_machine_that_can_t_be_emulated_is_named(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    assert said in refused(monkeypatch, change)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without(patch: pytest.MonkeyPatch) -> None:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setenv("PATH", str(tmp_path))
        patch.delenv("CC", raising=False)

    assert "needs a C compiler, and cc or gcc or clang is not there (install gcc)" in refused(monkeypatch, without)
    assert [] == list(tmp_path.rglob("*.so*"))


def test_cache_that_the_loader_can_t_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "a b"
    assert "spaces or colons" in refused(monkeypatch, lambda patch: patch.setenv("XDG_CACHE_HOME", str(place)))


def test_source_that_does_not_compile_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(patch: pytest.MonkeyPatch) -> None:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setenv("CC", "false")

    assert "do not compile" in refused(monkeypatch, broken)
    assert [] == list((tmp_path / "vram-ledger" / "emulation").iterdir())


def test_card_of_an_architecture_that_the_wheel_lacks_is_refused() -> None:
    volta = dataclasses.replace(profile_of(RTX_4090), name="NVIDIA V100", capability="7.0")
    with pytest.raises(NoEmulation, match=r"V100 has capability 7.0, and this PyTorch has code for 7.5, 8.0"):
        emulation_of((volta,))


def test_make_measure_without_emulation_falls_back_and_says_why(tmp_path: Path, no_card: None) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "vram_ledger",
            "measure",
            "--model",
            NANO,
            "--budget",
            "0.001",
            "--results",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert "No card is emulated: an emulated card needs a C compiler" in ran.stdout
    assert "FAKE DEVICE" in ran.stdout


def test_asking_for_an_emulation_that_is_not_possible_is_refused(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "vram_ledger", "measure", "--emulate", "h100", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert (3, True) == (ran.returncode, ran.stderr.startswith("exit 3: environment not as asked: EMULATE=h100: "))
    assert [] == list(tmp_path.rglob("*.jsonl"))


# ---- the stubs ----


def test_second_start_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = built_stubs(find_wheel())

    def never(command: Any) -> None:
        raise AssertionError(command)

    monkeypatch.setattr(build, "_compile", never)
    assert first == built_stubs(find_wheel())


@pytest.mark.parametrize("stub", [s for s in LIBRARIES if s.from_wheel], ids=lambda s: s.soname)
def test_stub_has_every_name_of_the_real_library(stub: build.Stub) -> None:
    real, ours = find_wheel().library(stub.soname), built_stubs(find_wheel()).folder / stub.soname
    assert set() == set(build._exported(real)) - set(build._exported(ours))


def test_cards_that_differ_have_another_digest() -> None:
    card = profile_of(RTX_4090)
    other: Profile = dataclasses.replace(card, multiprocessors=card.multiprocessors - 1)
    assert emulation_of((card,)).digest != emulation_of((other,)).digest


def test_card_there_is_told_without_torch() -> None:
    program = "import sys, harness.machine; harness.machine.card_there(); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "False\n" == ran.stdout
    assert card_there() in (True, False)
