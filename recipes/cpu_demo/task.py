"""Define the demo's task: name three digits with a given sum. Up to 75 answers are right, and all are equally good.

`compute_score` is the custom reward function that verl calls (reward.custom_reward_function.path names this file).
"""

from typing import Any

DIGITS = 3
SUMS = range(9 * DIGITS + 1)
DATA_SOURCE = "verl_lad/three_digits"


def prompt(total: int) -> str:
    """Return the prompt for a sum."""
    return f"{total:02d}="


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **unused: Any
) -> dict[str, float]:
    """Score a response, by verl's contract: 1 for exactly three digits with the sum `ground_truth`, else 0."""
    answer = solution_str.removesuffix("<|im_end|>").strip()
    right = (
        len(answer) == DIGITS and answer.isascii() and answer.isdigit() and sum(map(int, answer)) == int(ground_truth)
    )
    return {"score": float(right), "acc": float(right)}
