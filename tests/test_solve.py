"""Exact solves, regimes found by bisection, and forms that are left out only where they can't be the largest."""

import itertools

import numpy as np
import pytest

from vram_ledger.analysis.derivation.forms import COLUMNS, Domain, call_factors, design
from vram_ledger.analysis.derivation.maxima import Space, largest_forms
from vram_ledger.analysis.derivation.regimes import NoRanges, number_of, ranges, with_mask
from vram_ledger.analysis.derivation.solve import NotAForm, Solver

SHAPES = [(1, 1024), (1, 8190), (4, 1024), (4, 8192), (3, 3001), (7, 77)]
BATCHES, CONTEXTS = np.array(SHAPES).T


def of(batches: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    return design(COLUMNS, call_factors("whole", batches, contexts))


def test_planted_coefficients_are_recovered_to_the_last_byte() -> None:
    planted = np.array([53_791_997_184, 154_927_104, 8, 242_976, 1_572_864])
    rows = of(BATCHES, CONTEXTS)
    assert planted.tolist() == Solver(rows).coefficients((rows @ planted).reshape(-1, 1))[0].tolist()


def test_one_byte_at_one_shape_is_no_form() -> None:
    rows = of(BATCHES, CONTEXTS)
    values = rows @ np.array([1, 2, 3, 4, 5])
    values[-1] += 1
    with pytest.raises(NotAForm):
        Solver(rows).coefficients(values.reshape(-1, 1))


def test_half_a_byte_a_token_is_no_form() -> None:
    with pytest.raises(NotAForm, match="no whole combination"):
        Solver(of(BATCHES, CONTEXTS)).coefficients((BATCHES * CONTEXTS // 2).reshape(-1, 1))


def test_columns_that_one_batch_can_not_tell_apart_are_left_out() -> None:
    contexts = np.array([5, 64, 200, 1001])
    assert (0, 2, 4) == Solver(of(np.ones_like(contexts), contexts)).kept


def test_every_change_of_an_axis_is_bisected() -> None:
    assert ((1, 1), (2, 3), (4, 1000), (1001, 4096)) == ranges(
        lambda n: "a" if n < 2 else "b" if n < 4 else "c" if n < 1001 else "d", (1, 2, 4, 4096)
    )


def test_kinds_that_alternate_are_no_ranges() -> None:
    with pytest.raises(NoRanges):
        ranges(lambda n: "even" if n % 2 == 0 else "odd", (1, 2, 3, 4096))


@pytest.mark.parametrize("padded", [False, True])
def test_numbers_count_the_tokens_with_or_without_padding_in_order(padded: bool) -> None:
    tokens = [t for t in range(1, 60) if (t % 8 > 0) == padded]
    assert tokens == [with_mask(n, padded) for n in range(len(tokens))]
    assert list(range(len(tokens))) == [number_of(t, padded) for t in tokens]


@pytest.mark.parametrize("seed", range(8))
def test_forms_left_out_are_nowhere_the_largest(seed: int) -> None:
    chance = np.random.default_rng(seed)
    forms = chance.integers(0, 60, (40, 5)) * np.array([300, 60, 2, 1, 40])
    domain = Domain(batches=(1, 6), contexts=(1, 300), tokens=(1, 300), padded_mask=None)
    kept = largest_forms(forms, Space(call="whole", domain=domain, columns=COLUMNS))
    shapes = np.array(list(itertools.product(range(1, 7), range(1, 301))))
    values = of(shapes[:, 0], shapes[:, 1]) @ forms.T
    assert np.array_equal(values.max(axis=1), values[:, list(kept)].max(axis=1))


@pytest.mark.parametrize("seed", range(8))
def test_each_form_kept_is_the_largest_at_the_shape_it_names(seed: int) -> None:
    chance = np.random.default_rng(seed)
    forms = chance.integers(0, 60, (40, 5)) * np.array([300, 60, 2, 1, 40])
    domain = Domain(batches=(1, 6), contexts=(1, 300), tokens=(1, 300), padded_mask=None)
    for index, (b, c) in largest_forms(forms, Space(call="whole", domain=domain, columns=COLUMNS)).items():
        values = of(np.array([b]), np.array([c]))[0] @ forms.T
        assert values.max() == values[index]
