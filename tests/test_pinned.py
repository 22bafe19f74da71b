"""A conv state in the rest of a segment keeps a decode step from getting its old cache back."""

import pytest

from tests.synthetic import CACHE_27B, CONFIGURATION, SHAPES, workload
from vram_ledger.analysis.predicting.pinned import pinned_bytes, pins


@pytest.mark.parametrize(
    ("batch", "context"), [(13, 116_446), (13, 116_450), (14, 116_446), (16, 4106), (16, 20_490), (16, 22_977)]
)
def test_cache_is_pinned_where_a_simulation_found_it_so(batch: int, context: int) -> None:
    assert CACHE_27B * batch * context == pinned_bytes(SHAPES, workload("decode", batch, context))


@pytest.mark.parametrize(
    ("batch", "context"),
    [
        (12, 116_446),
        (13, 116_000),
        (13, 116_480),
        (13, 116_736),
        (16, 100_000),
        (24, 65_600),
        (32, 33_000),
        (16, 22_976),
    ],
)
def test_cache_is_not_pinned_where_a_simulation_found_it_free(batch: int, context: int) -> None:
    assert 0 == pinned_bytes(SHAPES, workload("decode", batch, context))


def test_prefill_pins_nothing() -> None:
    assert 0 == pinned_bytes(SHAPES, workload("prefill", 13, 116_446))


def test_only_some_batches_can_pin() -> None:
    assert list(range(13, 26)) == [b for b in range(1, 200) if pins(SHAPES, CONFIGURATION, b)]
