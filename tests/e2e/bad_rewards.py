"""Reward functions that go wrong, for reward.custom_reward_function.path."""

import math
from typing import Any


def throws(data_source: str, solution_str: str, ground_truth: str, **unused: Any) -> float:
    """As a parser does that meets something unforeseen."""
    raise KeyError("no such unit: parsec")


def infinite(data_source: str, solution_str: str, ground_truth: str, **unused: Any) -> float:
    """As a division by a length of zero does: for some of the responses to a prompt."""
    return math.inf if solution_str < "5" else 0.0
