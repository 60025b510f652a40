"""dist-n against sets of tuples and a case worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_lad.evaluation.text_diversity import TextDiversity, dist_n, text_diversity, tokenize

# Few words, so that n-grams recur within and across responses; the empty response too.
responses_lists = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "12", "\\frac", "$"]), max_size=12).map(" ".join), max_size=7
)


def ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


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
    responses = ["a b a b", "a b c"]
    assert dist_n(responses, 1) == 3 / 7  # a, b, c
    assert dist_n(responses, 2) == 3 / 5  # ab, ba, bc; "b a" across the responses does not count
    assert dist_n(responses, 3) == 3 / 3  # aba, bab, abc
    assert dist_n(responses, 4) == 1 / 1
    assert dist_n(responses, 5) is None


@settings(deadline=None)
@given(responses_lists, st.integers(1, 6))
def test_dist_n_is_the_share_of_distinct_tuples(responses, n):
    every = [ngram for response in responses for ngram in ngrams(response.split(), n)]
    assert dist_n(responses, n) == (len(set(every)) / len(every) if every else None)


def test_dist_n_falls_with_the_number_of_responses_alone():
    """What its docstring warns of: the words are drawn from one distribution throughout."""
    rng = np.random.default_rng(0)
    responses = [" ".join(rng.choice(["a", "b", "c", "d", "e"], size=30)) for _ in range(64)]
    assert dist_n(responses, 3) < 0.5 * dist_n(responses[:8], 3)


@settings(deadline=None)
@given(responses_lists)
def test_one_pass_gives_what_the_single_measures_give(responses):
    lengths = [len(response.split()) for response in responses]
    assert text_diversity(responses) == TextDiversity(
        dist=tuple(dist_n(responses, n) for n in (1, 2, 3, 4)),
        mean_length=sum(lengths) / len(lengths) if lengths else None,
    )


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_is_measured_as_it_is_tokenised(responses):
    tokens = [token for response in responses for token in tokenize(response)]
    measured = text_diversity(responses)
    assert measured.mean_length == len(tokens) / len(responses)
    assert measured.dist[0] == (len(set(tokens)) / len(tokens) if tokens else None)


def test_what_the_responses_do_not_define_is_none():
    assert text_diversity([]) == TextDiversity((None, None, None, None), None)
    assert text_diversity(["a b"]) == TextDiversity((1.0, 1.0, None, None), 2.0)
    assert text_diversity(["", ""]) == TextDiversity((None, None, None, None), 0.0)


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        dist_n(["a"], 0)
