"""The bandit: its arms, their scores, the target policy, and when a mode counts as recovered.

From the paper (arXiv 2602.20132), as reported: 50 arms, and an advantage that is a mixture of three Gaussians over
them. Where the Gaussians stand, how wide and how high they are is not known to us; the choices below are ours.
"""

import math

import torch
from torch import Tensor

from verl_lad.objective import LADConfig

ARMS = 50
CENTRES = (10, 25, 40)
"""Arms at the peaks, ours: so far apart that the modes do not overlap. The best mode is neither first nor last."""
WIDTH = 2.0
"""Standard deviation of each Gaussian, in arms; ours. Equal, so that height alone tells the modes apart."""
HEIGHTS = {"unequal": (0.9, 1.0, 0.8), "equal": (1.0, 1.0, 1.0)}
"""Heights of the peaks, ours; scores from 0 to 1, as a verifier gives them. unequal: one arm is the best, so whatever
maximises the expected score loses the other modes. equal: several answers are equally right, as under a binary reward.
There every mixture of the three peaks is a maximiser, and which one comes out is the dynamics' doing."""


def landscape(heights: tuple[float, float, float]) -> Tensor:
    """Score of each arm, (50,) float64: the sum over the modes of height exp(-(arm - centre)^2 / (2 WIDTH^2))."""
    distance = torch.arange(ARMS) - torch.tensor(CENTRES, dtype=torch.float64).unsqueeze(-1)
    peaks = torch.tensor(heights, dtype=torch.float64).unsqueeze(-1)
    return (peaks * (-distance.square() / (2 * WIDTH**2)).exp()).sum(0)


def basins() -> Tensor:
    """The modes' arms, (3, 50) bool: those within half of the peak's height, two on either side of it."""
    distance = torch.arange(ARMS) - torch.tensor(CENTRES).unsqueeze(-1)
    return distance.abs() <= WIDTH * math.sqrt(2 * math.log(2))


def target_log_prob(initial_log_prob: Tensor, scores: Tensor, eta: float) -> Tensor:
    """log pi* for pi* = pi_0 exp(s / eta) / Z, which solves max_pi E_pi[s] - eta KL(pi || pi_0).

    Args:
        initial_log_prob: (..., 50) log pi_0.
        scores: (..., 50) s.
        eta: the temperature.

    Returns:
        (..., 50), normalised.
    """
    return (initial_log_prob + scores / eta).log_softmax(-1)


def modes_recovered(policy: Tensor, initial: Tensor, target: Tensor) -> Tensor:
    """Number of modes, of three, that a policy has recovered.

    A mode is recovered if its basin holds at least half of its mass under pi*, and, where pi* raises that mass, at
    least half of the rise from pi_0. Without the second condition a policy that has not moved would have most modes.

    Args:
        policy, initial, target: (..., 50) probabilities of pi, pi_0 and pi*.

    Returns:
        (...) int64, 0 to 3.
    """
    weights = basins().to(policy.dtype).T
    start, end = initial @ weights, target @ weights
    threshold = 0.5 * (end + torch.where(end > start, start, torch.zeros_like(start)))
    return (policy @ weights >= threshold).sum(-1)


def expected_advantages(
    scores: Tensor, behaviour_log_prob: Tensor, initial_log_prob: Tensor, config: LADConfig
) -> Tensor:
    """What `group_advantages` with norm_by_std=False tends to for an infinite group sampled from the behaviour policy.

    Args:
        scores: (..., 50) s.
        behaviour_log_prob: (..., 50) log pi_old, of the policy that samples.
        initial_log_prob: (..., 50) log pi_0, the reference policy of anchor="reference".
        config: eta, partition and anchor are used.

    Returns:
        (..., 50) A = s - E[s]; for anchor="reference" s - eta K takes the place of s, K = log pi_old - log pi_0. For
        partition="group" and anchor="reference" shifted such that E[exp(A / eta)] = 1. E is over pi_old.
    """
    anchored = config.anchor == "reference"
    s = scores - config.eta * (behaviour_log_prob - initial_log_prob) if anchored else scores
    A = s - (behaviour_log_prob.exp() * s).sum(-1, keepdim=True)
    if anchored or config.partition == "group":
        A = A - config.eta * (behaviour_log_prob + A / config.eta).logsumexp(-1, keepdim=True)
    return A
