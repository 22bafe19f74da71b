"""predict and capacity of a server: what they print, how they end, and what they refuse."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS
from tests.invoked import invoke
from tests.test_imports import loaded_by
from tests.test_serving import GGUF_TENSORS, gguf_file, safetensors
from vram_ledger.from_make import arguments_of

CARD = ("--runtime", "vllm", "--gpu", "a100-80gb", "--utilization", "0.9", "--variant", "text")


def said(*arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke(*arguments, "--json").stdout)
    return found


def named(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in (*found["terms"], *found["requests"], *found["figures"]) if one["name"] == name)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("--pool", "55.08GiB", "--context", "131072"), ("blocks: 1,150 to 1,151", "concurrency: 6.73×")),
        (("--pool", "6.56GiB", "--model", "qwen3.5-9b"), ("block: 528 tokens", "concurrency: 36.91 to 37.00×")),
        (("--pool", "3.06GiB", "--model", "qwen3.5-0.8b"), ("block: 544 tokens", "concurrency: 44.55 to 44.73×")),
        (("--pool", "55.08GiB", "--kv-type", "fp8"), ("block: 1,568 tokens",)),
        (("--pool", "4.99GiB", "--context", "128k", "--kv-type", "fp8", "--prefix-caching", "1", "--tensor-parallel",
          "2"), ("cache size: 302,921 tokens", "concurrency: 2.31×", "one of 2 cards")),
    ],
)  # fmt: skip
def test_a_pool_of_a_log_gives_the_figures_of_that_log(arguments: tuple[str, ...], lines: tuple[str, ...]) -> None:
    result = invoke("predict", "--runtime", "vllm", *arguments)
    assert (0, [], True) == (
        result.exit_code,
        [line for line in lines if line not in result.output],
        result.output.endswith("exit 0: fits\n"),
    )


@pytest.mark.parametrize(
    ("arguments", "code", "verdict"),
    [
        (("--context", "4096"), 0, "fits"),
        (("--context", "32768", "--batch", "8"), 4, "within the margin"),
        (("--context", "262144", "--batch", "8"), 1, "does not fit"),
    ],
)
def test_a_card_s_pool_is_an_interval_and_so_is_the_verdict(
    arguments: tuple[str, ...], code: int, verdict: str
) -> None:
    result = invoke("predict", *CARD, *arguments)
    assert (code, f"exit {code}: {verdict}") == (result.exit_code, result.output.splitlines()[-1])


def test_the_pool_of_the_a100_s_log_lies_in_the_interval() -> None:
    pool = named(said("predict", *CARD, "--context", "32768"), "pool")
    assert pool["least_bytes"] <= 361 * 51_380_224 <= pool["most_bytes"]


def test_without_a_card_what_is_loaded_and_what_a_request_takes_is_said() -> None:
    found = said("predict", "--runtime", "vllm", "--variant", "text", "--context", "32768")
    loaded = sum(named(found, name)["least_bytes"] for name in ("weights", "rotary table", "rounding"))
    assert ("50.22", 42 * 51_380_224, 3 * 51_380_224, None) == (
        f"{loaded / 2**30:.2f}",
        named(found, "KV cache")["least_bytes"],
        named(found, "states")["least_bytes"],
        found["verdict"],
    )


@pytest.mark.parametrize("runtime", ["vllm", "sglang", "llama.cpp"])
def test_a_card_that_the_weights_fill_is_told_so(runtime: str) -> None:
    for command in ("predict", "capacity"):
        result = invoke(command, "--runtime", runtime, "--gpu", "rtx-4090")
        assert (1, True, True) == (
            result.exit_code,
            "leaves no room" in result.output,
            result.output.endswith("exit 1: does not fit\n"),
        )


@pytest.mark.parametrize(
    ("runtime", "gpu"), [("vllm", "h200"), ("sglang", "h200"), ("llama.cpp", "h100"), ("llamacpp", "h100")]
)
def test_capacity_is_what_predict_says_at_its_ends(runtime: str, gpu: str) -> None:
    found = said("capacity", "--runtime", runtime, "--gpu", gpu)
    row = next(row for row in found["longest_context"] if row["batch"] == 8)
    ask = ("predict", "--runtime", runtime, "--gpu", gpu, "--batch", "8", "--context")
    assert (0, 1) == (
        invoke(*ask, row["certain"]).exit_code,
        invoke(*ask, row["possible"] + 256).exit_code if row["possible"] < 262_144 else 1,
    )
    assert [row["certain"] <= row["possible"] for row in found["largest_batch"]] == [True] * 7


def test_capacity_prints_both_tables_once() -> None:
    output = invoke("capacity", "--runtime", "vllm", "--pool", "55.08GiB", "--variant", "text").output
    assert (1, 1, True) == (
        output.count("longest context"),
        output.count("largest concurrency"),
        "≥ 262,144" in output,
    )


def test_a_gguf_file_is_read_for_what_is_on_the_card(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "model.gguf", GGUF_TENSORS)
    found = said("predict", "--runtime", "llama.cpp", "--gpu", "rtx-4090", "--weights", path, "--kv-type", "q4_0")
    weights = 5120 * 248_320 * 210 // 256 + 6144 * 5120 * 144 // 256 + 5120 * 4
    assert (weights, 4096 * 18_432, 156_893_184) == (
        named(found, "weights")["least_bytes"],
        named(found, "KV cache")["least_bytes"],
        named(found, "recurrent state")["least_bytes"],
    )


def test_a_quantised_checkpoint_by_its_folder_is_config_and_weights(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "models" / "qwen3.5-9b.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors(tmp_path / "model.safetensors", {"model.layers.31.mlp.up_proj.weight": 9 * 10**9, "mtp.fc.weight": 4})
    ask = ("predict", "--runtime", "vllm", "--model", tmp_path, "--gpu", "rtx-4090")
    assert [9 * 10**9] * 2 == [
        named(said(*ask, *more), "weights")["most_bytes"] for more in ((), ("--weights", tmp_path))
    ]
    (tmp_path / "model.safetensors").unlink()
    alone = invoke(*ask)
    assert (2, True) == (alone.exit_code, "its weights are quantised (fp8)" in alone.output)


def test_speculation_adds_the_mtp_part_and_its_copies_of_the_state() -> None:
    plain, drafting = (said("predict", "--runtime", "vllm", "--drafts", n, "--variant", "text") for n in (0, 3))
    assert (2 * 424_699_392, 3, 12) == (
        named(drafting, "weights")["least_bytes"] - named(plain, "weights")["least_bytes"],
        named(plain, "states")["least_bytes"] // 51_380_224,
        named(drafting, "states")["least_bytes"] // named(drafting, "block size")["least"],
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--runtime", "tgi"), "runtime 'tgi' is none of transformers, vllm, sglang, llama.cpp"),
        (("--utilization", "0.9"), "UTILIZATION is a server's: name the RUNTIME"),
        (("--drafts", "2"), "DRAFTS is a server's"),
        (("--runtime", "vllm", "--phase", "decode"), "PHASE is not known of vLLM; it is transformers'"),
        (("--runtime", "sglang", "--allocator", "x"), "ALLOCATOR is not known of SGLang"),
        (("--runtime", "vllm", "--kv-type", "q8_0"), "vLLM keeps no cache in 'q8_0'; known here are auto"),
        (("--runtime", "llama.cpp", "--kv-type", "fp8"), "llama.cpp keeps no cache in 'fp8'"),
        (("--runtime", "vllm", "--weights", "Q4_K_M"), "vLLM loads safetensors"),
        (("--runtime", "vllm", "--weights", "nowhere"), "neither a checkpoint that is there nor a quantisation"),
        (("--runtime", "vllm", "--pool", "many"), "'many' is not an amount of memory"),
        (("--runtime", "vllm", "--pool", "3GB"), "a pool is printed in GiB"),
        (("--runtime", "vllm", "--pool", "3GiB", "--gpu", "h100"), "POOL is what a log printed"),
        (("--runtime", "vllm", "--drafts", "-1"), "DRAFTS is a whole number from 0 to 64"),
        (("--runtime", "vllm", "--tensor-parallel", "7"), "7 cards can't share 4 heads"),
        (("--runtime", "vllm", "--context", "1M"), "ends at 262,144 tokens, asked for 1,048,576"),
        (("--runtime", "vllm", "--utilization", "1.5"), "UTILIZATION is a share of the card above 0"),
        (("--runtime", "vllm", "--utilization", "1/0"), "UTILIZATION is a share of the card above 0"),
        (("--runtime", "vllm", "--utilization", "1e-9999999"), "UTILIZATION is a share of the card above 0"),
        (("--runtime", "vllm", "--prefix-caching", "perhaps"), "PREFIX_CACHING is 1 or 0"),
        (("--runtime", "vllm", "--variant", "text-chunk8"), "loads the default class or the text's"),
        (("--runtime", "vllm", "--memory", "80GiB"), "memory is that of a card"),
        (("--runtime", "vllm", "--gpu", "h100", "--free", "1GiB"), "FREE changes nothing for vLLM"),
        (("--runtime", "llama.cpp", "--prefix-caching", "1"), "are vLLM's and SGLang's"),
        (("--runtime", "llama.cpp", "--tensor-parallel", "2"), "llama.cpp over several cards is not known"),
        (("--runtime", "vllm", "--model", "qwen9"), "no model is named 'qwen9'"),
    ],
)
def test_what_a_server_does_not_have_is_one_line_and_exit_2(arguments: tuple[str, ...], words: str) -> None:
    result = invoke("predict", *arguments)
    assert (2, True, 1) == (result.exit_code, words in result.output, len(result.output.splitlines()))


def test_capacity_without_a_card_or_a_pool_is_refused() -> None:
    result = invoke("capacity", "--runtime", "vllm")
    assert (2, True) == (result.exit_code, "name the GPU (GPU=h200) or the pool" in result.output)


def test_a_damaged_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 2**40))
    result = invoke("predict", "--runtime", "llama.cpp", "--weights", tmp_path / "m.gguf")
    assert (2, True) == (result.exit_code, f"{tmp_path / 'm.gguf'}: a text of" in result.output)


def test_make_s_variables_are_a_server_s_options() -> None:
    variables = {"RUNTIME": "vllm", "KV_TYPE": "fp8", "POOL": "3GiB", "DRAFTS": "2"}
    assert ["predict", "--runtime=vllm", "--kv-type=fp8", "--drafts=2", "--pool=3GiB"] == arguments_of(
        "predict", list(variables), variables
    )


def test_a_question_to_transformers_is_answered_as_before() -> None:
    ask = ("predict", "--gpu", "h200", "--context", "128k", "--variant", "text")
    assert invoke(*ask).output == invoke(*ask, "--runtime", "transformers").output


def test_a_server_s_answer_needs_neither_torch_nor_what_only_some_commands_need() -> None:
    assert ["[]"] == loaded_by("capacity", "--runtime", "vllm", "--gpu", "h200")
