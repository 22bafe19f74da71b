"""The replay has the events of an emulated card, those inside ops too: births and deaths of the same bytes in order."""

from typing import Any

import pytest

from tests.conftest import BIG, NANO, Ask
from vram_ledger.harness.attention import kernel_of
from vram_ledger.harness.events import EventLog, signed_sizes
from vram_ledger.harness.splits import splits_of

SHAPES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("prefill", 1, 1, {}),
    ("prefill", 2, 3, {}),
    ("prefill", 1, 1000, {}),
    ("prefill", 3, 64, {}),
    ("decode", 1, 1, {}),
    ("decode", 1, 1000, {}),
    ("decode", 7, 2999, {}),
    ("prefill", 2, 300, {"logits": "all"}),
    ("prefill", 2, 257, {"prefill_chunk_tokens": 128}),
    ("prefill", 3, 301, {"prefill_chunk_tokens": 128}),
    ("prefill", 2, 300, {"cache": "static"}),
    ("decode", 2, 303, {"cache": "static"}),
]


def events(log: EventLog) -> tuple[int, ...]:
    """The sizes of the events of the phase itself."""
    return signed_sizes(log)[log.marks["start"] : log.marks["end"]]


@pytest.mark.parametrize("gpu", ["a100-80gb", "h100"])
@pytest.mark.parametrize("model", [NANO, BIG])
@pytest.mark.parametrize(("phase", "batch", "context", "axes"), SHAPES, ids=str)
def test_replay_has_the_events_of_the_emulated_card(
    ask: Ask, gpu: str, model: str, phase: str, batch: int, context: int, axes: dict[str, Any]
) -> None:
    emulated, fake = (ask(device=d, gpu=gpu, model=model) for d in ("emulated", "fake"))
    expected = events(emulated.log(phase, batch, context, **axes))
    assert expected == events(fake.log(phase, batch, context, **axes))


@pytest.mark.parametrize("gpu", ["t4", "rtx-4090", "b200", "rtx-5090"])
@pytest.mark.parametrize(
    ("phase", "axes"), [("prefill", {}), ("decode", {}), ("prefill", {"prefill_chunk_tokens": 128})]
)
def test_every_capability_takes_its_own_kernels(ask: Ask, gpu: str, phase: str, axes: dict[str, Any]) -> None:
    emulated, fake = (ask(device=d, gpu=gpu, model=NANO, dtype="float16") for d in ("emulated", "fake"))
    assert events(emulated.log(phase, 2, 300, **axes)) == events(fake.log(phase, 2, 300, **axes))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_replay_in_float32_has_the_events_of_the_emulated_card(ask: Ask, phase: str) -> None:
    emulated, fake = (ask(device=d, gpu="h100", model=NANO, dtype="float32") for d in ("emulated", "fake"))
    assert events(emulated.log(phase, 2, 300)) == events(fake.log(phase, 2, 300))


@pytest.mark.parametrize(
    ("capability", "dtype", "queries", "keys", "masked", "kernel"),
    [
        ((7, 5), "bfloat16", 100, 100, False, "math"),
        ((7, 5), "float16", 100, 100, False, "efficient"),
        ((7, 5), "float32", 100, 100, True, "efficient"),
        ((8, 0), "bfloat16", 100, 100, False, "flash"),
        ((8, 9), "bfloat16", 100, 300, True, "efficient"),
        ((8, 0), "float32", 100, 100, False, "efficient"),
        ((9, 0), "bfloat16", 100, 100, False, "cudnn"),
        ((9, 0), "bfloat16", 100, 300, True, "cudnn"),
        ((9, 0), "bfloat16", 1, 300, False, "cudnn"),
        ((9, 0), "bfloat16", 1, 1, False, "flash"),
        ((9, 0), "float32", 100, 100, False, "efficient"),
        ((10, 0), "bfloat16", 100, 100, False, "cudnn"),
        ((10, 0), "bfloat16", 1, 300, False, "flash"),
        ((10, 0), "bfloat16", 1, 300, True, "efficient"),
        ((12, 0), "bfloat16", 100, 100, False, "flash"),
        ((12, 0), "bfloat16", 100, 300, True, "efficient"),
    ],
)
def test_attention_takes_the_kernel_that_the_dispatcher_was_seen_to_take(
    capability: tuple[int, int], dtype: str, queries: int, keys: int, masked: bool, kernel: str
) -> None:
    assert kernel == kernel_of(capability, dtype, 256, queries, keys, masked)


@pytest.mark.parametrize(
    ("blocks", "key_blocks", "splits"),
    [(4, 9, 9), (4, 16, 16), (64, 64, 3), (96, 2, 2), (173, 100, 1), (4, 1, 1), (1, 1000, 112)],
)
def test_keys_are_split_until_the_multiprocessors_have_work(blocks: int, key_blocks: int, splits: int) -> None:
    assert splits == splits_of(blocks, 2 * 108, key_blocks)
