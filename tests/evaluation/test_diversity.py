import math
from array import array
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_lad.evaluation import (
    EffectiveSolutions,
    Problem,
    Run,
    Validation,
    collision_probability,
    effective_solutions,
    shannon_entropy,
)
from verl_lad.evaluation.diversity import MIN_CORRECT_FOR_ENTROPY
from verl_lad.evaluation.measures import COLLISION, COLLISION_SHARE, EFFECTIVE, SHARE, Estimate, Measure, estimate
from verl_lad.evaluation.runs import Description

UNIFORM_30 = np.full(30, 1 / 30)
GEOMETRIC = 0.9 ** np.arange(300) / np.sum(0.9 ** np.arange(300))
ZIPF = 1 / np.arange(1, 101) / np.sum(1 / np.arange(1, 101))
DISTRIBUTIONS = {"uniform": UNIFORM_30, "geometric": GEOMETRIC, "zipf": ZIPF}

# Spiders in girdled and logged hemlock forest (Sackett et al. 2011), the example of the authors' R package iNEXT, with
# its documented estimates of Shannon and Simpson diversity (Hsieh, Ma & Chao 2016).
GIRDLED = [46, 22, 17, 15, 15, 9, 8, 6, 6, 4] + [2] * 4 + [1] * 12
LOGGED = [88, 22, 16, 15, 13, 10, 8, 8, 7, 7, 7, 5, 4, 4, 4] + [3] * 4 + [2] * 4 + [1] * 14


def effective_number(p: np.ndarray) -> float:
    return float(np.exp(-np.sum(p * np.log(p))))


def samples_of(p: np.ndarray, n: int, size: int, seed: int) -> list[np.ndarray]:
    return [counts[counts > 0] for counts in np.random.default_rng(seed).multinomial(n, p, size=size)]


def plug_in_entropy(counts: np.ndarray) -> float:
    p = np.asarray(counts) / np.sum(counts)
    return float(-np.sum(p * np.log(p)))


def validation(p: np.ndarray, accuracy: float, per_prompt: int, prompts: int, seed: int) -> list[list[int]]:
    """Labels of the correct samples of each prompt, when a correct sample's label is always distributed as p."""
    rng = np.random.default_rng(seed)
    return [rng.choice(len(p), size=rng.binomial(per_prompt, accuracy), p=p).tolist() for _ in range(prompts)]


def mean(
    measure: Measure, now: dict[object, EffectiveSolutions], base: dict[object, EffectiveSolutions] | None = None
) -> Estimate | None:
    """The report's number for one run, of which the solutions of each problem are given, now and at step 0."""
    steps = {0: base or {}, 5: now}
    validations = {
        step: Validation(Path(), {"b": {str(k): Problem(array("q"), array("q"), s) for k, s in solutions.items()}})
        for step, solutions in steps.items()
    }
    run = Run(Description(Path(), "lad", None, None, None, ""), "lad", {}, [], validations)
    return estimate(measure, [[measure.values(run, "b", 5)]], resamples=200)


def all_solutions(labels: list[list[int]]) -> dict[object, EffectiveSolutions]:
    return dict(enumerate(map(effective_solutions, labels)))


@pytest.mark.parametrize(
    ("counts", "shannon", "simpson"), [(GIRDLED, 13.826, 8.175), (LOGGED, 16.337, 6.920)], ids=["girdled", "logged"]
)
def test_estimates_equal_those_published_by_the_authors_of_the_estimator(counts, shannon, simpson):
    assert math.exp(shannon_entropy(counts)) == pytest.approx(shannon, abs=5e-4)
    assert 1 / collision_probability(counts) == pytest.approx(simpson, abs=5e-4)


@pytest.mark.parametrize("counts", [[1] * 40, [1] * 3 + [2] * 2 + [50], [1, 1, 5], [1, 2, 200], [1] * 5 + [2], [1, 1]])
def test_entropy_equals_the_formula_of_the_paper_in_high_precision(counts):
    mpmath = pytest.importorskip("mpmath")
    n, once, twice = sum(counts), counts.count(1), counts.count(2)
    with mpmath.workdps(400):
        one = mpmath.mpf(1)
        expected = sum(one * x / n * sum(one / k for k in range(x, n)) for x in counts)
        a = 2 * one * twice / ((n - 1) * once + 2 * twice) if twice else 2 * one / ((n - 1) * (once - 1) + 2)
        partial = sum((1 - a) ** r / r for r in range(1, n))
        expected += one * once / n * (1 - a) ** (1 - n) * (-mpmath.log(a) - partial)
        expected = float(expected)
    assert shannon_entropy(counts) == pytest.approx(expected, rel=1e-12)


def test_entropy_is_finite_where_the_formula_of_the_paper_overflows():
    counts = [1, 2, 2, 2, 20_000]  # (1 - A)^(1 - n) alone is inf in float64
    assert plug_in_entropy(counts) < shannon_entropy(counts) < plug_in_entropy(counts) + 1e-3


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [2, 3, 5, 10, 30, 100])
def test_collision_estimate_is_unbiased_at_every_sample_size(name, n):
    p = DISTRIBUTIONS[name]
    estimates = [collision_probability(counts) for counts in samples_of(p, n, size=4000, seed=n)]
    standard_error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - np.sum(p**2)) < 4 * standard_error


@pytest.mark.parametrize(
    ("name", "n", "bias"),
    [
        ("uniform", 10, 0.03),
        ("uniform", 16, 0.13),  # the estimator's worst case here: +11 %
        ("uniform", 50, 0.02),
        ("uniform", 115, 0.01),
        ("geometric", 26, 0.11),
        ("geometric", 115, 0.04),
        ("zipf", 50, 0.08),
        ("zipf", 115, 0.04),
        ("zipf", 500, 0.01),
    ],
)
def test_entropy_estimate_has_a_bias_below_the_documented_one(name, n, bias):
    p = DISTRIBUTIONS[name]
    estimates = [shannon_entropy(counts) for counts in samples_of(p, n, size=2000, seed=n)]
    standard_error = np.std(estimates) / math.sqrt(len(estimates))
    assert standard_error < 0.02
    assert math.exp(np.mean(estimates)) / effective_number(p) == pytest.approx(1.0, abs=bias)


@pytest.mark.parametrize("n", [10, 26, 50, 115])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_entropy_estimate_is_closer_to_the_truth_than_the_plug_in_one(name, n):
    truth = math.log(effective_number(DISTRIBUTIONS[name]))
    samples = samples_of(DISTRIBUTIONS[name], n, size=500, seed=n)
    estimate = np.mean([shannon_entropy(counts) for counts in samples])
    plug_in = np.mean([plug_in_entropy(counts) for counts in samples])
    assert abs(estimate - truth) < 0.5 * abs(plug_in - truth)


@pytest.mark.parametrize("name", ["uniform", "geometric"])
def test_accuracy_alone_does_not_move_the_estimates(name):
    p = DISTRIBUTIONS[name]
    low, high = (all_solutions(validation(p, accuracy, 128, prompts=600, seed=3)) for accuracy in (0.2, 0.9))
    entropies, collisions = ([mean(measure, x) for x in (low, high)] for measure in (EFFECTIVE, COLLISION))
    assert entropies[0].problems > 590
    assert entropies[1].problems == collisions[1].problems == 600
    assert collisions[1].value / collisions[0].value == pytest.approx(
        1.0, abs=0.04
    )  # 4 standard errors; nothing is left of a bias
    assert entropies[1].value / entropies[0].value == pytest.approx(
        1.0, abs=0.09
    )  # documented bias at 26 against 115 samples


@pytest.mark.parametrize("name", ["uniform", "geometric"])
def test_accuracy_alone_moves_the_plug_in_entropy_by_half(name):
    p = DISTRIBUTIONS[name]
    low, high = (
        np.mean(
            [plug_in_entropy(list(Counter(labels).values())) for labels in validation(p, accuracy, 128, 600, seed=3)]
        )
        for accuracy in (0.2, 0.9)
    )
    assert math.exp(high - low) > 1.5


def test_the_cut_at_few_samples_keeps_accuracy_from_moving_the_entropy():
    """At 16 samples a prompt and accuracy 0.2, three correct samples would look like a fifth of the diversity."""
    low = validation(UNIFORM_30, 0.2, 16, prompts=2000, seed=5)
    high = validation(UNIFORM_30, 0.9, 16, prompts=2000, seed=6)
    uncut = [
        math.exp(np.mean([shannon_entropy(list(Counter(labels).values())) for labels in prompts if len(labels) > 1]))
        for prompts in (low, high)
    ]
    assert uncut[1] / uncut[0] > 3
    assert all(effective_solutions(x).entropy is None for x in low if len(x) < MIN_CORRECT_FOR_ENTROPY)
    assert mean(EFFECTIVE, all_solutions(high)).value == pytest.approx(30, rel=0.13)


def test_exp_of_the_mean_entropy_is_less_biased_than_the_mean_of_its_exp():
    entropies = np.array([shannon_entropy(counts) for counts in samples_of(UNIFORM_30, 16, size=2000, seed=0)])
    assert 30 < np.exp(np.mean(entropies)) < np.mean(np.exp(entropies)) - 3


def test_a_single_solution_counts_as_one():
    assert effective_solutions(["a"] * 12) == EffectiveSolutions(entropy=1.0, collision=1.0, correct=12, distinct=1)


@pytest.mark.parametrize("labels", [[], ["a"]], ids=["none", "one"])
def test_fewer_than_two_correct_samples_leave_both_numbers_undefined(labels):
    assert effective_solutions(labels) == EffectiveSolutions(
        entropy=None, collision=None, correct=len(labels), distinct=len(labels)
    )


def test_few_correct_samples_define_the_collision_sense_only():
    result = effective_solutions(["a", "a", "b"])
    assert result.entropy is None
    assert result.collision == pytest.approx(3.0)


def test_no_agreement_is_infinite_in_the_collision_sense_and_finite_in_the_entropy_sense():
    result = effective_solutions(range(MIN_CORRECT_FOR_ENTROPY))
    assert result.collision == math.inf
    assert result.entropy is not None
    assert result.distinct < result.entropy < math.inf


@pytest.mark.parametrize("counts", [[], [1], [3, 0], [3, -1]])
@pytest.mark.parametrize("estimator", [shannon_entropy, collision_probability])
def test_impossible_counts_are_refused(estimator, counts):
    with pytest.raises(ValueError, match=r"positive|at least two"):
        estimator(counts)


labels_of_correct = st.lists(st.integers(0, 12), max_size=60)


@given(labels_of_correct, st.randoms(use_true_random=False))
def test_order_of_the_samples_does_not_matter(labels, random):
    shuffled = list(labels)
    random.shuffle(shuffled)
    assert_same(effective_solutions(shuffled), effective_solutions(labels))


@given(labels_of_correct)
def test_names_of_the_solutions_do_not_matter(labels):
    assert_same(effective_solutions([f"solution {12 - label}" for label in labels]), effective_solutions(labels))


@given(labels_of_correct)
def test_effective_numbers_are_at_least_one_and_the_entropy_exceeds_the_plug_in_one(labels):
    result = effective_solutions(labels)
    assert result.collision is None or result.collision >= 1.0
    if result.entropy is not None:
        assert result.entropy >= math.exp(plug_in_entropy(list(Counter(labels).values()))) * (1 - 1e-12)
        assert math.isfinite(result.entropy)


def assert_same(left: EffectiveSolutions, right: EffectiveSolutions) -> None:
    assert (left.correct, left.distinct) == (right.correct, right.distinct)
    assert left.entropy == pytest.approx(right.entropy)
    assert left.collision == pytest.approx(right.collision)


def test_mean_averages_entropies_and_probabilities_before_it_inverts():
    problems = dict(
        enumerate(
            [
                EffectiveSolutions(entropy=2.0, collision=2.0, correct=20, distinct=2),
                EffectiveSolutions(entropy=8.0, collision=math.inf, correct=20, distinct=20),
                EffectiveSolutions(entropy=None, collision=4.0, correct=3, distinct=2),
                EffectiveSolutions(entropy=None, collision=None, correct=1, distinct=1),
            ]
        )
    )
    entropy, collision = mean(EFFECTIVE, problems), mean(COLLISION, problems)
    assert entropy.value == pytest.approx(4.0)
    assert collision.value == pytest.approx(1 / ((0.5 + 0.0 + 0.25) / 3))
    assert (entropy.problems, collision.problems) == (2, 3)


def test_mean_of_problems_that_say_nothing_is_undefined():
    problems = all_solutions([[], ["a"]])
    assert mean(EFFECTIVE, problems) is None
    assert mean(COLLISION, problems) is None


def test_mean_without_any_agreement_is_infinite():
    assert mean(COLLISION, all_solutions(["ab", "abc"])).value == math.inf


@pytest.mark.parametrize("share", [SHARE, COLLISION_SHARE], ids=["entropy", "collision"])
def test_share_of_base_ignores_problems_that_only_the_trained_model_solves(share):
    solved_by_both = effective_solutions(["a", "b"] * 10)
    base = {"easy": solved_by_both, "hard": effective_solutions(["a"])}
    now = {"easy": solved_by_both, "hard": effective_solutions(["a"] * 20), "new": effective_solutions(["a"] * 20)}
    assert mean(share, now, base) == Estimate(1.0, None, None, problems=1, runs=1)


@pytest.mark.parametrize("share", [SHARE, COLLISION_SHARE], ids=["entropy", "collision"])
def test_share_of_base_of_a_collapse_from_two_solutions_to_one_is_a_half(share):
    now, base = all_solutions(["a" * 1000] * 2), all_solutions(["ab" * 500] * 2)
    found = mean(share, now, base)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), rel=1e-2)


def test_share_of_a_base_without_agreement_is_undefined_and_without_one_later_infinite():
    none, some = all_solutions(["ab"]), all_solutions(["aa"])
    assert mean(COLLISION_SHARE, none, some).value == math.inf
    assert mean(COLLISION_SHARE, some, none) is None
    assert mean(COLLISION_SHARE, none, none) is None
    assert mean(COLLISION_SHARE, none, {}) is None


@given(st.lists(st.tuples(labels_of_correct, labels_of_correct), min_size=1, max_size=4))
def test_share_of_base_is_the_ratio_of_both_means_on_the_problems_that_count_in_both(pairs):
    now, base = (all_solutions([pair[i] for pair in pairs]) for i in (0, 1))
    for share, measure in ((SHARE, EFFECTIVE), (COLLISION_SHARE, COLLISION)):
        both = [k for k in now if all(mean(measure, {k: x[k]}) is not None for x in (now, base))]
        found = mean(share, now, base)
        means = [mean(measure, {k: x[k] for k in both}) for x in (now, base)]
        if not both or means[1].value == math.inf:
            assert found is None
        else:
            assert found.value == pytest.approx(means[0].value / means[1].value, rel=1e-12)
            assert found.problems == len(both)
