"""Collision probability against published and exact values, effective numbers by hand, dist-n against sets."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_lad.evaluation import Problem, Run, Validation, collision_probability, dist_n, tokenize
from verl_lad.evaluation.table import EFFECTIVE, SHARE, Estimate, Measure, estimate

UNIFORM_30 = np.full(30, 1 / 30)
GEOMETRIC = 0.9 ** np.arange(300) / np.sum(0.9 ** np.arange(300))
ZIPF = 1 / np.arange(1, 101) / np.sum(1 / np.arange(1, 101))
DISTRIBUTIONS = {"uniform": UNIFORM_30, "geometric": GEOMETRIC, "zipf": ZIPF}

# Spiders in girdled and logged hemlock forest (Sackett et al. 2011), the example of the R package iNEXT, with its
# documented estimates of Simpson diversity (Hsieh, Ma & Chao 2016).
GIRDLED = [46, 22, 17, 15, 15, 9, 8, 6, 6, 4] + [2] * 4 + [1] * 12
LOGGED = [88, 22, 16, 15, 13, 10, 8, 8, 7, 7, 7, 5, 4, 4, 4] + [3] * 4 + [2] * 4 + [1] * 14


def labels_of(counts: list[int]) -> list[int]:
    return np.repeat(np.arange(len(counts)), counts).tolist()


def validation(p: np.ndarray, accuracy: float, per_prompt: int, prompts: int, seed: int) -> list[list[int]]:
    """Labels of the correct samples of each prompt, when a correct sample's label is always distributed as p."""
    rng = np.random.default_rng(seed)
    return [rng.choice(len(p), size=rng.binomial(per_prompt, accuracy), p=p).tolist() for _ in range(prompts)]


def mean(measure: Measure, now: dict[str, list], base: dict[str, list] | None = None) -> Estimate | None:
    """The report's number for one run, of which the correct solutions of each problem are given, now and at step 0."""

    def at(labels: dict[str, list]) -> Validation:
        problems = {
            (key, ""): Problem(len(own), 99, len(set(own)), collision_probability(own), (), 0.0)
            for key, own in labels.items()
        }
        return Validation(Path(), {"b": problems})

    run = Run(Path(), "lad", validations={0: at(base or {}), 5: at(now)})
    return estimate(measure, [measure.values(run, "b", 5)])


def numbered(labels: list) -> dict[str, list]:
    return {str(i): list(own) for i, own in enumerate(labels)}


@pytest.mark.parametrize(("counts", "simpson"), [(GIRDLED, 8.175), (LOGGED, 6.920)], ids=["girdled", "logged"])
def test_estimate_equals_that_published_by_the_authors_of_inext(counts, simpson):
    assert 1 / collision_probability(labels_of(counts)) == pytest.approx(simpson, abs=5e-4)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [2, 3, 5, 10, 30, 100])
def test_collision_estimate_is_unbiased_at_every_sample_size(name, n):
    p = DISTRIBUTIONS[name]
    samples = np.random.default_rng(n).multinomial(n, p, size=4000)
    estimates = [collision_probability(labels_of(counts)) for counts in samples]
    standard_error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - np.sum(p**2)) < 4 * standard_error


@pytest.mark.parametrize("name", ["uniform", "geometric"])
def test_accuracy_alone_does_not_move_the_effective_number(name):
    p = DISTRIBUTIONS[name]
    low, high = (numbered(validation(p, accuracy, 128, prompts=600, seed=3)) for accuracy in (0.2, 0.9))
    found = [mean(EFFECTIVE, labels) for labels in (low, high)]
    assert found[0].problems == found[1].problems == 600
    assert found[1].value / found[0].value == pytest.approx(1.0, abs=0.04)  # 4 standard errors; nothing left of a bias


def test_a_single_solution_counts_as_one():
    assert mean(EFFECTIVE, {"p": ["a"] * 12}) == Estimate(1.0, None, None, problems=1)


@pytest.mark.parametrize("labels", [[], ["a"]], ids=["none", "one"])
def test_fewer_than_two_correct_samples_say_nothing(labels):
    assert collision_probability(labels) is None


def test_three_samples_of_which_two_agree_are_one_pair_of_three():
    assert collision_probability(["a", "a", "b"]) == pytest.approx(1 / 3)


labels_of_correct = st.lists(st.integers(0, 12), max_size=60)


@given(labels_of_correct, st.randoms(use_true_random=False))
def test_order_and_names_of_the_samples_do_not_matter(labels, random):
    shuffled = [f"solution {12 - label}" for label in labels]
    random.shuffle(shuffled)
    assert collision_probability(shuffled) == collision_probability(labels)


@given(labels_of_correct)
def test_effective_numbers_are_at_least_one(labels):
    probability = collision_probability(labels)
    assert probability is None or 0.0 <= probability <= 1.0


def test_mean_averages_probabilities_before_it_inverts():
    found = mean(EFFECTIVE, numbered(["aaab", "abc", "aab", "a"]))
    assert found.value == pytest.approx(1 / ((1 / 2 + 0.0 + 1 / 3) / 3))
    assert found.problems == 3


def test_mean_of_problems_that_say_nothing_is_undefined():
    assert mean(EFFECTIVE, numbered([[], ["a"]])) is None


def test_mean_without_any_agreement_is_infinite():
    assert mean(EFFECTIVE, numbered(["ab", "abc"])).value == math.inf


def test_share_of_base_ignores_problems_that_only_the_trained_model_solves():
    solved_by_both = ["a", "b"] * 10
    base = {"easy": solved_by_both, "hard": ["a"]}
    now = {"easy": solved_by_both, "hard": ["a"] * 20, "new": ["a"] * 20}
    assert mean(SHARE, now, base) == Estimate(1.0, None, None, problems=1)


def test_share_of_base_of_a_collapse_from_two_solutions_to_one_is_a_half():
    now, base = numbered(["a" * 1000] * 2), numbered(["ab" * 500] * 2)
    found = mean(SHARE, now, base)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), rel=1e-2)


def test_share_of_a_base_without_agreement_is_undefined_and_without_one_later_infinite():
    none, some = numbered(["ab"]), numbered(["aa"])
    assert mean(SHARE, none, some).value == math.inf
    assert mean(SHARE, some, none) is None
    assert mean(SHARE, none, none) is None
    assert mean(SHARE, none, {}) is None


@settings(deadline=None)
@given(st.lists(st.tuples(labels_of_correct, labels_of_correct), min_size=1, max_size=4))
def test_share_of_base_is_the_ratio_of_both_means_on_the_problems_that_count_in_both(pairs):
    now, base = (numbered([pair[i] for pair in pairs]) for i in (0, 1))
    both = [k for k in now if all(mean(EFFECTIVE, {k: x[k]}) is not None for x in (now, base))]
    found = mean(SHARE, now, base)
    means = [mean(EFFECTIVE, {k: x[k] for k in both}) if both else None for x in (now, base)]
    if not both or means[1].value == math.inf:
        assert found is None
    else:
        assert found.value == pytest.approx(means[0].value / means[1].value, rel=1e-12)
        assert found.problems == len(both)


# Few words, so that n-grams recur within and across responses; the empty response too.
responses_lists = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "12", "\\frac", "$"]), max_size=12), max_size=7
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("So \\frac{x1}{20}!", ["So", "\\frac", "{", "x", "1", "}", "{", "20", "}", "!"]),
        ("X is not x", ["X", "is", "not", "x"]),
        ("3.14, don't\n\n a_i", ["3", ".", "14", ",", "don", "'", "t", "a", "_", "i"]),
        ("naïve für \\\\ x²≥½", ["naïve", "für", "\\", "\\", "x²", "≥", "½"]),
        (" \t\n", []),
        ("", []),
    ],
)
def test_tokens_are_words_numbers_latex_commands_and_single_characters(text, tokens):
    assert tokenize(text) == tokens


@settings(deadline=None)
@given(st.text())
def test_tokens_lose_nothing_but_white_space(text):
    assert "".join(tokenize(text)) == "".join(text.split())


def test_dist_n_of_a_case_worked_out_by_hand():
    responses = [tokenize("a b a b"), tokenize("a b c")]
    assert dist_n(responses, 1) == 3 / 7  # a, b, c
    assert dist_n(responses, 2) == 3 / 5  # ab, ba, bc; "b a" across the responses does not count
    assert dist_n(responses, 3) == 3 / 3  # aba, bab, abc
    assert dist_n(responses, 4) == 1 / 1
    assert dist_n(responses, 5) is None


@settings(deadline=None)
@given(responses_lists, st.integers(1, 6))
def test_dist_n_is_the_share_of_distinct_tuples(responses, n):
    every = [tuple(tokens[i : i + n]) for tokens in responses for i in range(len(tokens) - n + 1)]
    assert dist_n(responses, n) == (len(set(every)) / len(every) if every else None)


def test_dist_n_falls_with_the_number_of_responses_alone():
    """What its docstring warns of: the words are drawn from one distribution throughout."""
    rng = np.random.default_rng(0)
    responses = [rng.choice(["a", "b", "c", "d", "e"], size=30).tolist() for _ in range(64)]
    assert dist_n(responses, 3) < 0.5 * dist_n(responses[:8], 3)


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        dist_n([["a"]], 0)
