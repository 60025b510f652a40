"""Estimate how many distinct correct solutions a model still gives, whatever the number of its correct samples.

A more accurate model produces more correct samples, and the plain ("plug-in") entropy of a sample rises with its size.
It would report a gain in diversity that is only a gain in accuracy. The estimators here remove that dependence.
Effective numbers are those of Hill ("Diversity and evenness", Ecology 54:427-432, 1973): the number of equally likely
solutions that would have the same entropy, or the same probability that two samples agree.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

MIN_CORRECT_FOR_ENTROPY = 10
"""Correct samples below which the entropy of a problem's solutions is undefined. The number is verl-lad's choice.

No estimator sees 30 solutions in 5 samples: over 30 equally likely ones the Chao-Wang-Jost estimate gives 3.2 at N = 2,
14 at N = 5 and 30 at N = 10. Smaller samples would bring back a gain in diversity that is only a gain in accuracy. The
cut depends on N alone, not on the labels, and so does not bias what is left.
"""


@dataclass(frozen=True)
class EffectiveSolutions:
    """Effective number of distinct correct solutions of one problem.

    Attributes:
        entropy: exp(Shannon entropy), at least 1; None when `correct` < `MIN_CORRECT_FOR_ENTROPY`.
        collision: 1 / P(two correct samples agree), at least 1; None when `correct` < 2; inf when no two samples agree.
        correct: number of correct samples, N.
        distinct: number of distinct labels among them.
    """

    entropy: float | None
    collision: float | None
    correct: int
    distinct: int


def effective_solutions(labels: Iterable[Hashable]) -> EffectiveSolutions:
    """Estimate how many distinct correct solutions a model effectively gives to one problem.

    N = 0 or N = 1 correct samples say nothing about diversity: both numbers are None. The collision sense is defined
    from N = 2 on. It is noisy for a small N, and inf when no two samples agree. The entropy sense is None below N =
    `MIN_CORRECT_FOR_ENTROPY`, as no estimator is free of bias there. It still reads low where N is below the effective
    number itself (see `shannon_entropy`).

    Args:
        labels: one label per correct sample of the problem; equal labels mean the same solution.

    Returns:
        The effective numbers with the sizes of the sample behind them.
    """
    counts = list(Counter(labels).values())
    correct = sum(counts)
    entropy = collision = None
    if correct >= MIN_CORRECT_FOR_ENTROPY:
        entropy = math.exp(shannon_entropy(counts))
    if correct >= 2:
        probability = collision_probability(counts)
        collision = 1.0 / probability if probability > 0.0 else math.inf
    return EffectiveSolutions(entropy=entropy, collision=collision, correct=correct, distinct=len(counts))


def shannon_entropy(counts: Sequence[int]) -> float:
    """Estimate the Shannon entropy of the distribution that a sample was drawn from (Chao, Wang & Jost 2013).

    Chao, Wang & Jost, "Entropy and the species accumulation curve", Methods in Ecology and Evolution 4:1091-1100, 2013:

        H = sum_i X_i/n sum_{k=X_i}^{n-1} 1/k  +  f1/n (1-A)^(1-n) [ -log A - sum_{r=1}^{n-1} (1-A)^r / r ]

    with f1, f2 the numbers of labels seen once and twice and A = 2 f2 / ((n-1) f1 + 2 f2), or 2 / ((n-1)(f1-1) + 2) if
    f2 = 0. The first term is unbiased for all of the entropy that n samples can tell, the second estimates the rest
    from the rate at which new labels still turn up.

    Bias that is left in exp(H), from 4000 simulations a cell (plug-in entropy in brackets):

        n                                   10           26           50           115
        30 equally likely labels            0 (-73 %)    5 (-47 %)    1 (-29 %)    0 (-13 %)
        geometric, mean 10 (25.8)         -16 (-71 %)   -9 (-49 %)   -6 (-34 %)   -3 (-19 %)
        p ~ 1/rank, 100 labels (39.7)     -42 (-82 %)  -14 (-66 %)   -6 (-52 %)   -3 (-34 %)

    So it is good to 10 % once n reaches the effective number itself. It saturates when (almost) all labels are
    distinct: the sample then only says that there are more solutions than it can count.

    Args:
        counts: how often each distinct label was seen, all positive, in any order.

    Returns:
        Entropy in nats, at least 0.

    Raises:
        ValueError: if there are fewer than two samples or a count is not positive.
    """
    seen = _checked_counts(counts)
    n = int(seen.sum())
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n))])  # harmonic[m] = sum_{k=1}^{m} 1/k
    explained = float(np.sum(seen / n * (harmonic[n - 1] - harmonic[seen - 1])))
    once, twice = int(np.sum(seen == 1)), int(np.sum(seen == 2))
    if once == 0 or (once == 1 and twice == 0):  # A = 1: nothing unseen
        return explained
    a = 2 * twice / ((n - 1) * once + 2 * twice) if twice > 0 else 2 / ((n - 1) * (once - 1) + 2)
    return explained + once / n * _scaled_log_tail(n, a)


def _scaled_log_tail(n: int, a: float) -> float:
    """Evaluate (1-a)^(1-n) [-log a - sum_{r<n} (1-a)^r / r] = sum_{j>=1} (1-a)^j / (n-1+j), 0 < a < 1, accurately."""
    if n * a < 1.0:  # the series would be long, and (1-a)^(1-n) is at most about e
        r = np.arange(1, n)
        return (1.0 - a) ** (1 - n) * (-math.log(a) - float(np.sum((1.0 - a) ** r / r)))
    j = np.arange(1, math.ceil(40.0 / a) + 1)  # the terms left out sum to less than e^-40
    return float(np.sum((1.0 - a) ** j / (n - 1 + j)))


def collision_probability(counts: Sequence[int]) -> float:
    """Estimate without bias the probability that two samples of one problem agree.

    sum_i X_i (X_i - 1) / (n (n - 1)) is the share of agreeing pairs (Simpson, "Measurement of diversity", Nature
    163:688, 1949). Its expectation is sum_i p_i^2 at every n >= 2. Its inverse is not unbiased, so invert after
    averaging, not before.

    Args:
        counts: how often each distinct label was seen, all positive, in any order.

    Returns:
        Probability in [0, 1]; 0 when no two samples agree.

    Raises:
        ValueError: if there are fewer than two samples or a count is not positive.
    """
    seen = _checked_counts(counts)
    n = int(seen.sum())
    return float(np.sum(seen * (seen - 1))) / (n * (n - 1))


def _checked_counts(counts: Sequence[int]) -> np.ndarray:
    seen = np.asarray(counts, dtype=np.int64)
    if np.any(seen <= 0):
        raise ValueError(f"counts must be positive, got {int(seen.min())}")
    if seen.sum() < 2:
        raise ValueError(f"need at least two samples, got {int(seen.sum())}")
    return seen
