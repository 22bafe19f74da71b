"""Out-of-memory messages: what they say, which tensor they are about, and what would have helped."""

import io
import json
import random
from pathlib import Path

import pytest

from tests.conftest import CONFIGS, ROOT
from tests.invoked import Result, invoke
from vram_ledger.analysis.formula.config import ConfigError
from vram_ledger.analysis.messages.message import Message, Printed, read_message
from vram_ledger.analysis.messages.remedies import rest
from vram_ledger.analysis.messages.startup import FewStates, NoPool, NotFree, TooLong, read_startup
from vram_ledger.analysis.messages.suspects import Suspect, cards_printed, config_tensors, suspects
from vram_ledger.analysis.messages.tensors import named, tensors_of
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.errors import InputError

FAMILY = tuple(f"qwen3.5-{size}" for size in ("27b", "9b", "4b", "2b", "0.8b"))
STORED = [json.loads(line) for line in (ROOT / "tests/messages/emulated.jsonl").read_text().splitlines()]
LIBRARY = Library.of(ROOT / "results")
HATCHLING = (
    "CUDA out of memory. Tried to allocate 30.31 GiB. GPU 0 has a total capacity of 23.52 GiB of which 21.43 GiB is "
    "free. Including non-PyTorch memory, this process has 2.07 GiB memory in use. Of the allocated memory 1.56 GiB is "
    "allocated by PyTorch, and 62.28 MiB is reserved by PyTorch but unallocated."
)
OLD = (
    "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total capacity; 22.05 GiB already allocated; "
    "44.06 MiB free; 22.50 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try"
)


def texts(message: Message) -> dict[str, str]:
    """The figures of a message as they were printed."""
    found = {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "others"}
    return {name: printed.text for name, printed in found.items() if printed is not None}


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        (HATCHLING, {"asked": "30.31 GiB", "total": "23.52 GiB", "free": "21.43 GiB", "process": "2.07 GiB",
                     "allocated": "1.56 GiB", "unallocated": "62.28 MiB"}),
        (OLD, {"asked": "20.00 MiB", "total": "23.69 GiB", "free": "44.06 MiB", "allocated": "22.05 GiB",
               "reserved": "22.50 GiB"}),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacty of 79.15 "
         "GiB of which 1.19 GiB is free. 60.00 GiB allowed; ",
         {"asked": "2.00 GiB", "total": "79.15 GiB", "free": "1.19 GiB", "allowed": "60.00 GiB"}),
    ],
    ids=["2.1 and later", "2.0", "with a limit"],
)  # fmt: skip
def test_every_figure_of_a_message_is_read(text: str, figures: dict[str, str]) -> None:
    assert figures == texts(read_message(text))


def test_other_processes_are_those_of_the_first_message_alone() -> None:
    text = "Tried to allocate 1.00 GiB. Process 12 has 3.00 GiB memory in use. Process 7 has 20.00 MiB memory in use."
    assert ["3.00 GiB", "20.00 MiB"] == [p.text for p in read_message(f"{text} {text}").others]


def test_printed_figure_is_known_to_half_of_its_last_digit() -> None:
    printed = read_message("Tried to allocate 1.00 GiB").asked
    assert Printed(text="1.00 GiB", least_bytes=1_068_373_115, most_bytes=1_079_110_533) == printed


def test_share_that_was_set_is_what_the_allocator_could_have_and_nothing_of_the_card_is_lacking() -> None:
    text = (
        "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 40.00 GiB is free. 60.00 GiB "
        "allowed; Of the allocated memory 37.00 GiB is allocated by PyTorch, and 21.50 GiB is reserved by PyTorch but "
        "unallocated."
    )
    message = read_message(text)
    assert (60 * 2**30, None) == (message.capacity_bytes, message.lacking_bytes)
    assert ["The process was allowed 60.00 GiB"] == [line[:33] for line in rest(message, settled=False)]


@pytest.mark.parametrize("figure", ["9" * 400, "0." + "9" * 400])
def test_figure_of_too_many_digits_is_no_figure(figure: str) -> None:
    with pytest.raises(InputError, match="Tried to allocate"):
        read_message(f"Tried to allocate {figure} GiB")
    assert read_startup(f"max_num_seqs ({'9' * 5_000}) exceeds available Mamba cache blocks (184)") is None


def test_own_process_that_a_container_calls_another_is_this_one() -> None:
    text = (
        "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.52 GiB of which 300.00 MiB is free. Process 3724 "
        "has 22.75 GiB memory in use. Of the allocated memory 21.99 GiB is allocated by PyTorch, and 300.00 MiB is "
        "reserved by PyTorch but unallocated."
    )
    message = read_message(text)
    assert message.process is not None
    assert ("22.75 GiB", ()) == (message.process.text, message.others)


def test_fragmentation_is_told_of_the_old_form_too() -> None:
    (line,) = rest(read_message(OLD.replace("20.00 MiB", "2.00 GiB")), settled=False)
    assert line.startswith("Fragmentation is not why: 2.10 GB (1.96 GiB) were lacking, and 0.48 GB (0.45 GiB) reserved")


def test_message_that_is_none_or_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="Tried to allocate"):
        read_message("Segmentation fault")
    with pytest.raises(InputError, match="50,000,001 characters"):
        read_message("x" * 50_000_001)


def first_two(message: str, models: tuple[str, ...] = FAMILY) -> list[tuple[str, int]]:
    """The names and tokens of the likeliest tensors."""
    return [(one.tensor.name, one.tokens) for one in config_tensors(models, read_message(message), None)][:2]


@pytest.mark.parametrize(
    ("asked", "tensor"),
    [
        ("30.31 GiB", ("logits of all tokens", 65_536)),
        ("60.62 GiB", ("logits of all tokens", 131_072)),
        ("15.16 GiB", ("logits of all tokens", 32_768)),
        ("15.16 GiB", ("logits of all tokens in float32, as a loss makes them", 16_384)),
        ("7.58 GiB", ("logits of all tokens", 16_384)),
        ("3.79 GiB", ("logits of all tokens in float32, as a loss makes them", 4_096)),
        ("2.37 GiB", ("embedding or head, in 16 bits", 0)),
        ("1.89 GiB", ("logits of all tokens", 4_096)),
    ],
)
def test_published_messages_are_about_the_tensor_that_was_found_afterwards(asked: str, tensor: tuple[str, int]) -> None:
    assert tensor in first_two(f"Tried to allocate {asked}")


def test_a_whole_published_message_names_the_logits_first() -> None:
    assert ("logits of all tokens", 65_536) == first_two(HATCHLING, ("qwen3.5-0.8b",))[0]


def test_one_size_in_two_models_is_one_candidate_with_both_names() -> None:
    (logits, *_) = config_tensors(FAMILY, read_message("Tried to allocate 7.58 GiB"), None)
    assert FAMILY == logits.models


def test_while_the_weights_are_loaded_only_weights_are_meant() -> None:
    text = "Tried to allocate 2.37 GiB. Of the allocated memory 28.00 GiB is allocated by PyTorch"
    found = config_tensors(("qwen3.5-27b",), read_message(text), None)
    assert {"weight"} == {one.tensor.kind for one in found}


def test_known_shape_finds_what_no_round_one_does() -> None:
    message = read_message("Tried to allocate 2.46 GiB")  # 5,317 × 248,320 × 2 B
    assert [] == [one for one in config_tensors(FAMILY, message, None) if one.tensor.kind == "tokens"]
    (found, *_) = config_tensors(FAMILY, message, (1, 5_317))
    assert ("logits of all tokens", 5_317, 2_640_634_880) == (found.tensor.name, found.tokens, found.bytes)


def test_random_sizes_are_seldom_a_tensor_of_a_model() -> None:
    choose = random.Random(4711)
    tensors = {"qwen3.5-27b": tensors_of(CONFIGS / "models" / "qwen3.5-27b.json")}
    sizes = [f"{choose.uniform(1, 60):.2f} GiB" for _ in range(500)]
    hits = [size for size in sizes if named(tensors, read_message(f"Tried to allocate {size}").asked, None)]
    assert len(hits) <= 20


@pytest.fixture
def other_config(tmp_path: Path) -> Path:
    """A mixture of experts, which nothing else here knows."""
    path = tmp_path / "config.json"
    fields = {"vocab_size": 151_936, "hidden_size": 2048, "num_attention_heads": 32, "num_experts": 128,
              "moe_intermediate_size": 768, "num_hidden_layers": 48}  # fmt: skip
    path.write_text(json.dumps({"model_type": "qwen3_moe", **fields}))
    return path


def test_config_of_any_model_has_tensors(other_config: Path) -> None:
    found = named({"moe": tensors_of(other_config)}, read_message("Tried to allocate 768.00 MiB").asked, None)
    assert "experts of a layer, gate and up, in 16 bits" == found[0].tensor.name
    assert 128 * 2 * 768 * 2048 * 2 == found[0].bytes


@pytest.mark.parametrize("text", ["[]", "{", '{"vocab_size": -1}', '{"hidden_size": 64}', '{"text_config": 3}'])
def test_config_without_sizes_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json(:1)?: "):
        tensors_of(path)


def found_for(stored: dict[str, str], shape: tuple[int, int] | None = None) -> list[Suspect]:
    """What a stored message is about, the model being known."""
    message = read_message(stored["message"])
    return suspects(LIBRARY, (stored["model"],), cards_printed(message)[0], message, shape)


@pytest.mark.parametrize("stored", STORED[3::25], ids=lambda s: f"{s['model']} {s['phase']} {s['context_tokens']}")
def test_messages_of_emulated_cards_name_the_line_that_failed_first(stored: dict[str, str]) -> None:
    found = found_for(stored)
    assert (stored["source"], True) == (found[0].origin.source, found[0].exact)


def test_known_shape_of_a_run_is_the_only_one_looked_at() -> None:
    stored = STORED[0]
    shape = int(stored["batch"]), int(stored["context_tokens"])
    assert {(stored["source"], (shape,))} == {(s.origin.source, s.shapes) for s in found_for(stored, shape)}
    assert [] == found_for(stored, (1, 1_000))


def test_memory_in_which_not_even_the_model_is_built_has_no_endings() -> None:
    text = (
        "Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1.60 GiB of which 0 bytes is free. Of the "
        "allocated memory 1.44 GiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated."
    )
    assert [] == suspects(LIBRARY, ("qwen3.5-0.8b",), None, read_message(text), None)


def test_planted_other_figure_names_no_request_exactly() -> None:
    stored = dict(STORED[0])
    stored["message"] = stored["message"].replace("10.35 MiB is reserved", "10.95 MiB is reserved")
    assert STORED[0] != stored
    shape = int(stored["batch"]), int(stored["context_tokens"])
    assert [False] == [suspect.exact for suspect in found_for(stored, shape)]


def oom(*arguments: object) -> Result:
    """The command."""
    return invoke("oom", *arguments)


def test_logits_are_answered_with_the_figure_of_the_last_row_alone() -> None:
    done = oom("--message", "Tried to allocate 30.31 GiB", "--model", "qwen3.5-0.8b")
    assert "496,640 B instead of 32,547,799,040" in " ".join(done.output.split())
    assert (0, "exit 0: logits of all tokens") == (done.exit_code, done.output.splitlines()[-1])


def test_published_message_of_a_real_card_is_the_head_of_a_prefill_without_a_cache() -> None:
    done = oom("--message", HATCHLING, "--model", "qwen3.5-0.8b")
    text = " ".join(done.output.split())
    assert 0 == done.exit_code
    assert "1. mm in lm_head (transformers/models/qwen3_5/modeling_qwen3_5.py:1716)" in text
    assert "prefill of qwen3.5-0.8b text-nocache-logits, batch 1 × context 65,536" in text
    assert "LOGITS=last, the last token's logits alone" in text
    assert "Fragmentation is not why: 9.53 GB (8.88 GiB) were lacking" in text
    assert "0.48 GB (0.45 GiB) lay outside the allocator" in text
    assert done.output.endswith("exit 0: mm in lm_head\n")


def test_prefill_is_answered_with_the_chunk_in_which_it_fits() -> None:
    stored = next(s for s in STORED if s["model"] == "qwen3.5-27b" and s["source"].endswith("chunk_o.py:565"))
    shape = ("--context", stored["context_tokens"], "--batch", stored["batch"])
    done = oom("--message", stored["message"], "--model", "qwen3.5-27b", *shape)
    text = " ".join(done.output.split())
    assert f"batch {stored['batch']:,} × context {stored['context_tokens']:,}" in text
    assert "A prefill in chunks of" in text or "No chunk down to" in text


@pytest.mark.parametrize(
    ("asked", "name"),
    [("170.00 MiB", "feed-forward matrix, in 16 bits"), ("2.37 GiB", "embedding or head, in 16 bits")],
)
def test_weight_that_finds_no_room_while_the_model_is_loaded_is_named_with_what_the_weights_take(
    asked: str, name: str
) -> None:
    text = (
        f"Tried to allocate {asked}. GPU 0 has a total capacity of 23.52 GiB of which 106.00 MiB is free. Including "
        "non-PyTorch memory, this process has 23.41 GiB memory in use. Of the allocated memory 22.93 GiB is allocated "
        "by PyTorch, and 19.84 MiB is reserved by PyTorch but unallocated."
    )
    done = oom("--message", text, "--model", "qwen3.5-27b")
    assert (0, f"exit 0: {name}") == (done.exit_code, done.output.splitlines()[-1])
    said = " ".join(done.output.split())
    assert "The weights of qwen3.5-27b, 54.71 GB (50.96 GiB), are more than the 24.75 GB (23.05 GiB)" in said


def test_model_of_another_family_is_asked_by_its_config(other_config: Path) -> None:
    done = oom("--message", HATCHLING.replace("30.31", "18.55"), "--model", other_config)
    assert (0, "exit 0: logits of all tokens") == (done.exit_code, done.output.splitlines()[-1])


def test_expandable_segments_are_tried_where_a_program_is_named() -> None:
    stored = next(s for s in STORED if s["model"] == "qwen3.5-27b" and s["source"].endswith("chunk_o.py:565"))
    shape = ("--context", stored["context_tokens"], "--batch", stored["batch"])
    text = " ".join(oom("--message", stored["message"], "--model", "qwen3.5-27b", *shape).output.split())
    assert "may have sufficed" not in text
    assert "ALLOCATOR=expandable_segments:True it fits" in text or "True it does not fit either" in text


def test_random_size_is_no_tensor_of_the_model() -> None:
    done = oom("--message", "Tried to allocate 5.37 GiB", "--model", "qwen3.5-27b")
    assert (4, "exit 4: no tensor of qwen3.5-27b has this size") == (done.exit_code, done.output.splitlines()[-1][:46])


def test_log_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"step 3\n{HATCHLING}\nstep 4\n"))
    found = json.loads(oom("--json", "--model", "qwen3.5-0.8b").stdout)
    assert ("rtx-4090", 65_536) == (found["card"], found["tensors"][0]["tokens"])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--message", "no"), 'MESSAGE has no "Tried to allocate …"'),
        (("--message", HATCHLING, "--model", "qwen9"), "no model is named 'qwen9'"),
        (("--message", HATCHLING, "--gpu", "rtx-1"), "no GPU is labelled 'rtx-1'"),
        (("--message", HATCHLING, "--batch", "2"), "give CONTEXT, too"),
        (("--message", HATCHLING, "--context", "many"), "context is a number of tokens"),
    ],
)
def test_wrong_input_is_one_line(arguments: tuple[str, ...], why: str) -> None:
    done = oom(*arguments)
    assert (2, 1, True) == (done.exit_code, len(done.output.splitlines()), why in done.output)


def test_nothing_on_standard_input_asks_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert "MESSAGE is missing" in oom().output


LONG = (
    "ValueError: To serve at least one request with the model's max seq len (262144), (16.17 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (8.67 GiB). Based on"
)


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (LONG, TooLong(context_tokens=262_144, needed=read_message("Tried to allocate 16.17 GiB").asked,
                       available=read_message("Tried to allocate 8.67 GiB").asked)),
        ("max_num_seqs (256) exceeds available Mamba cache blocks (184).", FewStates(sequences=256, blocks=184)),
        ("No available memory for the cache blocks.", NoPool(runtime="vllm", share=None, loaded=None, after=None)),
        ("Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.2",
         NoPool(runtime="sglang", share=0.2, loaded=None, after=None)),
        ("all is well", None),
    ],
)  # fmt: skip
def test_failures_of_a_server_s_start_are_read(text: str, failed: object) -> None:
    assert failed == read_startup(text)


def test_free_memory_of_a_server_s_start_is_read() -> None:
    found = read_startup(
        "Free memory on device cuda:0 (12.18/23.56 GiB) on startup is less than desired GPU memory utilization "
        "(0.92, 21.67 GiB)."
    )
    assert isinstance(found, NotFree)
    assert ("12.18 GiB", "23.56 GiB", 0.92) == (found.free.text, found.total.text, found.utilization)


def test_share_that_is_advised_for_sglang_is_the_least_in_which_a_request_is_sure_of_room() -> None:
    text = "Not enough memory. Please try to increase --mem-fraction-static."
    found = oom("--message", text, "--model", "qwen3.5-27b", "--gpu", "h100", "--json").stdout
    advised = json.loads(found)["helping"][0]
    share = advised.split(" from ")[1].split(" on ")[0]
    below = f"{float(share) - 0.01:.2f}"
    asked = ("predict", "--runtime", "sglang", "--gpu", "h100", "--context", 4096)
    assert [0, 4] == [invoke(*asked, "--utilization", one).exit_code for one in (share, below)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (LONG, ["262,144 tokens takes 17,366,515,712 B, 338 blocks of 51,380,224 B", "--max-model-len 139552: ",
                "--kv-cache-dtype fp8: 8.79 GB (8.18 GiB) for 262,144 tokens fits."]),
        ("max_num_seqs (256) exceeds available Mamba cache blocks (184).",
         ["184 blocks of 51,380,224 B are a pool of 9.45 GB (8.80 GiB)", "--max-num-seqs 184 or less."]),
        ("Free memory on device cuda:0 (12.18/23.56 GiB) on startup is less than desired GPU memory utilization "
         "(0.92, 21.67 GiB).", ["--gpu-memory-utilization 0.51 or less"]),
        ("No available memory for the cache blocks", ["weights 54.71 GB", "--gpu-memory-utilization from 0."]),
        ("Load weight end. type=X, avail mem=21.73 GB, mem usage=56.59 GB. … Not enough memory. Please try to increase "
         "--mem-fraction-static", ["--mem-fraction-static above 0.73"]),
    ],
)  # fmt: skip
def test_server_that_did_not_start_is_answered_with_figures(text: str, lines: list[str]) -> None:
    done = oom("--message", text, "--model", "qwen3.5-27b", "--gpu", "a100-80gb")
    said = " ".join(done.output.split())
    assert (0, []) == (done.exit_code, [line for line in lines if line not in said])


def test_server_s_figure_of_no_model_is_said_to_be_none() -> None:
    done = oom("--message", LONG.replace("16.17", "16.51"), "--model", "qwen3.5-27b")
    assert (4, "exit 4: no model here fits that") == (done.exit_code, done.output.splitlines()[-1][:31])
