"""Generate arithmetic word problems, and score a response by its last number.

`compute_score` is the custom reward function that verl calls (reward.custom_reward_function.path names this file).
"""

import random
import re
from typing import Any, NamedTuple

DATA_SOURCE = "verl_lad/word_problems"
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Iris", "Jack", "Kim", "Leo", "Mia", "Nils")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "tickets")
ROLES = ("user", "assistant")
EXAMPLES = (
    ("Tom has 5 nuts. Sue gives Tom 3 more. How many nuts does Tom have now?", "5 + 3 = 8"),
    ("Sue has 4 boxes with 6 pens in each. How many pens does Sue have?", "4 * 6 = 24"),
)


class Problem(NamedTuple):
    """A word problem and its answer, a positive integer."""

    text: str
    answer: int

    def chat(self) -> list[dict[str, str]]:
        """Return the messages of the prompt: the two examples, then the problem."""
        turns = [{"role": role, "content": text} for pair in EXAMPLES for role, text in zip(ROLES, pair, strict=True)]
        return [*turns, {"role": "user", "content": self.text}]


def make_problem(random_: random.Random) -> Problem:
    """Make a problem of one step, of one of three kinds: sums up to 24, products up to 81."""
    a, b = (random_.randint(2, 12) for _ in range(2))
    m, n = (random_.randint(2, 9) for _ in range(2))
    name, other = random_.sample(NAMES, 2)
    thing = random_.choice(THINGS)
    kinds = (
        (f"{name} has {a} {thing}. {other} gives {name} {b} more. How many {thing} does {name} have now?", a + b),
        (f"{name} has {a + b} {thing} and gives {b} to {other}. How many {thing} does {name} have left?", a),
        (f"{name} has {m} boxes with {n} {thing} in each. How many {thing} does {name} have?", m * n),
    )
    return Problem(*random_.choice(kinds))


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **unused: Any
) -> dict[str, float | str]:
    """Score 1 if the last number of the response is the answer, else 0. The solution is the bare calculation."""
    numbers = re.findall(r"\d+", solution_str.replace(",", ""))
    right = bool(numbers) and int(numbers[-1][:20]) == int(ground_truth)
    calculation = re.findall(r"\d+|[-+*/=×÷]", solution_str.replace(",", ""))
    return {"score": float(right), "acc": float(right), "solution": " ".join(calculation), "benchmark": "word problems"}
