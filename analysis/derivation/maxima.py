"""Which of many forms can be the largest: forms that never are, anywhere in the domain, are left out.

Why leaving out is safe. Every column is a product of factors, each taken once, so a difference of two forms is
multilinear in the factors that vary: B, L, T, E, and for a rounded factor ⌈T/64⌉ = (T + s)/64 its slack s, 0 to 63.
A multilinear function on a box is smallest at one of the box's corners. So if form g is at least form f at every
corner, it is at every shape inside, and f is never needed. The corners treat the factors as independent and contain
combinations that no shape has; that can only keep a form that is not needed, never lose one. The domain is halved
again and again until every form that is left over in a part was seen to be the largest at some shape of it, or the
budget of parts is spent and the forms left over are kept.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vram_ledger.analysis.derivation.forms import ROUNDED, Call, Domain, Ints, call_factors, design

MOST_PARTS = 4000
SAMPLES = 4096
SCALE = 512  # 64 · 8: with it all corners are whole numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The shapes of one regime of a single-shot prefill or a decode step, and how to draw from them."""

    call: Call
    domain: Domain
    columns: tuple[tuple[str, ...], ...]

    def rows(self, batch: Ints, context: Ints) -> Ints:
        """The design of those of the shapes that are in the domain, and no others."""
        factors = call_factors(self.call, batch, context)
        inside = self.domain.contains(factors)
        return design(self.columns, {name: values[inside] for name, values in factors.items()})

    def inside(self, batch: Ints, context: Ints) -> Ints:
        """Those of the shapes that are in the domain, as rows of two."""
        keep = self.domain.contains(call_factors(self.call, batch, context))
        return np.stack([batch[keep], context[keep]], axis=1)

    def samples(self, count: int, seed: int = 0) -> Ints:
        """Up to ``count`` shapes, log-uniform over the domain, its corners among them."""
        chance = np.random.default_rng(seed)
        (b0, b1), (l0, l1) = self.domain.batches, self.domain.contexts
        batch = np.exp(chance.uniform(np.log(b0), np.log(b1 + 1), 4 * count)).astype(np.int64).clip(b0, b1)
        context = np.exp(chance.uniform(np.log(l0), np.log(l1 + 1), 4 * count)).astype(np.int64).clip(l0, l1)
        edges = np.array(list(itertools.product((b0, b1), (l0, min(l0 + 1, l1), max(l1 - 1, l0), l1))), dtype=np.int64)
        shapes = self.inside(np.concatenate([edges[:, 0], batch]), np.concatenate([edges[:, 1], context]))
        return shapes[:count]

    def corners(self, batches: tuple[int, int], contexts: tuple[int, int]) -> Ints:
        """``SCALE`` times the design at every corner of a part of the domain."""
        ranges = self._ranges(batches, contexts)
        rows = []
        for values in itertools.product(*ranges.values()):
            at = dict(zip(ranges, values, strict=True))
            rows.append([self._scaled(column, at) for column in self.columns])
        return np.array(rows, dtype=np.int64)

    def _ranges(self, batches: tuple[int, int], contexts: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        ends = call_factors(self.call, np.array(batches), np.array(contexts))
        names = ("B", "L") if self.call == "whole" else ("B", "E", "L", "T")
        ranges = {name: tuple(dict.fromkeys(int(v) for v in ends[name])) for name in names}
        for name, (of, size) in ROUNDED.items():
            if any(name in column for column in self.columns):
                single = contexts[0] == contexts[1]
                ranges[name] = (-int(ends[of][0]) % size,) if single else (0, size - 1)
        return ranges

    def _scaled(self, column: tuple[str, ...], at: dict[str, int]) -> int:
        value = SCALE
        for factor in column:
            if factor in ROUNDED:
                of, size = ROUNDED[factor]
                value = value // size * (at.get(of, at["L"]) + at[factor])
            else:
                value *= at.get(factor, at["L"])
        return value


def undominated(heights: Ints) -> list[int]:
    """Rows that no other row is at least as large as, in every column; of equal rows the first."""
    order = np.lexsort((np.arange(len(heights)), -heights.sum(axis=1, dtype=np.float64)))
    kept: list[int] = []
    for index in order.tolist():
        if not kept or not (heights[kept] >= heights[index]).all(axis=1).any():
            kept.append(index)
    return sorted(kept)


def largest_forms(forms: Ints, space: Space) -> dict[int, tuple[int, int]]:
    """The forms that are the largest somewhere, each with a shape (batch, context) where it is.

    The shape is the one among those looked at where the form leads by most, by its share.
    """
    (b0, b1), (l0, l1) = space.domain.batches, space.domain.contexts
    candidates = undominated(forms)
    candidates = [candidates[i] for i in undominated(forms[candidates] @ space.corners((b0, b1), (l0, l1)).T)]
    found = _winners(forms, candidates, space)
    for part in _parts(forms, candidates, space, lambda: set(found)):
        found.update({i: shape for i, shape in part.items() if i not in found})
    return found


def _winners(forms: Ints, candidates: list[int], space: Space) -> dict[int, tuple[int, int]]:
    shapes = space.samples(SAMPLES)
    values = space.rows(shapes[:, 0], shapes[:, 1]) @ forms[candidates].T
    best = values.argmax(axis=1)
    ordered = np.sort(values, axis=1)
    lead = (ordered[:, -1] - (ordered[:, -2] if values.shape[1] > 1 else 0)) / ordered[:, -1]
    found = {}
    for i in np.unique(best).tolist():
        row = int(np.argmax(np.where(best == i, lead, -1.0)))
        found[candidates[i]] = (int(shapes[row, 0]), int(shapes[row, 1]))
    return found


def _parts(
    forms: Ints, candidates: list[int], space: Space, known: Callable[[], set[int]]
) -> Iterator[dict[int, tuple[int, int]]]:
    """The forms not yet known to lead that are left over in ever smaller parts of the domain."""
    parts = [(space.domain.batches, space.domain.contexts, candidates)]
    looked_at = 0
    while parts:
        batches, contexts, left = parts.pop()
        (b0, b1), (l0, l1) = batches, contexts
        heights = forms[left] @ space.corners((b0, b1), (l0, l1)).T
        left = [left[i] for i in undominated(heights)]
        unknown = [i for i in left if i not in known()]
        if not unknown:
            continue
        looked_at += 1
        if (b0, l0) == (b1, l1) or looked_at > MOST_PARTS:
            if len(space.inside(np.array([b0]), np.array([l0]))) or looked_at > MOST_PARTS:
                yield dict.fromkeys(unknown, (b0, l0))
            continue
        parts += [(b, c, left) for b, c in _halves(b0, b1, l0, l1)]


def _halves(b0: int, b1: int, l0: int, l1: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The part cut in two along the axis that is longer by its ratio, at the geometric middle."""
    if (b1 / b0, b1 > b0) > (l1 / l0, l1 > l0):
        middle = min(max(int((b0 * b1) ** 0.5), b0), b1 - 1)
        return [((b0, middle), (l0, l1)), ((middle + 1, b1), (l0, l1))]
    middle = min(max(int((l0 * l1) ** 0.5), l0), l1 - 1)
    return [((b0, b1), (l0, middle)), ((b0, b1), (middle + 1, l1))]
