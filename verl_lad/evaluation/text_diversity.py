"""Measure how different the texts of a model's responses to one problem are, by dist-n, and how long they are.

dist-n looks at the words alone. Two phrasings of one idea count as different, and a long response repeats more than a
short one. `verl_lad.evaluation.diversity` counts distinct solutions instead, where the reward function can name them.

A token is a run of letters (of any alphabet, with numerals that are no digits: x² is one), a run of decimal digits, a
LaTeX command (backslash and Latin letters), or any other single character that is not white space. Case is kept, since
x and X differ in mathematics. The tokenisation behind the paper's figures is unknown: compare runs measured with this
module, never with the paper's dist-n. No model's tokenizer is used, so that figures of two backbones are comparable.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_TOKEN = re.compile(r"[^\W\d_]+|\d+|\\[A-Za-z]+|\S")


class TextDiversity(NamedTuple):
    """Diversity of the texts of the responses to one problem.

    Attributes:
        dist: dist-1 to dist-4, see `dist_n`; None where no response is long enough.
        mean_length: mean number of tokens of a response; None without responses.
    """

    dist: tuple[float | None, ...]
    mean_length: float | None


def tokenize(text: str) -> list[str]:
    """Split a text into tokens: "So \\frac{x1}{20}!" gives So, \\frac, {, x, 1, }, {, 20, }, !"""
    return _TOKEN.findall(text)


def dist_n(responses: Iterable[str], n: int) -> float | None:
    """Return the share of distinct n-grams among all n-grams of the responses to one problem.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv 1510.03055. No n-gram
    crosses from one response to the next. The share falls with the number of responses and with their length, whatever
    their diversity: compare two models on equal numbers of responses, and look at their lengths beside it.

    Args:
        responses: responses to one problem.
        n: order, at least 1.

    Returns:
        Share in (0, 1]; None when no response has n tokens.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return _dist([tokenize(response) for response in responses], n)


def text_diversity(responses: Iterable[str]) -> TextDiversity:
    """Measure dist-1 to dist-4 and the mean length of the responses to one problem."""
    tokens = [tokenize(response) for response in responses]
    mean_length = sum(map(len, tokens)) / len(tokens) if tokens else None
    return TextDiversity(tuple(_dist(tokens, n) for n in (1, 2, 3, 4)), mean_length)


def _dist(tokens: Sequence[Sequence[str]], n: int) -> float | None:
    distinct: set[tuple[str, ...]] = set()
    for response in tokens:
        distinct.update(zip(*(response[i:] for i in range(n)), strict=False))
    total = sum(max(len(response) - n + 1, 0) for response in tokens)
    return len(distinct) / total if total else None
