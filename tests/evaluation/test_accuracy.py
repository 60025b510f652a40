"""Pass@k against exact fractions, intervals against enumeration of all resamples and by their coverage."""

import itertools
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_lad.evaluation.accuracy import pass_at_k
from verl_lad.evaluation.bootstrap import (
    Interval,
    bootstrap_mean,
    paired_bootstrap_difference,
    percentiles,
    resampled_means,
)


def exact_pass_at_k(c: int, n: int, k: int) -> float:
    """The definition, in integers of any size."""
    return float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))


def counts_of(n: int, k: int) -> list[int]:
    return sorted({c for c in (0, 1, 2, 3, n // 10, n // 2, n - k - 1, n - k, n - k + 1, n - 1, n) if 0 <= c <= n})


def test_pass_at_k_counts_the_choices_of_k_samples_that_hold_a_correct_one():
    correct, total = [0, 1, 2, 5, 6], [6, 6, 6, 6, 6]
    for k in range(1, 7):
        choices = list(itertools.combinations(range(6), k))
        expected = [sum(min(choice) < c for choice in choices) / len(choices) for c in correct]
        assert pass_at_k(correct, total, k) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("n", "k"), [(32, 1), (32, 8), (32, 32), (1000, 7), (1000, 990), (10**5, 1), (10**5, 64)])
def test_pass_at_k_equals_the_exact_fraction(n, k):
    correct = counts_of(n, k)
    estimates = pass_at_k(correct, [n] * len(correct), k)
    assert estimates == pytest.approx([exact_pass_at_k(c, n, k) for c in correct], rel=1e-12, abs=0)


def test_pass_at_k_keeps_its_digits_at_a_large_k_of_many_samples():
    """prod_{i<c} (n-k-i)/(n-i), in fractions: the binomials themselves would have 30,000 digits."""
    n, k, correct = 10**5, 10**4, [0, 1, 2, 30]
    missed = [math.prod(Fraction(n - k - i, n - i) for i in range(c)) for c in correct]
    assert pass_at_k(correct, [n] * 4, k) == pytest.approx([float(1 - m) for m in missed], rel=1e-12, abs=0)


@pytest.mark.parametrize(("n", "k", "p"), [(8, 4, 0.1), (16, 16, 0.3), (32, 5, 0.02)])
def test_pass_at_k_is_unbiased(n, k, p):
    """Its expectation over the binomial number of correct samples is 1 - (1 - p)^k, the probability it estimates."""
    probability = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert probability @ pass_at_k(range(n + 1), [n] * (n + 1), k) == pytest.approx(1 - (1 - p) ** k, rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)).filter(lambda t: t[0] <= t[1]), min_size=1))
def test_pass_at_1_is_the_share_of_correct_samples(problems):
    correct, total = zip(*problems, strict=True)
    assert pass_at_k(correct, total, 1) == pytest.approx([c / n for c, n in problems], abs=1e-15)


@pytest.mark.parametrize(
    ("correct", "total", "k", "message"),
    [
        ([1, 1], [4, 3], 4, "problem 1 has 3 samples, too few for pass@4"),
        ([1, 5], [4, 4], 1, "problem 1 has 5 correct samples, allowed: 0 to 4"),
        ([-1, 1], [4, 4], 1, "problem 0 has -1 correct samples"),
        ([0, 0], [4, 0], 1, "problem 1 has 0 samples"),
        ([1, 1], [4, 4], 0, "k must be at least 1, got 0"),
        ([0.5, 1], [4, 4], 1, "correct must be integers, got float64"),
        ([1, 1], [4], 1, r"one shape \(P,\), got \(2,\) and \(1,\)"),
    ],
)
def test_impossible_counts_are_refused(correct, total, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(correct, total, k)


def enumerated_quantiles(matrix: np.ndarray, confidence: float) -> tuple[float, float]:
    """Quantiles of the mean over every resample of the problems with every resample of the runs, all equally likely."""
    runs, problems = matrix.shape
    means = sorted(
        matrix[np.ix_(r, p)].mean()
        for r in itertools.product(range(runs), repeat=runs)
        for p in itertools.product(range(problems), repeat=problems)
    )
    return tuple(np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2]))


@pytest.mark.parametrize(
    "values", [[[0.1, 0.9, 0.4, 0.5, 0.73]], [[0.1, 0.6, 0.35, 0.93], [0.2, 0.5, 0.8, 0.97]]], ids=["a run", "two runs"]
)
@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_interval_equals_that_over_all_resamples(values, confidence):
    matrix = np.array(values)
    interval = bootstrap_mean(matrix, confidence=confidence, resamples=100_000)
    assert interval.mean == pytest.approx(matrix.mean())
    assert (interval.low, interval.high) == pytest.approx(enumerated_quantiles(matrix, confidence), abs=0.01)


def test_one_run_may_come_as_a_row_or_as_a_vector():
    values = np.linspace(0, 1, 7)
    assert bootstrap_mean(values) == bootstrap_mean(values[None])


def test_interval_covers_the_true_mean_in_about_95_percent_of_the_experiments():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_mean(rng.beta(2, 1, size=60), seed=i, resamples=500) for i in range(400)]
    covered = np.mean([interval.low <= 2 / 3 <= interval.high for interval in intervals])
    assert 0.91 < covered < 0.98  # 3 standard errors of the 400 experiments around 0.945


def test_several_runs_widen_the_interval_by_what_they_differ():
    """Pigeonhole variance for problems and runs that add up: var(problems)/P + var(runs)/R."""
    problems, runs = np.linspace(0, 0.4, 40), np.linspace(0, 0.3, 12)
    interval = bootstrap_mean(runs[:, None] + problems)
    alone = bootstrap_mean(runs.mean() + problems)
    variance = problems.var() / 40 + runs.var() / 12
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.03)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * math.sqrt(problems.var() / 40), rel=0.03)


def test_a_paired_difference_does_not_suffer_from_the_spread_of_the_problems():
    rng = np.random.default_rng(0)
    hardness = rng.random(50)
    noise = rng.normal(0, 0.01, size=50)
    difference = paired_bootstrap_difference(hardness + 0.03 + noise, hardness)
    assert difference.mean == pytest.approx(0.03 + noise.mean())
    assert difference.low > 0.02
    assert bootstrap_mean(hardness).high - bootstrap_mean(hardness).low > 0.1


def test_a_paired_difference_of_one_run_each_is_the_mean_of_the_differences():
    rng = np.random.default_rng(0)
    a, b = rng.random(20), rng.random(20)
    left, right = paired_bootstrap_difference(a, b), bootstrap_mean(a - b)
    assert (left.mean, left.low, left.high) == pytest.approx((right.mean, right.low, right.high), abs=1e-12)


def test_runs_of_the_two_sides_of_a_difference_are_not_paired():
    """Run i of one has nothing to do with run i of the other, so their spreads add up instead of cancelling."""
    runs = np.array([0.0, 0.5, 1.0])[:, None] + np.zeros(4)
    interval = paired_bootstrap_difference(runs, runs, confidence=0.9)
    assert interval.mean == 0.0
    assert interval.low < -0.4
    assert interval.high > 0.4
    unequal = paired_bootstrap_difference(runs, runs[:2])
    assert unequal.mean == pytest.approx(0.25)


def test_a_single_problem_says_nothing_about_others():
    assert bootstrap_mean([0.25]) == Interval(0.25, None, None)
    assert paired_bootstrap_difference([[0.5], [0.25]], [0.25]) == Interval(0.125, None, None)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_twenty_thousand_problems_are_resampled_in_bounded_memory():
    values = np.random.default_rng(0).random(20_000)
    tracemalloc.start()
    interval = bootstrap_mean(values, resamples=1000)  # at once: 160 MB an array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(20_000), rel=0.1)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, r"values must be of shape \(P,\) or \(R, P\) and not empty, got \(0,\)"),
        ([[[0.5]]], {}, r"got \(1, 1, 1\)"),
        ([[0.5, math.nan]], {}, r"values must be finite, got nan at \(0, 1\)"),
        ([0.5, 0.6], {"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ([0.5, 0.6], {"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_impossible_values_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, **options)


def test_a_difference_over_other_problems_is_refused():
    with pytest.raises(ValueError, match="same problems, got 2 and 3"):
        paired_bootstrap_difference([0.1, 0.2], [0.1, 0.2, 0.3])


def test_several_values_a_problem_are_resampled_together():
    """A resample has the same problems and runs for both values, so their ratio is that of the problems."""
    values = np.random.default_rng(0).random((3, 20))
    (means,) = resampled_means([np.stack([values, 2 * values], axis=2)], np.random.default_rng(1), 100)
    (alone,) = resampled_means([values], np.random.default_rng(1), 100)
    assert means.shape == (100, 2)
    assert means[:, 0] == pytest.approx(alone)
    assert means[:, 1] == pytest.approx(2 * alone)


def test_percentiles_of_unbounded_statistics_are_numbers():
    statistics = np.array([1.0] * 50 + [math.inf] * 50)
    assert percentiles(statistics) == (1.0, math.inf)
    assert percentiles(np.full(100, math.inf)) == (math.inf, math.inf)
