"""Define the bandit, its target policy, and the methods that are compared.

The paper (arXiv 2602.20132) is reported to use 50 arms, scored by a mixture of three Gaussians. Their places, widths
and heights are not known: CENTRES, WIDTH and HEIGHTS are this project's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_lad.objective import LADConfig, lad_loss

ARMS = 50
CENTRES = (10, 25, 40)
WIDTH = 2.0
HEIGHTS = {"unequal": (0.9, 1.0, 0.8), "equal": (1.0, 1.0, 1.0)}  # one best arm, or several that are equally right
DISTANCE = torch.arange(ARMS) - torch.tensor(CENTRES, dtype=torch.float64).unsqueeze(-1)  # (3, 50)
BASINS = DISTANCE.abs() <= WIDTH * math.sqrt(2 * math.log(2))  # (3, 50) arms within half of each peak's height
BUMPS = (-DISTANCE.square() / (2 * WIDTH**2)).exp()
SCORES = {name: torch.tensor(heights, dtype=torch.float64) @ BUMPS for name, heights in HEIGHTS.items()}  # (50,)


def target_log_prob(initial_log_prob: Tensor, scores: Tensor, eta: float) -> Tensor:
    """Return log pi*, (..., 50), for pi* = pi_0 exp(s / eta) / Z, the maximum of E_pi[s] - eta KL(pi || pi_0)."""
    return (initial_log_prob + scores / eta).log_softmax(-1)


def modes_recovered(policy: Tensor, initial: Tensor, target: Tensor) -> Tensor:
    """Count the modes that policies (..., 50) have recovered, given pi_0 and pi*.

    A mode is recovered if its basin holds at least half of its mass under pi* and, where pi* raises that mass, at least
    half of the rise from pi_0. Without the second condition an untrained policy would have recovered most modes.
    """
    mass, start, end = (p @ BASINS.to(p.dtype).T for p in (policy, initial, target))
    return (mass >= 0.5 * (end + torch.where(end > start, start, 0.0))).sum(-1)


@dataclass(frozen=True)
class Method:
    """One objective: LAD's where `lad` is set, else the surrogate E[-rho A]."""

    lad: LADConfig | None = None
    clip: float | None = None  # PPO's clip range of the surrogate
    entropy: float = 0.0  # coefficient of a bonus H(pi), summed over the arms
    kl_loss: float = 0.0  # coefficient of a penalty KL(pi || pi_0), summed over the arms
    kl_reward: float = 0.0  # coefficient of a penalty K = log pi_old - log pi_0 in each score


def all_methods(eta: float) -> dict[str, Method]:
    """Return every method by name, in the order of the table.

    A regulariser named eta is as strong as LAD's temperature: pi* is the optimum of grpo-kl-loss, and of
    grpo-kl-reward where pi_old is refreshed. Where pi_old stays pi_0, grpo-kl-reward is grpo.
    """
    return {
        "lad-js": Method(LADConfig(eta)),
        "lad-js-anchored": Method(LADConfig(eta, anchor="reference", partition="group")),
        "lad-hellinger": Method(LADConfig(eta, "hellinger")),
        "lad-tv": Method(LADConfig(eta, "tv")),
        "lad-tv-partition-group": Method(LADConfig(eta, "tv", partition="group")),
        "lad-kl": Method(LADConfig(eta, "kl")),
        "lad-rkl": Method(LADConfig(eta, "rkl")),
        "lad-jeffreys": Method(LADConfig(eta, "jeffreys")),
        "lad-alpha-2": Method(LADConfig(eta, "alpha", alpha=2.0)),  # the default, 1/2, is four times hellinger
        "grpo": Method(),
        "ppo-clip": Method(clip=0.2),
        "grpo-entropy-0.01": Method(entropy=0.01),
        "grpo-entropy-eta": Method(entropy=eta),
        "grpo-kl-loss": Method(kl_loss=eta),
        "grpo-kl-reward": Method(kl_reward=eta),
    }


def weighted_advantages(scores: Tensor, weights: Tensor, config: LADConfig) -> Tensor:
    """Return what `group_advantages` with norm_by_std=False returns for a group that has a share of each arm."""
    if config.constant == "balanced":
        raise ValueError(f"partition={config.partition!r}, which means balanced, is not allowed: none or group")
    A = scores - (weights * scores).sum(-1, keepdim=True)
    if config.constant == "group":
        A = A - config.eta * (weights.log() + A / config.eta).logsumexp(-1, keepdim=True)
    return A


def policy_losses(
    method: Method, log_prob: Tensor, old: Tensor, initial: Tensor, scores: Tensor, weights: Tensor
) -> Tensor:
    """Return the loss, (...), given log pi, log pi_old and log pi_0 (..., 50) and each arm's share of the responses."""
    config = method.lad or LADConfig()
    kl_reward = config.eta if config.anchor == "reference" else method.kl_reward
    A = weighted_advantages(scores - kl_reward * (old - initial), weights, config)
    if method.lad:
        new_rows, old_rows, A_rows = (x.reshape(-1, ARMS) for x in (log_prob, old, A))
        losses = lad_loss(new_rows, old_rows, A_rows, torch.ones_like(A_rows), config)[0].view_as(A)
    else:
        rho = (log_prob - old).exp()
        clipped = rho if method.clip is None else rho.clamp(1 - method.clip, 1 + method.clip)
        losses = -torch.minimum(rho * A, clipped * A)
    penalties = log_prob.exp() * (method.entropy * log_prob + method.kl_loss * (log_prob - initial))
    return (weights * losses + penalties).sum(-1)
