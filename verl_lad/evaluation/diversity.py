"""Measure how different the responses to one problem are: distinct solutions among the correct ones, and dist-n.

A more accurate model produces more correct samples, and the plain number of distinct solutions rises with them. It
would report a gain in diversity that is only a gain in accuracy. The probability that two correct samples agree has an
estimate without bias at any number of samples. Its inverse is the effective number of solutions: that of equally likely
ones which would agree as often (Hill, "Diversity and evenness", Ecology 54:427-432, 1973).

dist-n looks at the words alone. Two phrasings of one idea count as different, and a long response repeats more than a
short one. A token is a run of letters (of any alphabet, with numerals that are no digits: x² is one), a run of decimal
digits, a LaTeX command (backslash and Latin letters), or any other single character that is not white space. Case is
kept, since x and X differ in mathematics. The tokenisation behind the paper's figures is unknown: compare runs measured
with this module, never with the paper's dist-n. No model's tokenizer is used, so that two backbones compare.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

_TOKEN = re.compile(r"[^\W\d_]+|\d+|\\[A-Za-z]+|\S")


def collision_probability(labels: Iterable[Hashable]) -> float | None:
    """Estimate without bias the probability that two correct samples of one problem have the same solution.

    sum_i X_i (X_i - 1) / (n (n - 1)) is the share of agreeing pairs (Simpson, "Measurement of diversity", Nature
    163:688, 1949). Its expectation is sum_i p_i^2 at every n >= 2. Its inverse is not unbiased, so invert after
    averaging over problems, not before.

    Args:
        labels: one label per correct sample of the problem; equal labels mean the same solution.

    Returns:
        Probability in [0, 1], 0 when no two samples agree; None for fewer than two samples.
    """
    counts = Counter(labels).values()
    n = sum(counts)
    return sum(count * (count - 1) for count in counts) / (n * (n - 1)) if n >= 2 else None


def tokenize(text: str) -> list[str]:
    """Split a text into tokens: "So \\frac{x1}{20}!" gives So, \\frac, {, x, 1, }, {, 20, }, !"""
    return _TOKEN.findall(text)


def dist_n(responses: Iterable[Sequence[str]], n: int) -> float | None:
    """Return the share of distinct n-grams among all n-grams of the responses to one problem.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv 1510.03055. No n-gram
    crosses from one response to the next. The share falls with the number of responses and with their length, whatever
    their diversity: compare two models on equal numbers of responses, and look at their lengths beside it.

    Args:
        responses: the tokens of each response to one problem, see `tokenize`.
        n: order, at least 1.

    Returns:
        Share in (0, 1]; None when no response has n tokens.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    distinct: set[tuple[str, ...]] = set()
    total = 0
    for tokens in responses:
        distinct.update(zip(*(tokens[i:] for i in range(n)), strict=False))
        total += max(len(tokens) - n + 1, 0)
    return len(distinct) / total if total else None
