"""The commands predict, capacity and held-out, as people run them."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from tests.conftest import CONFIGS, ROOT
from tests.invoked import Result, invoke
from vram_ledger.analysis.derivation.derived import Derived, derived_key
from vram_ledger.analysis.derivation.derived_files import named_formula
from vram_ledger.analysis.derivation.solved import NotDerived
from vram_ledger.harness.emulation.wheel import NoEmulation
from vram_ledger.harness.records import Configuration, Phase


def run(command: str, *arguments: object) -> Result:
    """A command; of what is not derived yet nothing is."""
    return invoke(command, *arguments, *(["--symbols"] if command in ("predict", "capacity") else []))


def test_prefill_that_does_not_fit_says_which_request_fails_and_in_which_chunks_it_fits() -> None:
    done = run("predict", "--gpu", "a100-80gb", "--memory", "79.1GiB", "--context", 131_072, "--variant", "text")
    assert 1 == done.exit_code
    *_, card, failed, verdict, chunks, _which_releases, last = done.output.splitlines()
    assert "a100-80gb has 84.93 GB (79.10 GiB), as given" == card
    assert failed.startswith(
        "out of memory in empty_like in model.layers.*.linear_attn (fla/ops/common/chunk_o.py:565): "
        "tried to allocate 1.50 GiB, "
    )
    assert ("does not fit", "exit 1: does not fit") == (verdict, last)
    assert chunks.startswith("A prefill in chunks of 8,192 fits: ")


def test_table_goes_on_from_requested_to_what_nvidia_smi_shows() -> None:
    text = run("predict", "--gpu", "a100-80gb", "--context", 131_072, "--chunk", 2048, "--variant", "text").stdout
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    names = ["workspace", "requested", "allocated", "reserved", "outside the allocator", "process"]
    assert names == [name for name in rows if name in names]
    assert "torch.cuda.max_memory_reserved()" in rows["reserved"]
    assert "0.000 to 1.000   assumed: not measured on this GPU" in rows["outside the allocator"]
    assert "what nvidia-smi shows" in rows["process"]


def test_full_card_says_how_often_the_cache_was_given_back() -> None:
    done = run("predict", "--gpu", "a100-80gb", "--context", 110_000, "--json")
    found = json.loads(done.output)
    assert (4, True) == (done.exit_code, found["retries"] > 0)
    text = run("predict", "--gpu", "a100-80gb", "--context", 110_000).output
    times = "once" if found["retries"] == 1 else f"{found['retries']} times"
    assert f"given back {times}" in " ".join(text.split())


def test_prefill_that_fits_in_no_chunk_says_so() -> None:
    done = run("predict", "--gpu", "a100-80gb", "--batch", 64, "--context", 8192)
    assert "No chunk down to 512 " in done.output


def test_weights_that_exceed_the_card_are_all_that_is_said() -> None:
    done = run("predict", "--gpu", "rtx-4090", "--context", 8192)
    assert "The weights alone, 54.71 GB (50.96 GiB), are more than the card has. Quantised weights" in done.output
    assert "The smallest cards here that may hold it: " in done.output
    assert "chunk" not in done.output


def test_smaller_chunk_is_named_where_the_given_one_does_not_fit() -> None:
    done = run(
        "predict", "--gpu", "a100-80gb", "--batch", 32, "--context", 4096, "--chunk", 2048, "--memory", "79.1GiB"
    )
    assert "A prefill in chunks of 1,024 fits: " in done.output


def test_answer_stands_where_nothing_is_known_of_chunks() -> None:
    done = run("predict", "--variant", "text-logits", "--gpu", "a100-80gb", "--context", 131_072)
    assert (1, True) == (done.exit_code, "a100-80gb has " in done.output)
    assert "Whether a prefill in chunks fits is not known: " in done.output


def test_expandable_segments_hold_what_the_default_does_not() -> None:
    asked = ("predict", "--gpu", "a100-80gb", "--context", 111_000, "--free", "409MiB")
    one, other = run(*asked), run(*asked, "--allocator", "expandable_segments:True")
    assert (1, 0) == (one.exit_code, other.exit_code)
    assert "With ALLOCATOR=expandable_segments:True it fits: 81.92 GB (76.30 GiB)." in one.stdout
    assert "With ALLOCATOR" not in other.stdout


@pytest.mark.parametrize(
    "settings", ["garbage_collection_threshold:0.8", "max_split_size_mb:128", "backend:cudaMallocAsync"]
)
def test_settings_of_the_allocator_that_are_not_modelled_are_refused_by_name(settings: str) -> None:
    done = run("predict", "--gpu", "a100-80gb", "--allocator", settings)
    assert (2, True) == (done.exit_code, f"allocator setting {settings!r}" in done.stderr)


def test_classes_stand_side_by_side_where_none_was_chosen() -> None:
    both = run("predict", "--gpu", "h200", "--context", 8192)
    one = run("predict", "--gpu", "h200", "--context", 8192, "--variant", "text")
    rows = {line[:22].strip(): line.split() for line in both.stdout.splitlines() if line[:22].strip()}
    alone = {line[:22].strip(): line.split() for line in one.stdout.splitlines() if line[:22].strip()}
    for name in ("weights", "requested", "allocated", "reserved"):
        assert alone[name][3] == rows[name][3]
    assert "text, GiB" in both.stdout
    assert "text, GiB" not in one.stdout
    assert "VARIANT=text, without the vision tower: " in both.stdout
    assert "0.92 GB (0.86 GiB) less at the peak: it fits." in both.stdout


def test_json_has_the_text_class_where_none_was_chosen() -> None:
    both = json.loads(run("predict", "--gpu", "h100", "--json").output)
    text = json.loads(run("predict", "--gpu", "h100", "--variant", "text", "--json").output)
    assert {name: text[name] for name in both["text_class"]} == both["text_class"]
    assert text["text_class"] is None


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        (("--kernels", "torch"), "text-reference"),
        (("--kernels", "reference"), "text-reference"),
        (("--logits", "all"), "text-logits"),
        (("--logits", "loss"), "text-loss"),
        (("--cache", "static"), "text-static"),
        (("--cache", "none"), "text-nocache"),
        (("--cache", "second"), "text-second"),
        (("--dtype", "fp16"), "text-float16"),
        (("--dtype", "FP32"), "text-float32"),
    ],
)
def test_option_and_the_variant_s_name_are_one_question(options: tuple[str, ...], variant: str) -> None:
    asked = ("predict", "--context", 8192, "--json")
    one = json.loads(run(*asked, "--variant", variant).output)
    other = json.loads(run(*asked, "--variant", "text", *options).output)
    assert one == other
    assert "derived from the program" == one["basis"]


@pytest.mark.parametrize(
    ("variant", "line"),
    [
        ("text-logits", "LOGITS=last, the last token's logits alone, all that generating needs: "),
        ("text-reference", "KERNELS=fla, the kernels of flash-linear-attention instead of transformers' reference: "),
        ("text-second", "CACHE=dynamic, the other generation's cache let go of before: "),
        ("text-float32", "DTYPE=bfloat16, in 16 bits: "),
    ],
)
def test_what_another_choice_would_take_is_said_with_its_figure(variant: str, line: str) -> None:
    asked = ("predict", "--context", 8192, "--json")
    here, other = (json.loads(run(*asked, "--variant", v).output) for v in (variant, "text"))
    (advice,) = here["advice"]
    less = here["requested_bytes"] - other["requested_bytes"]
    assert advice.startswith(line)
    assert f"{less / 10**9:,.2f} GB ({less / 2**30:,.2f} GiB) less at the peak." in advice


PUBLISHED = ("predict", "--model", "qwen3.5-0.8b", "--gpu", "rtx-4090", "--variant", "text-nocache-logits", "--json")


@pytest.mark.parametrize(
    ("context", "allocated_bytes"), [(128, 1_602_327_552), (2048, 2_559_823_872), (16_384, 9_709_129_728)]
)
def test_prefill_without_a_cache_is_what_a_real_card_printed(context: int, allocated_bytes: int) -> None:
    # IshaanGubbala/HatchlingZero, results/local/hz0h_qwen35_decode_benchmark.json: max_memory_allocated, in bytes
    assert allocated_bytes == json.loads(run(*PUBLISHED, "--context", context).output)["allocated_bytes"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--variant", "text-reference", "--kernels", "fla"), "VARIANT=text-reference (reference) and KERNELS=fla"),
        (("--variant", "text-logits", "--logits", "last"), "VARIANT=text-logits (logits) and LOGITS=last"),
        (("--variant", "text-static-nocache"), "'static' and 'nocache'"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(options: tuple[str, ...], words: str) -> None:
    done = run("predict", *options)
    assert (2, True) == (done.exit_code, f"{words} contradict each other" in done.output)


@pytest.mark.parametrize(("context", "asked", "allocated"), [(65_536, "30.31", "1.56"), (131_072, "60.62", "1.68")])
def test_message_of_a_real_card_that_ran_out_is_foretold(context: int, asked: str, allocated: str) -> None:
    failure = json.loads(run(*PUBLISHED, "--context", context).output)["failed"]["failure"]
    assert asked == f"{failure['asked_bytes'] / 2**30:.2f}"  # from the same file
    assert allocated == f"{failure['held']['allocated_bytes'] / 2**30:.2f}"


def test_weights_that_exceed_the_card_in_32_bits_are_told_what_16_take() -> None:
    done = run("predict", "--gpu", "a100-80gb", "--variant", "text-float32")
    assert "DTYPE=bfloat16, in 16 bits: " in done.stdout
    assert "The weights alone, 107.58 GB (100.20 GiB), are more than the card has." in done.stdout


def test_decode_names_the_prefill_before_it() -> None:
    done = run("predict", "--gpu", "h200", "--phase", "decode", "--context", 262_144, "--batch", 4)
    assert "The prefill that it follows, in a single shot: " in done.output
    assert "does not fit" in done.output


def test_json_is_one_object_with_terms_that_add_up() -> None:
    data = json.loads(run("predict", "--gpu", "h100", "--variant", "text", "--json").output)
    assert ("fits", None, 0) == (data["verdict"], data["failed"], data["retries"])
    assert data["requested_bytes"] == sum(term["most_bytes"] for term in data["terms"])
    assert data["requested_bytes"] < data["allocated_bytes"] < data["reserved_bytes"]


def test_json_of_what_does_not_fit_names_the_request() -> None:
    data = json.loads(run("predict", "--gpu", "rtx-4090", "--json").output)
    assert ("does not fit", "build") == (data["verdict"], data["failed"]["during"])
    assert data["failed"]["failure"]["asked_bytes"] > data["failed"]["failure"]["free_bytes"]


def test_capacity_as_json_has_both_phases() -> None:
    data = json.loads(run("capacity", "--gpu", "h200", "--json").output)
    assert ["prefill", "decode"] == [frontier["phase"] for frontier in data]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--phase", "both"), 2, "neither prefill nor decode"),
        (("--gpu", "a100"), 2, "a100-40gb or a100-80gb"),
        (("--memory", "80GiB"), 2, "name the GPU"),
        (("--gpu", "h200", "--free", "much"), 2, "not an amount"),
        (("--model", "nope"), 2, "known are"),
        (("--model", "/nowhere/config.json"), 2, "No such file"),
        (("--variant", "odd"), 2, "variant 'odd"),
        (("--kernels", "triton"), 2, "kernels is fla or torch; got 'triton'"),
        (("--logits", "none"), 2, "logits is last, all or loss; got 'none'"),
        (("--cache", "2"), 2, "cache is dynamic, static, none or second; got '2'"),
        (("--dtype", "int8"), 2, "dtype is bfloat16, float16 or float32; got 'int8'"),
        (("--cache", "none", "--phase", "decode"), 2, "without a cache there is no decode step"),
        (("--kernels", "torch", "--context", "64k"), 4, "is derived for up to 1,024 sequences of up to 32,768 tokens"),
        (("--logits", "all", "--variant", "text", "--chunk", "2048"), 4, "in chunks there is none of it"),
        (("--gpu", "h200", "--memory", "0GiB"), 2, "not an amount"),
        (("--transformers", "9.9.9"), 4, "nothing stored of transformers 9.9.9"),
        (("--gpu", "t4", "--chunk", "1001"), 4, "chunks of a multiple of 8 tokens"),
        (
            ("--variant", "default-float32", "--chunk", "2048"),
            4,
            "make derive MODEL=qwen3.5-27b VARIANT=default-float32)",
        ),
        (("--variant", "default-eager"), 4, "make derive MODEL=qwen3.5-27b VARIANT=default-eager"),
    ],
)
def test_bad_questions_are_refused_in_one_line(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run("predict", *arguments)
    assert code == done.exit_code
    assert message in done.stderr
    assert 1 == len(done.stderr.strip().splitlines())


def test_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    done = run("predict", "--model", tmp_path)
    assert 2 == done.exit_code
    assert "config.json:1: not JSON" in done.stderr


def test_answer_comes_within_a_second_without_torch() -> None:
    program = (
        "import sys; from vram_ledger.cli import run\n"
        "run(['predict', '--gpu', 'h200'])\n"
        "print(sorted({'torch', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # the second has its files in memory
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = getrusage(RUSAGE_CHILDREN)
    assert "[]" == done.stderr.strip()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (("--gpu", "h200"), 0, "exit 0: fits"),
        ((), 0, "exit 0: predicted"),
        (("--gpu", "rtx-4090"), 1, "exit 1: does not fit"),
        (("--gpu", "a100-80gb", "--context", "110000"), 4, "exit 4: within the margin"),
    ],
)
def test_exit_code_tells_whether_it_fits(arguments: tuple[str, ...], code: int, last: str) -> None:
    done = run("predict", *arguments)
    assert (code, last) == (done.exit_code, done.stdout.splitlines()[-1])
    assert code == run("predict", *arguments, "--json").exit_code


def test_defaults_are_named_as_such() -> None:
    assert "prefill (default), batch 1 (default), context 4,096 tokens (default)" in run("predict").output
    asked = run("predict", "--phase", "prefill", "--batch", 2, "--context", 4096).output
    assert "prefill, batch 2, context 4,096 tokens\n" in asked


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("RTX-4090", "rtx-4090"),
        ("rtx 4090", "rtx-4090"),
        ("RTX_4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("H200", "h200"),
        ("NVIDIA H200", "h200"),
        ("rtx4090", "rtx-4090"),
    ],
)
def test_card_is_known_as_people_write_it(written: str, label: str) -> None:
    assert f"\n{label} has " in run("predict", "--gpu", written).output


@pytest.mark.parametrize("written", ["Qwen/Qwen3.5-9B", "Qwen3.5-9B", "qwen3.5-9b", "QWEN3.5-9B"])
def test_model_is_known_as_people_write_it(written: str) -> None:
    assert run("predict", "--model", written).output.startswith("qwen3.5-9b · ")


@pytest.mark.parametrize("written", ["131072", "131,072", "131_072", "128k", "128K", "128Ki", " 128k ", "0.125M"])
def test_context_is_read_as_people_write_it(written: str) -> None:
    assert ", context 131,072 tokens\n" in run("predict", "--context", written).output


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--context", text) for text in ("-1", "0", "abc", "1e5", "1" + "0" * 30, "12,34", "nan", "1.5", "٣", "0k")),
        *(("--batch", text) for text in ("-1", "0", "abc", "1.5", "1" + "0" * 30, "65537", "²")),
        *(("--chunk", text) for text in ("-8", "abc", "1.5")),
        ("--context", "262145"),
        ("--context", "300000", "--phase", "decode"),
        ("--gpu", "h2000"),
        ("--model", "qwen3.5-27"),
        ("--phase", "train"),
        ("--nothing", "1"),
    ],
    ids=" ".join,
)
def test_question_that_is_not_understood_is_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    done = run("predict", *arguments)
    assert (2, "") == (done.exit_code, done.stdout)
    assert done.stderr.startswith("exit 2: bad input: ")
    assert 1 == done.stderr.count("\n")


@pytest.mark.parametrize(("written", "near"), [("h2000", "h200"), ("rtx409", "rtx-4090"), ("a100-80", "a100-80gb")])
def test_nearest_card_is_named(written: str, near: str) -> None:
    assert near in run("predict", "--gpu", written).stderr


def changed(folder: Path, **fields: object) -> Path:
    """The 27B's config with other fields; those of text_config are given as text_NAME."""
    config = json.loads((CONFIGS / "models" / "qwen3.5-27b.json").read_text(encoding="utf-8"))
    for name, value in fields.items():
        section = config["text_config"] if name.startswith("text_") else config
        section[name.removeprefix("text_")] = value
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def test_weights_are_those_of_the_config_s_dtype(tmp_path: Path) -> None:
    half = run("predict", "--model", changed(tmp_path, dtype="float16", text_dtype="float16"), "--json")
    assert (0, "float16") == (half.exit_code, json.loads(half.output)["workload"]["configuration"]["dtype"])
    full = run("predict", "--model", changed(tmp_path, dtype="float32", text_dtype="float32"), "--gpu", "h200")
    assert (4, True) == (full.exit_code, "VARIANT=default-float32" in full.stderr)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text_dtype": "float8_e4m3fn"}, "text_config.dtype is 'float8_e4m3fn'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"torch_dtype": "float32"}, "they contradict each other"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"text_num_key_value_heads": 7}, "text_config.num_attention_heads is 24, not a multiple of"),
        ({"text_linear_num_key_heads": 7}, "text_config.linear_num_value_heads is 48, not a multiple of"),
        ({"text_hidden_size": 10**30}, "text_config.hidden_size must be a positive integer of at most 10,000,000"),
        ({"text_vocab_size": 10**100}, "got a number of more than 60 digits"),
        ({"text_head_dim": -256}, "text_config.head_dim must be a positive integer"),
        (
            {"text_layer_types": None, "text_num_hidden_layers": 10**6},
            "is 1,000,000, more than 10,000",
        ),
        ({"text_max_position_embeddings": "long"}, "max_position_embeddings must be a positive integer"),
        ({"text_config": []}, "text_config must be an object"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"text_hidden_size": 4096}, "vision_config.out_hidden_size is 5120, but text_config.hidden_size 4096"),
        ({"text_head_dim": 10_000_000}, "text_config.head_dim is 10,000,000, more than 4,096"),
        ({"text_rope_parameters": {"rope_type": "yarn", "factor": 0}}, "the rope's factor must be 1 to 1,024, got 0"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_config_that_cannot_be_is_refused_naming_the_field(
    fields: dict[str, object], said: str, tmp_path: Path
) -> None:
    if "text_config" in fields:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model_type": "qwen3_5", **fields}), encoding="utf-8")
    else:
        path = changed(tmp_path, **fields)
    done = run("predict", "--model", path, "--gpu", "h200")
    assert 2 == done.exit_code
    assert said in done.stderr


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe{\x00}\x00", b"[" * 100_000 + b"]" * 100_000, b"\x00" * 64, b"9" * 10_000, b'{"a": ' * 50_000],
    ids=["empty", "UTF-16", "nested", "NULs", "digits", "cut"],
)
def test_file_that_is_no_config_is_bad_input(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    done = run("predict", "--model", path)
    assert (2, 1) == (done.exit_code, done.stderr.count("\n"))


def test_config_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = changed(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert 0 == run("predict", "--model", path).exit_code


def test_context_beyond_the_model_is_refused_naming_the_limit(tmp_path: Path) -> None:
    said = "context is 300,000 tokens, but qwen3.5-27b.json ends at 262,144 (max_position_embeddings)"
    assert said in run("predict", "--context", 300_000).stderr
    scaled = changed(tmp_path, text_rope_parameters={"rope_type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.25})
    assert 0 == run("predict", "--model", scaled, "--context", 300_000).exit_code


def test_capacity_of_a_card_that_cannot_hold_the_weights_says_so_and_no_more() -> None:
    done = run("capacity", "--gpu", "rtx-4090")
    assert (1, 2) == (done.exit_code, len(done.stdout.splitlines()))
    assert "The weights alone, 54.71 GB (50.96 GiB), are more than the card has." in done.output


def test_capacity_says_where_a_prompt_has_to_be_fed_in_chunks() -> None:
    assert "its prompt has to be fed in chunks" in run("capacity", "--gpu", "a100-80gb").output


def test_capacity_without_a_card_is_refused() -> None:
    assert (2, True) == ((done := run("capacity")).exit_code, "name the GPU" in done.stderr)


@pytest.mark.parametrize(
    "amount", ["9" * 400 + "GiB", "1" + "0" * 30 + "GiB", "0GiB", "-1GiB", "79.1", "79,1GiB", "inf GiB"]
)
def test_memory_that_no_card_has_is_refused(amount: str) -> None:
    done = run("predict", "--gpu", "a100-80gb", f"--memory={amount}")
    assert (2, True) == (done.exit_code, "is not an amount of memory" in done.stderr)


@pytest.mark.parametrize("amount", ["81002MiB", "81,002 MiB", "81002 mib", "79.1 gib", "84.9GB"])
def test_memory_is_read_as_people_write_it(amount: str) -> None:
    assert ", as given\n" in run("predict", "--gpu", "a100-80gb", "--memory", amount).output


def test_capacity_of_which_nothing_is_sure_says_so() -> None:
    done = run("capacity", "--gpu", "h200", "--memory", "51.5GiB")
    assert (4, "exit 4: nothing is sure to fit") == (done.exit_code, done.stdout.splitlines()[-1])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config that no program is stored of, asked about in an empty folder."""
    (tmp_path / "own").mkdir()
    path = changed(tmp_path / "own", text_intermediate_size=4096)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vram_ledger.commands.questions.RUNS", tmp_path / "runs")
    monkeypatch.setattr("vram_ledger.analysis.predicting.library.RUNS", tmp_path / "runs")
    return path


def stood_in(path: Path, configuration: Configuration, phase: Phase, card: str) -> Derived:
    """A stored program by another name, as if it had been derived of a config."""
    found = named_formula(f"qwen3.5-27b default {phase} 5.24.0 emulated-{card}", "FILE")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    environment = dataclasses.replace(found.environment, config_sha256=digest)
    key = derived_key(environment, configuration, phase, found.kernels)
    return dataclasses.replace(found, configuration=configuration, environment=environment, key=key)


def test_config_that_is_not_derived_yet_is_derived_once_and_said_to_be(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def derived_of(path: Path, configuration: Configuration, phase: Phase, card: str) -> Derived:
        asked.append((phase, card))
        return stood_in(path, configuration, phase, card)

    monkeypatch.setattr("vram_ledger.commands.derive.derived_of", derived_of)
    first, second = (invoke("predict", "--model", own, "--gpu", "rtx-4090") for _ in range(2))
    assert [("prefill", "a100-80gb")] == asked
    assert "deriving its program on an emulated a100-80gb, once" in first.stderr
    assert ("", True) == (second.stderr, "derived from the program: " in second.stdout)
    assert first.stdout == second.stdout


def test_program_of_another_config_of_the_same_name_is_not_used(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vram_ledger.commands.derive.derived_of", stood_in)
    assert "derived from the program: " in invoke("predict", "--model", own).stdout
    changed(own.parent, text_intermediate_size=8192)
    assert "formula only: " in run("predict", "--model", own).stdout


def test_what_can_not_be_derived_is_answered_in_symbols_and_says_why(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> Derived:
        raise NotDerived("its loops have no end")

    monkeypatch.setattr("vram_ledger.commands.derive.derived_of", refused)
    done = invoke("predict", "--model", own)
    assert (0, True) == (done.exit_code, "formula only: " in done.stdout)
    assert "can't be derived: its loops have no end" in done.stderr


def test_without_a_cuda_build_of_pytorch_it_is_answered_in_symbols_and_said(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise NoEmulation("there is no PyTorch")

    monkeypatch.setattr("vram_ledger.harness.emulation.wheel.find_wheel", missing)
    done = invoke("predict", "--model", own)
    assert "formula only: " in done.stdout
    assert "no program of it is derived yet, and none can be here (there is no PyTorch)" in done.stderr
