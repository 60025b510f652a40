"""Which training problems overlap with a validation set, by n-grams of normalised words.

The rules are those of GPT-3's appendix C (Brown et al. 2020, arXiv 2005.14165), as we know them: 13-grams of lower-case
words without punctuation; problems shorter than that compare with all their words, down to 8, below which collisions
are spurious; n-grams found in more than 10 training documents are common phrases and are ignored. Ours: LaTeX that
only lays out is stripped, a problem of fewer than 8 words compares for equality, and equality always counts.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

N = 13
SHORTEST = 8
COMMON = 10

_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]ig+[lr]?|displaystyle|q?quad|text(?:bf|it|rm)?|math(?:rm|bf|it|bb|cal)|operatorname)(?![a-z])"
)
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class ValidationProblem:
    """A problem that must not be trained on.

    Attributes:
        file: the validation set's file name.
        index: its `extra_info.index`.
        question: the problem without instruction.
    """

    file: str
    index: int
    question: str


@dataclass(frozen=True)
class Match:
    """Why a training problem must go.

    Attributes:
        index: `extra_info.index` of the training problem.
        validation: the first problem of a validation set that it overlaps with.
        n_gram: the words that both have, joined by blanks; all words if the problems are equal.
    """

    index: int
    validation: ValidationProblem
    n_gram: str


def words(text: str) -> list[str]:
    """Normalised words: NFKC, lower case, no punctuation, no LaTeX that only lays out.

    Args:
        text: a problem, with or without LaTeX.

    Returns:
        E.g. ["the", "frac", "m", "n", "th"] for "The $\\left(\\dfrac{m}{n}\\right)$-th". A run of Chinese is one word.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    return _WORD.findall(_FRACTION.sub(r"\\frac", _LAYOUT.sub(" ", text)))


class Overlap:
    """Takes training problems one by one and tells, in the end, which of them overlap.

    Args:
        validation: problems of all validation sets.
    """

    def __init__(self, validation: Iterable[ValidationProblem]):
        self._problems: dict[str, dict[str, ValidationProblem]] = {}  # of an n-gram: file -> first problem with it
        self._equal: dict[str, dict[str, ValidationProblem]] = {}  # the same for all words
        self._lengths: set[int] = set()
        self._frequency: Counter[str] = Counter()  # in how many training problems an n-gram was found
        self._candidates: list[tuple[int, str, list[str]]] = []
        for problem in validation:
            tokens = words(problem.question)
            self._equal.setdefault(" ".join(tokens), {}).setdefault(problem.file, problem)
            n = min(N, len(tokens))
            if n >= SHORTEST:
                self._lengths.add(n)
                for n_gram in _n_grams(tokens, n):
                    self._problems.setdefault(n_gram, {}).setdefault(problem.file, problem)

    def add(self, index: int, question: str) -> None:
        """Take a training problem; each problem once, or its n-grams would seem common.

        Args:
            index: its `extra_info.index`.
            question: the problem without instruction.
        """
        tokens = words(question)
        found = [
            n_gram
            for n in sorted(self._lengths, reverse=True)
            for n_gram in dict.fromkeys(_n_grams(tokens, n))
            if n_gram in self._problems
        ]
        self._frequency.update(found)
        everything = " ".join(tokens)
        if found or everything in self._equal:
            self._candidates.append((index, everything, found))

    def matches(self) -> list[Match]:
        """Return the overlaps of training problems and validation files, in the order of the training problems."""
        matches = []
        for index, everything, found in self._candidates:
            by_file = {file: Match(index, one, everything) for file, one in self._equal.get(everything, {}).items()}
            for n_gram in found:
                if self._frequency[n_gram] <= COMMON:
                    for file, problem in self._problems[n_gram].items():
                        by_file.setdefault(file, Match(index, problem, n_gram))
            matches += [by_file[file] for file in sorted(by_file)]
        return matches

    def ignored(self) -> dict[str, int]:
        """N-grams of validation sets that are too common to mean anything, with their numbers of training problems."""
        return {n_gram: count for n_gram, count in sorted(self._frequency.items()) if count > COMMON}


def _n_grams(tokens: list[str], n: int) -> list[str]:
    return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
