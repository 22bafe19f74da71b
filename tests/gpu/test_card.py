"""On a real card: the counters are ordered, the phases are apart, and the replay agrees. Run: pytest tests/gpu."""

import dataclasses

import pytest

from harness.records import Measured
from tests.conftest import NANO, Ask

pytestmark = pytest.mark.gpu
MINI = "qwen3.5-64l-mini"


@pytest.fixture(scope="module", autouse=True)
def card() -> None:
    """Skips without a card."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card, and torch finds none")


def in_order(m: Measured) -> bool:
    """requested ≤ allocated ≤ reserved ≤ device."""
    peak = m.warm
    known = (peak.requested_bytes, peak.allocated_bytes, peak.reserved_bytes, peak.device_bytes)
    counts = [count for count in known if count is not None]
    return counts == sorted(counts)


@pytest.mark.parametrize("kernels", ["fla", "torch"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_counters_are_ordered(ask: Ask, kernels: str, phase: str) -> None:
    assert in_order(ask(device="cuda", model=MINI, kernels=kernels).measure(phase, 2, 1000))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_held_bytes_are_the_parts(ask: Ask, phase: str) -> None:
    m = ask(device="cuda", model=MINI).measure(phase, 2, 1000)
    assert m.held.total_bytes == m.held_bytes - m.baseline_bytes


def test_decode_peak_does_not_contain_the_prefill(ask: Ask) -> None:
    worker = ask(device="cuda", model=MINI)
    prefill, decode = (worker.measure(phase, 1, 16_384).warm.requested_bytes for phase in ("prefill", "decode"))
    assert decode < prefill


def test_warm_repeat_is_identical(ask: Ask) -> None:
    worker = ask(device="cuda", model=MINI)
    first, again = (worker.measure("prefill", 1, 2048) for _ in range(2))
    assert dataclasses.astuple(first.warm)[:2] == dataclasses.astuple(again.warm)[:2]


def test_held_bytes_are_the_replay_s(ask: Ask) -> None:
    card, fake = (ask(device=device, model=NANO).measure("decode", 2, 1000) for device in ("cuda", "fake"))
    assert fake.held == card.held
    assert fake.weights_bytes == card.weights_bytes
