"""The constant that is subtracted from v = A / eta in each group of responses to one prompt.

A constant leaves the minimiser of a strictly convex divergence where it is (docs/theory.md, 2.1). It decides the
variance: with partition="balanced" the weights g of a group sum to zero at rho = 1, as GRPO's advantages do.
"""

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.divergences import Divergence, get_divergence

HALVINGS = 64
"""Halvings of a bracket: 2^-64 of it is less than the rounding of v in float64."""


class Groups:
    """Sums and extremes over groups of rows.

    Args:
        index: (B,) int64, the group of each row.
        groups: number of groups.
    """

    def __init__(self, index: Tensor, groups: int) -> None:
        self.index, self.groups = index, groups
        self.count = torch.bincount(index, minlength=groups)

    def sum(self, x: Tensor) -> Tensor:
        """Return the (groups,) sums of (B,) x."""
        return x.new_zeros(self.groups).index_add_(0, self.index, x)

    def mean(self, x: Tensor) -> Tensor:
        """Return the (groups,) means of (B,) x."""
        return self.sum(x) / self.count

    def extreme(self, x: Tensor, reduce: str) -> Tensor:
        """Return the (groups,) "amin" or "amax" of (B,) x."""
        return x.new_zeros(self.groups).scatter_reduce_(0, self.index, x, reduce, include_self=False)

    def spread(self, x: Tensor) -> Tensor:
        """Return the (B,) values of (groups,) x for each row."""
        return x.index_select(0, self.index)


def group_constant(v: Tensor, groups: Groups, config: LADConfig) -> Tensor:
    """Return b, the constants to subtract from v for config.constant "group" or "balanced".

    group: b = log mean exp v, so that exp(v - b) has mean one in the group. balanced: see `balance`; for tv, whose f'
    is a step, `middle_of_medians`.

    Args:
        v: (B,) float64, A / eta.
        groups: of the rows.
        config: its constant, divergence, alpha and max_log_weight are used.

    Returns:
        (groups,) float64.
    """
    if config.constant == "group":
        return log_mean_exp(v, groups)
    divergence = get_divergence(config.divergence, config.alpha)
    if divergence.name == "tv":
        return middle_of_medians(v, groups)
    return balance(v, groups, divergence, config.max_log_weight)


def log_mean_exp(v: Tensor, groups: Groups) -> Tensor:
    """Return the (groups,) logarithms of the mean of exp(v), without overflow."""
    peak = groups.extreme(v, "amax")
    return peak + groups.mean((v - groups.spread(peak)).exp()).log()


def middle_of_medians(v: Tensor, groups: Groups) -> Tensor:
    """Return the (groups,) midpoints between the lower and the upper median of v."""
    order = v.argsort(stable=True)
    ordered = v[order][groups.index[order].argsort(stable=True)]
    first = groups.count.cumsum(0) - groups.count
    return (ordered[first + (groups.count - 1) // 2] + ordered[first + groups.count // 2]) / 2


def balance(v: Tensor, groups: Groups, divergence: Divergence, max_log_weight: float) -> Tensor:
    """Return the (groups,) constants b with which the weights of a group sum to zero at rho = 1, by bisection.

    The weight of a sample is f'(exp(-u)), u = v - b, with u limited as in the loss. It increases in b, from at most 0
    for every sample at b = min v to at least 0 at b = max v. The root is unique where f is strictly convex, unless the
    limit holds for all samples of the group: the loss is then the same for every root.
    """
    low, high = groups.extreme(v, "amin"), groups.extreme(v, "amax")
    rho_one = torch.zeros_like(v)
    for _ in range(HALVINGS):
        b = low + (high - low) / 2
        u = divergence.saturate(v - groups.spread(b), max_log_weight)
        too_high = groups.sum(divergence.weight(rho_one, u)) > 0
        low, high = torch.where(too_high, low, b), torch.where(too_high, b, high)
    return low
