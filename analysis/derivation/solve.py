"""Exact solves: the whole coefficients that reproduce sizes seen at several shapes, or why there are none."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from vram_ledger.analysis.derivation.forms import Ints

LARGEST = 2**62


class NotAForm(ValueError):
    """Sizes that no whole coefficients of the columns reproduce; the message says where."""


def pivot_rows_and_columns(matrix: Ints) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of a full-rank square part: the first columns that earlier ones don't determine."""
    columns: list[int] = []
    rows: list[int] = []
    reduced: list[list[Fraction]] = [[Fraction(int(v)) for v in row] for row in matrix]
    for column in range(matrix.shape[1]):
        free = [r for r in range(len(reduced)) if r not in rows and reduced[r][column]]
        if not free:
            continue
        pivot = free[0]
        rows.append(pivot)
        columns.append(column)
        for r in range(len(reduced)):
            if r not in rows and reduced[r][column]:
                factor = reduced[r][column] / reduced[pivot][column]
                reduced[r] = [a - factor * b for a, b in zip(reduced[r], reduced[pivot], strict=True)]
    return tuple(rows), tuple(columns)


def inverse(matrix: Sequence[Sequence[int]]) -> list[list[Fraction]]:
    """The inverse of a regular matrix, exactly (Gauss and Jordan)."""
    size = len(matrix)
    work = [
        [Fraction(int(v)) for v in row] + [Fraction(int(i == j)) for j in range(size)] for i, row in enumerate(matrix)
    ]
    for column in range(size):
        pivot = next(r for r in range(column, size) if work[r][column])
        work[column], work[pivot] = work[pivot], work[column]
        scale = work[column][column]
        work[column] = [v / scale for v in work[column]]
        for r in range(size):
            if r != column and work[r][column]:
                factor = work[r][column]
                work[r] = [a - factor * b for a, b in zip(work[r], work[column], strict=True)]
    return [row[size:] for row in work]


class Solver:
    """Solves for the coefficients of one design, each distinct tuple of values once.

    Columns that the shapes can't tell from the ones before get the coefficient 0; ``kept`` are the others. Every
    row that is not needed for the solve is a check.
    """

    def __init__(self, design: Ints) -> None:
        rows, self.kept = pivot_rows_and_columns(design)
        self._rows = list(rows)
        self._inverse = inverse(design[np.ix_(self._rows, list(self.kept))].tolist())
        self._design = design
        self.checks = len(design) - len(rows)

    def coefficients(self, values: Ints) -> Ints:
        """One row of coefficients a column of ``values`` (one row a shape); :class:`NotAForm` if one has none."""
        distinct, where = np.unique(values, axis=1, return_inverse=True)
        solved = np.zeros((distinct.shape[1], self._design.shape[1]), dtype=np.int64)
        for index in range(distinct.shape[1]):
            solved[index, list(self.kept)] = self._solve(distinct[self._rows, index].tolist())
        again = self._design @ solved.T
        if not np.array_equal(again, distinct):
            row, index = np.argwhere(again != distinct)[0]
            event = int(np.argmax(where == index))
            raise NotAForm(
                f"number {event}: {distinct[row, index]:,} at shape {row}, "
                f"the form of the others says {again[row, index]:,}"
            )
        return solved[where.reshape(-1)]

    def _solve(self, values: list[int]) -> list[int]:
        solution = [sum((f * v for f, v in zip(row, values, strict=True)), Fraction(0)) for row in self._inverse]
        if any(s.denominator != 1 or abs(s) > LARGEST for s in solution):
            raise NotAForm(f"sizes {values} are no whole combination of the columns: {[str(s) for s in solution]}")
        return [int(s) for s in solution]
