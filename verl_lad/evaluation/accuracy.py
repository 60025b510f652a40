"""Pass@k of problems. Avg@n, the share of a problem's samples that are correct, is Pass@1."""

import numpy as np
from numpy.typing import ArrayLike


def pass_at_k(correct: ArrayLike, total: ArrayLike, k: int) -> np.ndarray:
    """Estimate without bias, for each problem, the probability that at least one of k samples is correct.

    1 - C(n-c, k) / C(n, k) is the share of the choices of k among the n samples that hold a correct one (Chen et al.,
    arXiv 2107.03374, Eq. 1). The ratio is computed as prod_{j<k} (1 - c/(n-j)), summed in logarithms, so that nothing
    overflows and no digits cancel. It takes k passes over the problems.

    Args:
        correct: (P,) integers, correct samples of each problem.
        total: (P,) integers, samples of each problem.
        k: number of samples that are tried, at least 1.

    Returns:
        (P,) float64 in [0, 1].

    Raises:
        ValueError: if the shapes differ, a value is no integer, k is less than 1, or a problem has fewer than k samples
            or more correct ones than samples; names the problem's index.
    """
    c, n = np.asarray(correct), np.asarray(total)
    if c.ndim != 1 or c.shape != n.shape:
        raise ValueError(f"correct and total must be of one shape (P,), got {c.shape} and {n.shape}")
    for name, array in (("correct", c), ("total", n)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {array.dtype}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for i in np.flatnonzero(n < k):
        raise ValueError(f"problem {i} has {n[i]} samples, too few for pass@{k}")
    for i in np.flatnonzero((c < 0) | (c > n)):
        raise ValueError(f"problem {i} has {c[i]} correct samples, allowed: 0 to {n[i]}")
    passed = np.ones(len(n))
    undecided = np.flatnonzero(n - c >= k)  # elsewhere each choice of k holds a correct sample
    c, n = c[undecided].astype(np.int64), n[undecided].astype(np.int64)
    log_miss = np.zeros(len(n))
    for j in range(k):
        log_miss += np.log1p(-c / (n - j))
    passed[undecided] = -np.expm1(log_miss)
    return passed
