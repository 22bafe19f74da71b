"""A device without values answers what follows from what was copied to it, and nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vram_ledger.harness.devices.known import KnownValues, UnknownValue


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """The values of meta tensors are followed."""
    with KnownValues("meta"):
        yield


def on_device(values: list[Any]) -> torch.Tensor:
    """Integers, made on the host and copied."""
    return torch.as_tensor(values).to("meta")


def test_what_was_copied_comes_back() -> None:
    assert [3, 4] == on_device([3, 4]).tolist()


def test_what_follows_from_it_is_told() -> None:
    grid = on_device([2, 6, 8])
    assert (48, True) == (int(grid[1] * grid[2]), bool((grid[1] < grid[2]).all()))


def test_product_is_told_without_its_kernel() -> None:
    product = on_device([[1, 6, 8], [1, 2, 2]]).prod(-1)
    assert ([48, 4], "meta") == (product.tolist(), product.device.type)


def test_length_that_depends_on_values_is_found() -> None:
    repeated = torch.repeat_interleave(on_device([5, 7]), on_device([2, 1]))
    assert ((3,), [5, 5, 7]) == (tuple(repeated.shape), repeated.tolist())


def test_writing_through_a_view_changes_what_it_is_a_view_of() -> None:
    counts = torch.zeros(2, 2, dtype=torch.long, device="meta")
    counts[1] = on_device([8, 9])
    assert [[0, 0], [8, 9]] == counts.tolist()


def test_literal_made_of_known_values_is_known() -> None:
    assert [4, 1] == torch.tensor([on_device([4])[0], 1], device="meta").tolist()


def test_copy_is_of_its_own() -> None:
    source = torch.as_tensor([1, 2])
    copied = source.to("meta")
    source += 1
    assert [1, 2] == copied.tolist()


@pytest.mark.parametrize(
    "unknown",
    [
        lambda: torch.empty(1, dtype=torch.long, device="meta"),
        lambda: torch.randint(9, (1,), device="meta"),
        lambda: torch.ones(1).to("meta"),
        lambda: on_device([1]) * torch.empty(1, dtype=torch.long, device="meta"),
    ],
)
def test_what_does_not_follow_is_not_answered(unknown: object) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        unknown().item()  # type: ignore[operator]


def test_unknown_value_written_over_a_known_one_is_refused() -> None:
    counts = on_device([1, 2])
    with pytest.raises(UnknownValue, match="copy_"):
        counts[0] = torch.empty((), dtype=torch.long, device="meta")
