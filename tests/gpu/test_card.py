"""On a card: the counters are ordered, the phases are apart, and the replay agrees.

On the card that is there, else on an emulated one: the code that runs is the same. Run: pytest tests/gpu.
"""

import dataclasses

import pytest

from tests.conftest import NANO, Ask
from vram_ledger.harness.events import STANDING, peak_site
from vram_ledger.harness.machine import card_there
from vram_ledger.harness.records import Measured

MINI = "qwen3.5-64l-mini"
CARD = "cuda" if card_there() else "emulated"


def in_order(m: Measured) -> bool:
    """requested ≤ allocated ≤ reserved ≤ device."""
    peak = m.warm
    known = (peak.requested_bytes, peak.allocated_bytes, peak.reserved_bytes, peak.device_bytes)
    counts = [count for count in known if count is not None]
    return counts == sorted(counts)


@pytest.mark.parametrize("kernels", ["fla", "torch"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_counters_are_ordered(ask: Ask, kernels: str, phase: str) -> None:
    assert in_order(ask(device=CARD, model=MINI, kernels=kernels).measure(phase, 2, 1000))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_held_bytes_are_the_parts(ask: Ask, phase: str) -> None:
    m = ask(device=CARD, model=MINI).measure(phase, 2, 1000)
    assert m.held.total_bytes == m.held_bytes - m.baseline_bytes


def test_decode_peak_does_not_contain_the_prefill(ask: Ask) -> None:
    worker = ask(device=CARD, model=MINI)
    prefill, decode = (worker.measure(phase, 1, 16_384).warm.requested_bytes for phase in ("prefill", "decode"))
    assert decode < prefill


def test_warm_repeat_is_identical(ask: Ask) -> None:
    worker = ask(device=CARD, model=MINI)
    first, again = (worker.measure("prefill", 1, 2048) for _ in range(2))
    assert dataclasses.astuple(first.warm)[:2] == dataclasses.astuple(again.warm)[:2]


def test_held_bytes_are_the_replay_s(ask: Ask) -> None:
    card, fake = (ask(device=device, model=NANO).measure("decode", 2, 1000) for device in (CARD, "fake"))
    assert fake.held == card.held
    assert fake.weights_bytes == card.weights_bytes


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_traced_run_reaches_the_counted_peak(ask: Ask, phase: str) -> None:
    worker = ask(device=CARD, model=NANO)
    counted = worker.measure(phase, 2, 1000)
    assert counted.warm.requested_bytes == peak_site(worker.log(phase, 2, 1000))[0]


def test_temporaries_inside_an_op_are_named(ask: Ask) -> None:
    log = ask(device=CARD, model=NANO).log("prefill", 2, 1000)
    inside = {a.op for a in log.allocations if a.op.startswith("inside ")}
    assert "inside convolution" in inside


def test_every_allocation_of_a_traced_run_has_its_op_and_line(ask: Ask) -> None:
    log = ask(device=CARD, model=NANO).log("decode", 2, 1000)
    own = [a for a in log.allocations if a.op not in STANDING]
    assert [] == [a for a in own if not a.op or not a.source]
