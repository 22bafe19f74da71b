"""Least squares that says what it can't tell: a design from points, rank and condition checked, exact where it is.

Requested bytes have no noise, so a form that is right leaves no residual; :func:`least_squares` then proves it in
whole numbers instead of quoting an interval. Condition: ratio of the extreme singular values of the design with its
columns scaled to unit length; 30 is the limit of Belsley, Kuh and Welsch, "Regression Diagnostics" (1980), section 3.2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

import numpy as np
from numpy.typing import NDArray

CONDITION_LIMIT = 30.0
EXACT_BYTES = 0.5
INTEGER_TOLERANCE = 1e-3
COVERAGE = 0.975  # upper tail of a two-sided 95 % interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One column's part in a coefficient: ``times`` its own coefficient. The first share of a coefficient has 1."""

    column: str
    times: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """A fitted number, in bytes per count of its first column.

    shares: more than one where the points can't tell columns apart; the value is then the sum of all shares.
    stderr, half_width (95 %, Student's t): 0 in an exact fit, ``None`` without degrees of freedom.
    """

    shares: tuple[Share, ...]
    value: float
    stderr: float | None
    half_width: float | None

    @property
    def label(self) -> str:
        """The columns in words: "per_token", or "per_position + 8·per_token" at batch 8 only."""
        return share_label(self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A solved least-squares problem.

    absent: columns that are zero at every point, about which the fit says nothing. condition: of the scaled design.
    residuals_bytes: observed minus fitted, in the order of the points. band_bytes: half-width of the 95 % band of a
    single point about the form; ``None`` without degrees of freedom.
    """

    coefficients: tuple[Coefficient, ...]
    absent: tuple[str, ...]
    condition: float
    residuals_bytes: tuple[float, ...]
    band_bytes: float | None

    @property
    def n(self) -> int:
        """Points fitted."""
        return len(self.residuals_bytes)

    @property
    def dof(self) -> int:
        """Degrees of freedom: points less coefficients. At 0 the fit is a solve, and no evidence for its form."""
        return self.n - len(self.coefficients)

    @property
    def worst_residual_bytes(self) -> float:
        """Largest absolute residual."""
        return max(map(abs, self.residuals_bytes))

    @property
    def exact(self) -> bool:
        """Whether the form meets more points than it has coefficients, all to less than half a byte."""
        return self.dof > 0 and self.worst_residual_bytes < EXACT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Unidentifiable:
    """Points that can't determine the coefficients, and why. condition: ``None`` if the design has not full rank."""

    reason: str
    n: int
    condition: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a design: the whole-number counts, and the columns that it stands for."""

    shares: tuple[Share, ...]
    counts: tuple[int, ...]


def share_label(shares: Iterable[Share]) -> str:
    """The shares as a sum."""
    return " + ".join(s.column if s.times == 1 else f"{s.times:,.10g}·{s.column}" for s in shares)


def plain_columns(counts: Mapping[str, Sequence[int]]) -> tuple[Column, ...]:
    """One column a name, in order, nothing merged or dropped."""
    return tuple(Column(shares=(Share(column=name, times=1),), counts=tuple(values)) for name, values in counts.items())


def merged_columns(counts: Mapping[str, Sequence[int]]) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns that the points can tell apart, and the names of those that are zero at every point.

    The rule: in the given order, a column that is a multiple of one already kept joins it, so at batch 8 only,
    "per_position" and "per_token" become "per_position + 8·per_token", of which only the sum can be known. Any other
    dependence is left for the rank to find.
    """
    kept: list[Column] = []
    absent = []
    for name, values in counts.items():
        if not any(values):
            absent.append(name)
            continue
        multiples = [(i, m) for i, column in enumerate(kept) if (m := _multiple(column.counts, values)) is not None]
        if not multiples:
            kept.append(Column(shares=(Share(column=name, times=1),), counts=tuple(values)))
            continue
        i, multiple = multiples[0]
        times = int(multiple) if multiple.denominator == 1 else float(multiple)
        kept[i] = Column(shares=(*kept[i].shares, Share(column=name, times=times)), counts=kept[i].counts)
    return tuple(kept), tuple(absent)


def _multiple(base: Sequence[int], values: Sequence[int]) -> Fraction | None:
    first = next(i for i, count in enumerate(base) if count)
    ratio = Fraction(values[first], base[first])
    return ratio if all(ratio * b == v for b, v in zip(base, values, strict=True)) else None


def condition_of(columns: Sequence[Column]) -> float | None:
    """Condition of the design scaled to columns of unit length; ``None`` if its rank is not full."""
    matrix = _matrix(columns)
    if matrix.shape[0] < matrix.shape[1] or not matrix.any(axis=0).all():
        return None
    singular = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0), compute_uv=False)
    negligible = singular[0] * max(matrix.shape) * np.finfo(float).eps
    return float(singular[0] / singular[-1]) if singular[-1] > negligible else None


def undetermined(columns: Sequence[Column]) -> Unidentifiable | None:
    """Why the points can't determine a coefficient for each column, or ``None`` if they can."""
    names = ", ".join(share_label(column.shares) for column in columns)
    n = len(columns[0].counts)
    condition = condition_of(columns)
    if n < len(columns):
        reason = f"{n} points for {len(columns)} coefficients ({names})"
    elif condition is None:
        reason = f"at these points the columns depend on each other ({names})"
    elif condition >= CONDITION_LIMIT:
        reason = f"condition {condition:.0f} is not below {CONDITION_LIMIT:.0f} ({names})"
    else:
        return None
    return Unidentifiable(reason=reason, n=n, condition=condition)


def identifiable(points: Iterable[tuple[int, int]]) -> str | None:
    """Why (batch, tokens) points can't identify the held form on [1, B, B·tokens]; ``None`` if they can."""
    batches_tokens = list(points)
    if not batches_tokens:
        return "no points"
    found = undetermined(plain_columns(held_counts(batches_tokens)))
    return found.reason if found else None


def held_counts(points: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    """The design of what a phase holds: a constant, the state of each sequence, the cache of each token."""
    return {
        "constant": [1 for _ in points],
        "per_sequence": [batch for batch, _ in points],
        "per_token": [batch * tokens for batch, tokens in points],
    }


def least_squares(
    columns: Sequence[Column], observed_bytes: Sequence[int], absent: tuple[str, ...] = ()
) -> Fit | Unidentifiable:
    """The coefficients that leave the least squared residual, or why the points can't determine them."""
    found = undetermined(columns)
    if found is not None:
        return found
    values, residuals = _solve(columns, observed_bytes)
    dof = len(observed_bytes) - len(columns)
    deviation, errors = _spread(columns, residuals, dof)
    quantile = _quantile(dof) if deviation else 0.0
    return Fit(
        coefficients=tuple(
            Coefficient(
                shares=column.shares,
                value=value,
                stderr=None if dof == 0 else error,
                half_width=None if dof == 0 else quantile * error,
            )
            for column, value, error in zip(columns, values, errors, strict=True)
        ),
        absent=absent,
        condition=condition_of(columns) or float("inf"),
        residuals_bytes=tuple(residuals),
        band_bytes=None if dof == 0 else quantile * deviation,
    )


def _matrix(columns: Sequence[Column]) -> Floats:
    return np.array([column.counts for column in columns], dtype=np.float64).T


def _solve(columns: Sequence[Column], observed_bytes: Sequence[int]) -> tuple[list[float], list[float]]:
    """Coefficients and residuals. Whole coefficients are taken out in whole numbers, and the remainder solved again:

    floats alone lose the last byte of large shapes, and would leave a constant of 0 at some 1e-3.
    """
    matrix = _matrix(columns)
    norms = np.linalg.norm(matrix, axis=0)
    whole = [0] * len(columns)
    remainder = list(observed_bytes)
    step = _scaled_solution(matrix, norms, remainder)
    for _ in range(3):
        whole = [w + round(s) for w, s in zip(whole, step, strict=True)]
        remainder = [
            observed - sum(map(mul, whole, counts))
            for observed, *counts in zip(observed_bytes, *(column.counts for column in columns), strict=True)
        ]
        if not any(remainder):
            return [*whole], [0.0] * len(remainder)
        step = _scaled_solution(matrix, norms, remainder)
    residuals = (np.array(remainder, dtype=np.float64) - matrix @ np.array(step)).tolist()
    near_whole = max(map(abs, residuals)) < EXACT_BYTES
    return [
        w + (round(s) if near_whole and abs(s - round(s)) < INTEGER_TOLERANCE else s)
        for w, s in zip(whole, step, strict=True)
    ], residuals


def _scaled_solution(matrix: Floats, norms: Floats, observed: Sequence[int]) -> list[float]:
    solution = np.linalg.lstsq(matrix / norms, np.array(observed, dtype=np.float64), rcond=None)[0]
    values: list[float] = (solution / norms).tolist()
    return values


def _spread(columns: Sequence[Column], residuals: Sequence[float], dof: int) -> tuple[float, list[float]]:
    """Standard deviation of single points, and the standard error of each coefficient, in bytes; all 0 if exact."""
    squares = sum(r * r for r in residuals)
    if dof == 0 or max(map(abs, residuals)) < EXACT_BYTES:
        return 0.0, [0.0] * len(columns)
    matrix = _matrix(columns)
    norms = np.linalg.norm(matrix, axis=0)
    scaled = matrix / norms
    variances = squares / dof * np.diag(np.linalg.inv(scaled.T @ scaled)) / norms**2
    errors: list[float] = np.sqrt(variances).tolist()
    return float(np.sqrt(squares / dof)), errors


def _quantile(dof: int) -> float:
    """Student's t at 97.5 %."""
    from scipy.special import stdtrit  # 0.3 s to import; exact fits never do

    return float(stdtrit(dof, COVERAGE))
