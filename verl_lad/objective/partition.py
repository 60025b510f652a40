"""The constant that is subtracted from v = A / eta in each group of responses to one prompt.

Any constant leaves the minimiser of a strictly convex divergence where it is (docs/theory.md). The constant decides
the variance: with partition="balanced" the weights g of a group sum to zero at rho = 1, as GRPO's advantages do.
"""

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.divergences import Divergence, get_divergence

LARGEST_REGISTERED = 42.0
"""Bound on |d| for a registered divergence, whose f' is known to be finite up to here only."""
BISECTIONS = 70
"""Halvings of the widest bracket, 2e10 at eta = 1e-6, that leave less than a rounding of float64."""


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
    """Return b, the (groups,) constants to subtract from v for config.constant "group" or "balanced".

    group: b = log mean exp v, so that exp(v - b) has mean one in the group. balanced: the b with
    mean f'(exp(b - v)) = 0, unique where f is strictly convex; for tv, the midpoint of the medians.

    Args:
        v: (B,) float64, A / eta.
        groups: of the rows.
        config: constant, divergence and alpha are used.
    """
    if config.constant == "group":
        return log_mean_exp(v, groups)
    divergence = get_divergence(config.divergence, config.alpha)
    if divergence.order == 1.0:
        return groups.mean(v)
    if divergence.order is not None:
        power = 1.0 - divergence.order
        return log_mean_exp(power * v, groups) / power
    if divergence.name == "tv":
        return middle_of_medians(v, groups)
    return balance(v, groups, divergence)


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


def balance(v: Tensor, groups: Groups, divergence: Divergence) -> Tensor:
    """Return the (groups,) roots b of sum f'(exp(b - v)), which increases in b, by bisection between min and max v."""
    low, high = groups.extreme(v, "amin"), groups.extreme(v, "amax")
    zero = torch.zeros_like(v)
    for _ in range(BISECTIONS):
        middle = low + (high - low) / 2
        u = v - groups.spread(middle)
        if divergence.f is None:
            u = u.clamp(-LARGEST_REGISTERED, LARGEST_REGISTERED)
        too_high = groups.sum(divergence.weight(zero, u)) > 0  # f'(exp(-u)) is the weight at rho = 1
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    return low + (high - low) / 2
