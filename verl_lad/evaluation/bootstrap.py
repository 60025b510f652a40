"""Intervals of means over problems, by the bootstrap: the only kind of interval in the report.

Problems are the unit, as samples of one problem are not independent. Of several runs on the same problems, problems and
runs are resampled independently of each other, each with its whole row or column (Owen, "The pigeonhole bootstrap",
Annals of Applied Statistics 1:386-411, 2007). The interval then speaks of other problems and other seeds at once. It is
conservative where the noise of single cells dominates. From two or three runs no method learns how much runs differ: a
bootstrap over R runs understates their variance by 1 - 1/R. With one run, the interval does not speak of other seeds.

Values that are all the same give an interval of no width: a problem of a kind that was never seen cannot be drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_CHUNK = 2**20
"""Resampled values held at once: 8 MiB an array."""


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its interval.

    Attributes:
        mean: mean of the values themselves, not of the resamples.
        low: lower end; None for a single problem, which says nothing about others.
        high: upper end.
    """

    mean: float
    low: float | None
    high: float | None


def bootstrap_mean(values: ArrayLike, *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95) -> Interval:
    """Average over problems, with a percentile bootstrap interval (Efron, Annals of Statistics 7:1-26, 1979).

    Args:
        values: (P,) one value per problem, or (R, P) for R runs on the same P problems.
        seed: seed of the resampling.
        resamples: number of resamples.
        confidence: share of the resamples within the interval, between 0 and 1.

    Returns:
        Mean and interval.

    Raises:
        ValueError: if there is no value, the shape is another, or a value is not finite; names its index.
    """
    return _interval([_checked_values("values", values)], [1.0], seed, resamples, confidence)


def paired_bootstrap_difference(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Average a - b over problems, for two algorithms on the same problems, with its interval.

    Each resample has the same problems for both, so that what makes a problem hard for both cancels. The runs of each
    are resampled on their own, as run i of one has nothing to do with run i of the other.

    Args:
        a: (P,) one value per problem, or (R, P) for R runs.
        b: the same for the other algorithm, with the problems in the same order. The number of runs may differ.
        seed: seed of the resampling.
        resamples: number of resamples.
        confidence: share of the resamples within the interval, between 0 and 1.

    Returns:
        Mean difference and interval. An interval without 0 says that the algorithms differ.

    Raises:
        ValueError: as `bootstrap_mean`; if the numbers of problems differ.
    """
    left, right = _checked_values("a", a), _checked_values("b", b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a and b must be on the same problems, got {left.shape[1]} and {right.shape[1]}")
    return _interval([left, right], [1.0, -1.0], seed, resamples, confidence)


def resampled_means(matrices: Sequence[np.ndarray], rng: np.random.Generator, resamples: int) -> list[np.ndarray]:
    """Resample problems and runs, and average.

    Args:
        matrices: each (R, P) or (R, P, V), for V values a problem; all on the same P problems. R may differ.
        rng: source of the resamples.
        resamples: number of resamples.

    Returns:
        (resamples,) or (resamples, V) means of each matrix. A resample has the same problems for all matrices, and runs
        of its own for each.
    """
    problems = matrices[0].shape[1]
    means = [np.zeros((resamples, *matrix.shape[2:])) for matrix in matrices]
    for rows in np.array_split(np.arange(resamples), -(-resamples * problems // _CHUNK)):
        drawn = rng.integers(problems, size=(len(rows), problems)) + problems * np.arange(len(rows))[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        for matrix, mean in zip(matrices, means, strict=True):
            runs = len(matrix)
            run_weights = rng.multinomial(runs, [1 / runs] * runs, size=len(rows)) / runs
            mean[rows] = np.einsum("sr,sr...->s...", run_weights, np.tensordot(times_drawn, matrix, (1, 1)) / problems)
    return means


def percentiles(statistics: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return both ends of the interval that holds a share `confidence` of (resamples,) statistics, inf allowed."""
    ends = [0.5 - confidence / 2, 0.5 + confidence / 2]
    low, high = np.quantile(statistics, ends, method="linear" if np.isfinite(statistics).all() else "nearest")
    return float(low), float(high)


def _interval(
    matrices: Sequence[np.ndarray], signs: Sequence[float], seed: int, resamples: int, confidence: float
) -> Interval:
    """Bootstrap the signed sum of the means of (R, P) matrices."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    mean = float(np.dot(signs, [matrix.mean() for matrix in matrices]))
    if matrices[0].shape[1] < 2:
        return Interval(mean, None, None)
    means = resampled_means(matrices, np.random.default_rng(seed), resamples)
    return Interval(mean, *percentiles(np.tensordot(signs, means, 1), confidence))


def _checked_values(name: str, values: ArrayLike) -> np.ndarray:
    """Return the values as (R, P) float64; R is 1 for (P,)."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim not in (1, 2) or matrix.size == 0:
        raise ValueError(f"{name} must be of shape (P,) or (R, P) and not empty, got {matrix.shape}")
    if not np.isfinite(matrix).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(matrix))[0])
        raise ValueError(f"{name} must be finite, got {matrix[index]} at {index}")
    return np.atleast_2d(matrix)
