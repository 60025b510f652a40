"""Seconds for 100,000 responses on one core: `python tests/benchmarks/bench_evaluation.py`.

The responses are made up: sentences drawn from a stock of each problem, of words with Zipf's frequencies and formulas
in LaTeX with numbers of their own, about 300 words by white space. The texts are made outside the clock, which counts
the process's CPU time, so that other processes hardly matter. Prints JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from verl_lad.evaluation import bootstrap_mean, collision_probability, dist_n, pass_at_k, tokenize

WORDS_PER_SENTENCE = 15
SENTENCES_IN_STOCK = 60
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


class Writer:
    """Makes up responses: 20,000 words, of which the k-th most frequent has a probability in proportion to 1/k."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.words = np.array(["".join(rng.choice(LETTERS, rng.integers(1, 12))) for _ in range(20_000)])
        self.p = 1.0 / np.arange(1, len(self.words) + 1)
        self.p /= self.p.sum()

    def responses(self, number: int, words: int) -> list[str]:
        """Responses to one problem."""
        stock = self.rng.choice(self.words, (SENTENCES_IN_STOCK, WORDS_PER_SENTENCE), p=self.p)
        return [
            " ".join(
                self._sentence(stock[i])
                for i in self.rng.integers(SENTENCES_IN_STOCK, size=max(1, words // WORDS_PER_SENTENCE))
            )
            for _ in range(number)
        ]

    def _sentence(self, words: np.ndarray) -> str:
        a, b, c = self.rng.integers(1, 100, size=3)
        head, tail = " ".join(words[:7]), " ".join(words[10:])
        return f"{head.capitalize()}, $x_{{{a}}} = \\frac{{{b}}}{{{c}}}$ {tail}."


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the time within to seconds[name]."""
    start = time.process_time()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=3125)
    parser.add_argument("--samples", type=int, default=32, help="responses to each problem")
    parser.add_argument("--words", type=int, default=300, help="words of a response")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    writer = Writer(rng)
    seconds: dict[str, float] = {}
    lengths = []
    correct = rng.integers(0, arguments.samples + 1, size=arguments.problems)
    total = np.full(arguments.problems, arguments.samples)
    for c in correct:
        responses = writer.responses(arguments.samples, arguments.words)
        answers = rng.geometric(0.2, size=c)
        with clock(seconds, "dist-1..4, length"):
            tokens = [tokenize(response) for response in responses]
            for n in (1, 2, 3, 4):
                dist_n(tokens, n)
        with clock(seconds, "effective answers"):
            collision_probability(answers.tolist())
        lengths.append(sum(map(len, tokens)) / len(tokens))
    with clock(seconds, "avg@k and pass@k with bootstrap"):
        bootstrap_mean(correct / total)
        for k in {1, arguments.samples // 4 or 1, arguments.samples}:
            bootstrap_mean(pass_at_k(correct, total, k))
    print(
        json.dumps(
            {
                "responses": arguments.problems * arguments.samples,
                "words_by_white_space": arguments.words,
                "tokens_per_response": round(sum(lengths) / len(lengths), 1),
                "seconds": {name: round(value, 2) for name, value in seconds.items()},
                "seconds_in_all": round(sum(seconds.values()), 2),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
