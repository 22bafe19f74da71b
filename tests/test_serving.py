"""Servers: every formula against the figure that a log printed, checkpoints' headers, what a request takes."""

import dataclasses
import functools
import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS
from vram_ledger.analysis.formula.config import ConfigError, read_shapes
from vram_ledger.analysis.ground.cards import Card
from vram_ledger.analysis.ground.figures import Figure, FromRuntime
from vram_ledger.analysis.ground.printed import Range
from vram_ledger.analysis.serving import gguf, llama_cpp, sglang, vllm
from vram_ledger.analysis.serving.checkpoint import CheckpointError, part_of, read_stored
from vram_ledger.analysis.serving.held import printed_pool, said
from vram_ledger.analysis.serving.loading import loaded_bytes
from vram_ledger.analysis.serving.logs import NO_FORMULA, activation, logs_of, planned, published, seen
from vram_ledger.analysis.serving.model import Served, read_served
from vram_ledger.analysis.serving.plan import Asked, Limit, Plan, ServingError, Span, exactly
from vram_ledger.errors import InputError

MODELS = CONFIGS / "models"
GIB = 2**30
HELD = tuple(figure for figure in published() if isinstance(figure.answer, FromRuntime))
PLAIN = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
    "max_position_embeddings": 40_960,
    "torch_dtype": "bfloat16",
}


def served(model: str = "qwen3.5-27b") -> Served:
    return read_served(MODELS / f"{model}.json", model)


def asked(model: str = "qwen3.5-27b", **options: Any) -> Asked:
    return Asked(**{"text": True, "context_tokens": 4096, "model": served(model), **options})


def card(gib: float) -> Card:
    return Card(label="a-card", least_bytes=int(gib * GIB), most_bytes=int(gib * GIB), source="test")


def named(plan: Plan, name: str) -> Any:
    every: tuple[Any, ...] = (*plan.terms, *plan.requests, *plan.figures)
    return next(one for one in every if one.name == name)


def written(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("figure", HELD, ids=lambda figure: figure.name)
def test_a_figure_three_hundredths_larger_would_not_be_held(figure: Figure) -> None:
    assert isinstance(figure.answer, FromRuntime)
    printed, found = figure.printed, said(figure.answer, served(figure.answer.model))
    larger = printed.value * Fraction(103, 100) + 4 * printed.half + printed.scale * (printed.half == 0)
    assert (True, False) == (
        printed.range.meets(found),
        Range(least=larger - printed.half, most=larger + printed.half).meets(found),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"n_linear": 47},
        {"state_elements": 48 * 128 * 64},
        {"conv_width": 5},
        {"kv_heads": 8},
        {"rotary_rows": 262_144},
    ],
    ids=str,
)
def test_a_wrong_size_is_found_by_some_figure(change: dict[str, Any]) -> None:
    wrong = dataclasses.replace(served(), **change)
    own = [(f, f.answer) for f in HELD if isinstance(f.answer, FromRuntime) and f.answer.model == wrong.name]
    assert [figure.name for figure, answer in own if not figure.printed.range.meets(said(answer, wrong))]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"runtime": "ollama"}, "none of vllm, sglang, llama.cpp"),
        ({"term": "blocks"}, "none of vllm's: block, .*weights, .*padding; with pool there are more"),
        ({"runtime": "sglang", "pool": "9 tokens"}, "sglang has one in bytes"),
        ({"kv_type": "int3"}, "known here are auto"),
        ({"cards": 0}, "cards is from 1 to"),
        ({"drafts": 10**12}, "drafts is from 0 to"),
        ({"pool": "much"}, "no figure with a unit"),
    ],
)
def test_a_term_that_there_is_not_is_refused_with_those_that_there_are(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        said(FromRuntime(**{"runtime": "vllm", "term": "none", "model": "qwen3.5-27b", **fields}), served())


def test_a_pool_in_tokens_is_the_fewest_whole_blocks_that_have_so_many() -> None:
    own = FromRuntime(runtime="vllm", term="blocks", model="qwen3.5-27b", context=32_768, pool="262,872 tokens")
    assert Range(least=Fraction(361), most=Fraction(361)) == said(own, served())


def test_drafts_make_a_block_of_17_pages_and_16_would_not_give_what_was_printed() -> None:
    """noonghunna/club-3090#642: 2.38 times 262,144 tokens, of 11.05 GiB on each of two cards, three drafts."""
    blocks, pool = vllm.blocks_of(served(), vllm.FP8, drafts=3, cards=2), printed_pool("11.05GiB")
    request = blocks.request(262_144, True, 3)
    most = {pages: f"{pool.most // (pages * blocks.page_bytes) / request:.2f}" for pages in (16, 17)}
    assert {16: "2.53", 17: "2.38"} == most


@pytest.mark.parametrize(
    ("model", "text", "bytes_"),
    [
        ("qwen3.5-27b", True, 53_928_396_800),
        ("qwen3.5-27b", False, 54_862_942_208),
        ("qwen3.5-9b", True, 18_041_868_288),
    ],
)
def test_loading_takes_what_the_stock_vllm_0_20_1_counted_on_an_emulated_card(
    model: str, text: bool, bytes_: int
) -> None:
    found = served(model)
    assert found.shapes is not None
    assert bytes_ == loaded_bytes(found.shapes, text, 2, found.rotary_rows)


def test_the_rotary_table_of_the_27b_has_four_times_as_many_rows_as_positions() -> None:
    assert (134_217_728, 1_048_576) == (vllm.rotary_bytes(served()), served().rotary_rows)


def test_the_27b_s_blocks_are_784_tokens_of_16_pages() -> None:
    blocks = vllm.blocks_of(served())
    assert (784, 3_211_264, 3_207_168, 51_380_224) == (
        blocks.tokens,
        blocks.page_bytes,
        blocks.state_page_bytes,
        blocks.bytes,
    )


@pytest.mark.parametrize(
    ("caching", "drafts", "blocks"), [(False, 0, 6 + 3), (True, 0, 6 + 6), (False, 2, 6 + 9), (True, 3, 6 + 15)]
)
def test_a_request_takes_a_block_for_every_copy_of_each_group_of_states(
    caching: bool, drafts: int, blocks: int
) -> None:
    assert blocks == vllm.blocks_of(served(), drafts=drafts).request(4096, caching, drafts)


def test_drafting_adds_the_mtp_layer_to_the_groups_and_a_column_for_each_draft() -> None:
    alone, drafting = vllm.blocks_of(served()), vllm.blocks_of(served(), drafts=3)
    assert (16, 17, 3 * 10_240 * 2) == (
        alone.layers,
        drafting.layers,
        drafting.state_page_bytes - alone.state_page_bytes,
    )


def test_a_cache_of_8_bits_has_blocks_twice_as_long_and_no_larger() -> None:
    half = vllm.blocks_of(served(), vllm.FP8)
    assert (1568, 51_380_224) == (half.tokens, half.bytes)


@pytest.mark.parametrize(
    ("version", "caching", "flashinfer", "tokens", "copies"),
    [
        ("0.33.0", True, True, 832, 3),
        ("0.33.0", True, False, 784, 2),
        ("0.33.0", False, True, 784, 1),
        ("0.20.1", True, True, 784, 2),
    ],
)
def test_flashinfer_s_prefill_makes_longer_blocks_and_a_third_copy(
    version: str, caching: bool, flashinfer: bool, tokens: int, copies: int
) -> None:
    blocks, kept = vllm.blocks_as_run(served(), version, caching, flashinfer)
    assert (tokens, copies, tokens * 65_536) == (blocks.tokens, kept, blocks.bytes)


@pytest.mark.parametrize("caching", [None, True, False])
def test_a_plan_says_that_flashinfer_s_third_copy_is_not_counted(caching: bool | None) -> None:
    notes = vllm.plan(asked(prefix_caching=caching)).notes
    assert (caching is not False) == any("three times, in blocks of a multiple of 64" in note for note in notes)


def test_rounding_is_not_told_of_layers_in_no_regular_order(tmp_path: Path) -> None:
    config = json.loads((MODELS / "qwen3.5-0.8b.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    kinds = text["layer_types"]
    full = [kind == "full_attention" for kind in kinds].index(True)
    for change, there in ((kinds, True), ([*kinds[full:], *kinds[:full]], False)):
        text["layer_types"] = change
        model = read_served(written(tmp_path, "config.json", config), "x")
        plan = vllm.plan(dataclasses.replace(asked(), model=model))
        assert there == any(term.name == "rounding" for term in plan.terms)


def test_a_model_without_a_longest_context_has_its_rotary_table_said_to_be_missing(tmp_path: Path) -> None:
    content = {name: value for name, value in PLAIN.items() if name != "max_position_embeddings"}
    model = read_served(written(tmp_path, "config.json", content), "x")
    table = named(vllm.plan(dataclasses.replace(asked(), model=model)), "rotary table")
    assert (0, True) == (table.most_bytes, "no max_position_embeddings" in table.source)


def test_one_block_is_vllm_s_own_and_no_request_s() -> None:
    plan = vllm.plan(asked(pool=exactly(9 * 51_380_224)))
    assert (False, True) == (plan.fits(1, 4096, sure=False), plan.fits(1, 3920, sure=True))


def test_the_pool_of_a_card_is_its_share_less_what_is_loaded_and_what_logs_leave_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm, "planned", list)
    plan = vllm.plan(asked(card=card(80), utilization=Fraction(9, 10)))
    pool, loaded = named(plan, "pool"), 53_928_396_800
    beside = [seen(quantity)[0] for quantity in NO_FORMULA]
    most = int(72 * GIB) - sum(t.least_bytes for t in plan.terms if t.name in ("weights", "rotary table", "rounding"))
    assert 0 <= abs(most - (72 * GIB - loaded)) < 2**20
    shorter = 3 * 134_217_728 // 4
    assert (most - beside[0].least - beside[1].least + shorter, most - sum(b.most for b in beside)) == (
        pool.most_bytes,
        pool.least_bytes,
    )


def test_a_slot_of_sglang_is_the_matrices_and_three_columns() -> None:
    assert (153_944_064, 150_994_944, 2_949_120) == (
        sglang.state_bytes(served()),
        sglang.ssm_bytes(served()),
        sglang.conv_bytes(served()),
    )


def test_sglang_gives_nine_nineteenths_to_states_and_the_rest_to_tokens() -> None:
    state, token = 153_944_064, 65_536
    slots, tokens = sglang.split(exactly(19 * state), state, token, sglang.RATIO)
    assert (Span(least=8, most=9), exactly(10 * state // token)) == (slots, tokens)


def test_sglang_s_requests_are_its_slots_by_five_or_one_without_its_radix_cache() -> None:
    pool = exactly(38 * 153_944_064)
    with_cache, without = (sglang.plan(asked(pool=pool, prefix_caching=kept)) for kept in (None, False))
    assert (3, 18) == (named(with_cache, "running requests").most, named(without, "running requests").most)


@pytest.mark.parametrize(("gib", "fraction"), [(79.11, "0.834"), (23.52, "0.844"), (139.8, "0.906")])
def test_sglang_s_own_fraction_is_what_its_estimate_leaves_of_a_card(gib: float, fraction: str) -> None:
    assert fraction == f"{float(sglang.default_fraction(int(gib * GIB), 0, vision=False)):.3f}"


@pytest.mark.parametrize(
    ("mib", "cards", "reserved_mib"),
    [
        (16_376, 4, 512 + 3072 + 2 * 8 + 512),
        (24_564, 2, 512 + 3072 + 2 * 24 + 256),
        (24_564, 4, 512 + 3072 + 2 * 80 + 512),
        (46_068, 4, 512 + 6144 + 2 * 160 + 512),
        (81_559, 8, 512 + 12_288 + 2 * 512 + 1024),
        (183_359, 8, 512 + 24_576 + 2 * 512 + 1024),
    ],
)
def test_sglang_leaves_more_of_each_of_several_cards(mib: int, cards: int, reserved_mib: int) -> None:
    expected = round((mib - reserved_mib) / mib, 3)
    assert expected == float(sglang.default_fraction(mib * 2**20, 0, vision=False, cards=cards))


def test_heads_that_cards_can_t_share_are_refused_by_vllm_and_sglang_alike() -> None:
    model = dataclasses.replace(served(), kv_heads=8, n_linear=0)
    of_sixteen = sglang.token_bytes(model, sglang.CACHE_TYPES["auto"], 16)
    assert sglang.token_bytes(model, sglang.CACHE_TYPES["auto"]) == 8 * of_sixteen
    with pytest.raises(ServingError, match="3 cards can't share 8 heads"):
        sglang.token_bytes(model, sglang.CACHE_TYPES["auto"], 3)
    with pytest.raises(ServingError, match="3 cards can't share 8 heads"):
        vllm.blocks_of(model, cards=3)


@pytest.mark.parametrize(
    ("kv", "bytes_"), [("f16", 65_536), ("q8_0", 34_816), ("q4_0", 18_432), ("bf16", 65_536), ("q5_1", 24_576)]
)
def test_a_cell_of_llama_cpp_is_a_row_of_keys_and_values_in_every_full_layer(kv: str, bytes_: int) -> None:
    assert bytes_ == llama_cpp.cell_bytes(served(), llama_cpp.CACHE_TYPES[kv])


@pytest.mark.parametrize(("drafts", "mib"), [(0, "149.625"), (4, "748.125")])
def test_the_state_of_llama_cpp_is_kept_once_more_for_every_draft(drafts: int, mib: str) -> None:
    assert mib == f"{llama_cpp.state_bytes(served(), drafts) / 2**20:.3f}"


def test_llama_cpp_rounds_a_context_up_to_256_cells() -> None:
    plan = llama_cpp.plan(asked(context_tokens=1000, pool=exactly(156_893_184 + 1024 * 65_536)))
    assert (1024 * 65_536, True, False) == (
        named(plan, "KV cache").most_bytes,
        plan.fits(1, 1024, sure=True),
        plan.fits(1, 1025, sure=False),
    )


@pytest.mark.parametrize(
    ("limit", "batch"),
    [
        (Limit(name="blocks", least=100, most=120, each=3, step=1, step_tokens=784), 3),
        (Limit(name="tokens", least=1000, most=1001, each=0, step=1, step_tokens=1), 7),
        (Limit(name="bytes", least=10**6, most=2 * 10**6, each=1234, step=256 * 36, step_tokens=256), 5),
        (Limit(name="slots", least=4, most=9, each=2, step=0, step_tokens=1), 2),
        (Limit(name="blocks", least=-1, most=0, each=3, step=1, step_tokens=16), 1),
    ],
)
@pytest.mark.parametrize("sure", [True, False])
def test_the_longest_context_and_the_largest_batch_are_the_last_that_fit(limit: Limit, batch: int, sure: bool) -> None:
    most = 10**5
    longest = limit.longest(batch, most, sure)
    assert longest == 0 or limit.holds(batch, longest, sure)
    assert longest == most or not limit.holds(batch, longest + 1, sure)
    count = limit.largest(700, sure)
    assert (count == 0 or limit.holds(count, 700, sure), limit.holds(count + 1, 700, sure)) == (True, False)


def test_a_plain_model_has_blocks_of_16_tokens_and_as_many_weights_as_its_checkpoint(tmp_path: Path) -> None:
    model = read_served(written(tmp_path, "config.json", PLAIN), "qwen3-8b")
    blocks = vllm.blocks_of(model)
    assert (8_190_735_360, 16, 36 * 16 * 2 * 8 * 128 * 2, 256) == (
        model.parameters,
        blocks.tokens,
        blocks.bytes,
        blocks.request(4096),
    )


EXPERTS_35B = {
    "model_type": "qwen3_5_moe_text",
    "vocab_size": 248_320,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "tie_word_embeddings": False,
    "max_position_embeddings": 262_144,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("pool", "tokens", "concurrency"),
    [("5.98GiB", 567_978, "4.33"), ("6.01GiB", 569_878, "4.35")],
)
def test_the_35b_with_experts_has_the_parameters_of_its_class_and_the_pool_of_its_logs(
    tmp_path: Path, pool: str, tokens: int, concurrency: str
) -> None:
    """Printed by vLLM: noonghunna/club-3090#612 and #652; parameters: Qwen3_5MoeForCausalLM of transformers 5.24.0."""
    model = read_served(written(tmp_path, "config.json", EXPERTS_35B), "35b")
    options: dict[str, Any] = {
        "context_tokens": 131_072,
        "kv_type": "fp8",
        "prefix_caching": True,
        "pool": printed_pool(pool),
    }
    plan = vllm.plan(dataclasses.replace(asked(**options), model=model))
    size, times = named(plan, "cache size"), named(plan, "concurrency")
    assert (34_660_610_688, True, concurrency) == (
        model.parameters,
        size.least <= tokens <= size.most,
        f"{times.most:.2f}",
    )


def test_the_35b_with_experts_has_llama_cpp_s_buffers(tmp_path: Path) -> None:
    """Printed by llama.cpp: ggml-org/llama.cpp#23269."""
    model = read_served(written(tmp_path, "config.json", EXPERTS_35B), "35b")
    buffers = 65_536 * llama_cpp.cell_bytes(model, llama_cpp.CACHE_TYPES["f16"]), llama_cpp.state_bytes(model, 2)
    assert ["1280.00", "188.44"] == [f"{size / 2**20:.2f}" for size in buffers]


LLAMA_8B = PLAIN | {
    "model_type": "llama",
    "vocab_size": 128_256,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "max_position_embeddings": 131_072,
}


@pytest.mark.parametrize(
    ("pool", "context", "blocks", "concurrency"),
    [("3.81GiB", 20_000, 1952, "1.56"), ("2.89GiB", 29_000, 1478, "0.82")],
)
def test_llama_3_1_8b_has_the_weights_blocks_and_concurrency_of_its_log(
    tmp_path: Path, pool: str, context: int, blocks: int, concurrency: str
) -> None:
    """Printed by vLLM: vllm-project/vllm#10517."""
    model = read_served(written(tmp_path, "config.json", LLAMA_8B), "llama-3.1-8b")
    question = dataclasses.replace(asked(context_tokens=context, pool=printed_pool(pool)), model=model)
    plan = vllm.plan(question)
    loaded = named(plan, "weights").most_bytes + named(plan, "rotary table").most_bytes
    count, times = named(plan, "blocks"), named(plan, "concurrency")
    assert ("14.9888", True, concurrency) == (
        f"{loaded / GIB:.4f}",
        count.least <= blocks <= count.most,
        f"{times.most:.2f}",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "deepseek_v3"}, "model_type 'deepseek_v3' has a cache that is not known"),
        ({"model_type": []}, r"model_type must be text, got \[\]"),
        ({"model_type": [], "text_config": {"model_type": "qwen3_5_moe_text"}}, "model_type must be text"),
        ({"layer_types": [[]]}, "layers of several kinds"),
        ({"sliding_window": 4096}, "a sliding window"),
        ({"num_experts": 128}, "a mixture of experts"),
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
        ({"torch_dtype": "int4"}, "dtype 'int4'"),
    ],
    ids=str,
)
def test_a_model_whose_cache_is_not_known_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_served(written(tmp_path, "config.json", PLAIN | change), "other")


def test_quantised_weights_are_those_of_the_checkpoint_and_never_guessed(tmp_path: Path) -> None:
    config = json.loads((MODELS / "qwen3.5-27b.json").read_text(encoding="utf-8"))
    path = written(tmp_path, "config.json", config | {"quantization_config": {"quant_method": "fp8"}})
    model = read_served(path, "27b-fp8")
    with pytest.raises(ServingError, match="quantised \\(fp8\\)"):
        vllm.plan(dataclasses.replace(asked(), model=model))
    index = {"metadata": {"total_size": 30_000_000_000}, "weight_map": {"a": "model-1.safetensors"}}
    stored = read_stored(written(tmp_path, "model.safetensors.index.json", index))
    weights = named(vllm.plan(dataclasses.replace(asked(weights=stored), model=model)), "weights")
    unloaded = 2 * (460_730_096 + 424_699_392)
    assert (30_000_000_000 - unloaded, 30_000_000_000) == (weights.least_bytes, weights.most_bytes)


def safetensors(path: Path, tensors: dict[str, int]) -> Path:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [end, end + size]}  # type: ignore[dict-item]
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


TENSORS = {
    "model.language_model.embed_tokens.weight": 1000,
    "model.language_model.layers.63.mlp.up_proj.weight": 400,
    "model.visual.blocks.0.attn.qkv.weight": 50,
    "mtp.layers.0.mlp.up_proj.weight": 30,
    "lm_head.weight": 1000,
}


@pytest.mark.parametrize(("text", "drafts", "bytes_"), [(False, 0, 2450), (True, 0, 2400), (True, 1, 2430)])
def test_headers_tell_what_of_a_checkpoint_is_loaded(tmp_path: Path, text: bool, drafts: int, bytes_: int) -> None:
    stored = read_stored(safetensors(tmp_path / "model.safetensors", TENSORS).parent)
    weights = named(vllm.plan(asked(text=text, drafts=drafts, weights=stored)), "weights")
    assert (bytes_, bytes_) == (weights.least_bytes, weights.most_bytes)


def test_a_folder_is_read_by_its_index_and_all_the_files_that_it_names(tmp_path: Path) -> None:
    safetensors(tmp_path / "a.safetensors", {"lm_head.weight": 10})
    safetensors(tmp_path / "b.safetensors", {"model.norm.weight": 20})
    safetensors(tmp_path / "other.safetensors", {"adapter": 99})
    names = {"lm_head.weight": "a.safetensors", "model.norm.weight": "b.safetensors"}
    written(tmp_path, "model.safetensors.index.json", {"metadata": {"total_size": 30}, "weight_map": names})
    assert {"head": 10, "": 20} == read_stored(tmp_path).parts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.safetensors", b"\xff" * 20, "not a safetensors file"),
        ("x.safetensors", (5).to_bytes(8, "little") + b"no{on", "its header is not JSON"),
        ("x.safetensors", (9).to_bytes(8, "little") + b'{"a": {}}', "tensor 'a' has no data_offsets"),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "total_size must be"),
        ("model.safetensors.index.json", b"[]", "list, not an object"),
        ("x.bin", b"", "none of a folder"),
        ("x.gguf", b"nothing", "not a GGUF file"),
        ("x.gguf", b"GGUF" + struct.pack("<I", 9), "GGUF version 9"),
        ("x.gguf", b"GGUF" + struct.pack("<IQ", 3, 1), "ends within its header"),
        ("x.gguf", b"GGUF" + struct.pack("<IQQQcIQ", 3, 0, 1, 1, b"a", 8, 2**64 - 1), "a text of"),
        ("x.gguf", b"GGUF" + struct.pack("<IQQQcIQ", 3, 0, 1, 1, b"a", 8, 2**62), "a text of"),
        ("x.safetensors", (31).to_bytes(8, "little") + b'{"a": {"data_offsets": [2, 1]}}', "ends before it begins"),
        ("m-00003-of-00003.safetensors", b"", "one of 3 parts; name the folder"),
        (
            "model.safetensors.index.json",
            b'{"metadata": {"total_size": 1%s}, "weight_map": {}}' % (b"0" * 400),
            "total_size must be the bytes",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((CheckpointError, gguf.GgufError), match=said) as refused:
        read_stored(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def text_of(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_file(
    path: Path, tensors: list[tuple[str, tuple[int, ...], int]], layers: int = 64, drafts: int = 1, parts: int = 1
) -> Path:
    """A file's header with a vocabulary, numbers and arrays among its keys."""
    keys = [
        text_of("general.architecture") + struct.pack("<I", 8) + text_of("qwen35"),
        text_of("qwen35.block_count") + struct.pack("<II", 4, layers + 1),
        text_of("qwen35.nextn_predict_layers") + struct.pack("<IQ", 10, drafts),
        text_of("split.count") + struct.pack("<IH", 2, parts),
        text_of("qwen35.rope.freq_base") + struct.pack("<If", 6, 1e7),
        text_of("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text_of("ä") + text_of("bc"),
        text_of("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
        text_of("tokenizer.add_bos") + struct.pack("<IB", 7, 1),
    ]
    body = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    for name, shape, kind in tensors:
        body += text_of(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
    path.write_bytes(body)
    return path


Q4_K, Q6_K, F32 = 12, 14, 0
GGUF_TENSORS = [
    ("token_embd.weight", (5120, 248_320), Q4_K),
    ("output.weight", (5120, 248_320), Q6_K),
    ("blk.0.attn_output.weight", (6144, 5120), Q4_K),
    ("blk.0.attn_norm.weight", (5120,), F32),
    ("blk.64.nextn.eh_proj.weight", (10_240, 5120), Q4_K),
    ("blk.64.ffn_up.weight", (5120, 17_408), Q4_K),
]


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("m.gguf", {"parts": 3}, "one of 3 parts"),
        ("m-00001-of-00003.gguf", {}, "one of 3 parts"),
        ("m.gguf", {"drafts": 2**64 - 1}, "a damaged file"),
        ("m.gguf", {"drafts": 2**31, "layers": 2**31}, "a damaged file"),
    ],
)
def test_a_gguf_file_that_is_a_part_or_damaged_is_refused(
    tmp_path: Path, name: str, changed: dict[str, int], said: str
) -> None:
    path = gguf_file(tmp_path / name, GGUF_TENSORS, **changed)
    with pytest.raises(CheckpointError, match=said) as refused:
        read_stored(path)
    assert str(path) in str(refused.value)


def test_a_folder_with_some_of_its_parts_and_no_index_is_refused(tmp_path: Path) -> None:
    for part in (1, 3):
        safetensors(tmp_path / f"model-0000{part}-of-00003.safetensors", {f"model.norm{part}.weight": 10})
    with pytest.raises(CheckpointError, match="2 of 3 parts"):
        read_stored(tmp_path)
    safetensors(tmp_path / "model-00002-of-00003.safetensors", {"model.norm2.weight": 10})
    assert 30 == read_stored(tmp_path).total_bytes


def test_a_gguf_header_tells_the_parts_and_their_bytes_without_the_tensors(tmp_path: Path) -> None:
    stored = read_stored(gguf_file(tmp_path / "m.gguf", GGUF_TENSORS))
    expected = {
        "embedding": 5120 * 248_320 * 144 // 256,
        "head": 5120 * 248_320 * 210 // 256,
        "": 6144 * 5120 * 144 // 256 + 5120 * 4,
        "mtp": (10_240 * 5120 + 5120 * 17_408) * 144 // 256,
    }
    assert expected == stored.parts
    assert "682.03" == f"{stored.parts['embedding'] / 2**20:.2f}"  # "CPU model buffer size": ggml-org/llama.cpp#22673


@pytest.mark.parametrize(("drafts", "parts"), [(0, ("", "head")), (2, ("", "head", "mtp"))])
def test_llama_cpp_leaves_the_embedding_and_an_unused_mtp_part_off_the_card(
    tmp_path: Path, drafts: int, parts: tuple[str, ...]
) -> None:
    stored = read_stored(gguf_file(tmp_path / "m.gguf", GGUF_TENSORS))
    assert stored.of(*parts) == named(llama_cpp.plan(asked(weights=stored, drafts=drafts)), "weights").most_bytes


def test_a_checkpoint_of_another_model_is_refused_by_its_layers(tmp_path: Path) -> None:
    whole = read_stored(safetensors(tmp_path / "model.safetensors", {"model.layers.31.mlp.up_proj.weight": 2}))
    file = read_stored(gguf_file(tmp_path / "m.gguf", GGUF_TENSORS, layers=32))
    with pytest.raises(ServingError, match=r"has 32 layers, qwen3\.5-27b has 64: which MODEL"):
        vllm.plan(asked(weights=whole))
    with pytest.raises(ServingError, match=r"has 32 layers, qwen3\.5-27b has 64: which MODEL"):
        llama_cpp.plan(asked(weights=file))


def test_an_embedding_that_is_the_head_as_well_is_on_the_card(tmp_path: Path) -> None:
    stored = read_stored(gguf_file(tmp_path / "m.gguf", [GGUF_TENSORS[0], GGUF_TENSORS[2]]))
    assert stored.total_bytes == named(llama_cpp.plan(asked(weights=stored)), "weights").most_bytes


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.language_model.embed_tokens.weight", "embedding"),
        ("blk.3.attn_output.weight", ""),
        ("output_norm.weight", ""),
        ("output.weight", "head"),
        ("visual.blocks.1.mlp.linear_fc1.weight", "vision"),
        ("mm.0.weight", "vision"),
        ("model.layers.3.linear_attn.norm.weight", ""),
        ("mtp.fc.weight", "mtp"),
    ],
)
def test_a_tensor_s_name_says_whose_part_it_is(name: str, part: str) -> None:
    assert part == part_of(name)


def test_a_quantisation_s_name_alone_gives_an_interval() -> None:
    bits = llama_cpp.bits_of("q4_k_m")
    assert bits is not None
    weights = named(llama_cpp.plan(asked(bits=bits)), "weights")
    on_card = 26_895_998_464 - 248_320 * 5120
    assert (on_card * 4404 // 8000, None) == (weights.least_bytes, llama_cpp.bits_of("Q4"))
    assert weights.least_bytes < on_card * 4.8944 / 8 < weights.most_bytes


def test_a_plan_of_the_stock_server_takes_the_place_of_the_logs_interval() -> None:
    h100 = next(one for one in planned() if (one.card, one.model, one.variant) == ("h100", "qwen3.5-27b", "text"))
    other = dataclasses.replace(h100, card="l40s", activation_bytes=2 * h100.activation_bytes)
    of = functools.partial(activation, [h100, other], "vllm", "qwen3.5-27b", True)
    here, anywhere = of("h100"), of("a10")
    assert here is not None
    assert anywhere is not None
    assert (exactly(h100.activation_bytes), Span(least=h100.activation_bytes, most=other.activation_bytes)) == (
        here[0],
        anywhere[0],
    )
    assert activation([h100], "vllm", "qwen3.5-27b", False, "h100") is None


@pytest.mark.parametrize(("version", "rows"), [("0.20.1", 1_048_576), ("0.29.0", 1_048_576), ("0.33.0", 262_144)])
def test_the_rotary_table_is_a_quarter_in_newer_releases(version: str, rows: int) -> None:
    assert rows == vllm.rotary_rows(served(), version)


def test_terms_say_how_many_logs_they_are_held_against_each_counted_once() -> None:
    plan = vllm.plan(asked(card=card(80)))
    assert {"weights": 9, "rotary table": 9, "outside torch": 0} == {
        t.name: t.logs for t in plan.terms if t.name in ("weights", "rotary table", "outside torch")
    }
    assert (0, 12, 4) == (logs_of("vllm", "nothing"), logs_of("vllm", "blocks"), logs_of("llama.cpp", "KV cache"))


def test_the_family_s_shapes_are_the_served_model_s() -> None:
    assert read_shapes(MODELS / "qwen3.5-9b.json") == served("qwen3.5-9b").shapes
