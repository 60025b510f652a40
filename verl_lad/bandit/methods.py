"""What is compared: LAD with every divergence, and the maximisers with and without a regulariser."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verl_lad.objective import LADConfig

CLIP = 0.2
"""Of PPO (arXiv 1707.06347), and verl's default."""
SMALL_ENTROPY = 0.01
"""A usual coefficient of an entropy bonus (PPO's for Atari, arXiv 1707.06347)."""
ALPHA = 2.0
"""Order of divergence="alpha": half of Pearson's chi-square. At LADConfig's default of 1/2 it would be hellinger again:
the factor of four between them is lost in Adam."""


@dataclass(frozen=True)
class Method:
    """One objective.

    Attributes:
        name: its name in every output.
        lad: settings of LAD's loss and advantages; None for the surrogate E[-rho A].
        clip: clip range of the surrogate, PPO's; None: not clipped.
        entropy: coefficient of a bonus H(pi), summed over the arms.
        kl_loss: coefficient of a penalty KL(pi || pi_0), summed over the arms.
        kl_reward: coefficient of a penalty K = log pi_old - log pi_0 in each score, as verl's use_kl_in_reward.
    """

    name: str
    lad: LADConfig | None = None
    clip: float | None = None
    entropy: float = 0.0
    kl_loss: float = 0.0
    kl_reward: float = 0.0


def all_methods(eta: float) -> list[Method]:
    """Every method, in the order of the table.

    All have the same advantage, the score less its mean, not divided by its standard deviation, so that the target is
    that of the scores as they are. LAD's partition and anchor change it where the name says so; kl_reward changes the
    score.

    Three baselines have a regulariser as strong as LAD's temperature, eta. pi* itself is the optimum of grpo-kl-loss,
    and of grpo-kl-reward where pi_old follows the policy (with pi_old = pi_0 its K is 0, and it is grpo). That of
    grpo-entropy-eta is exp(s / eta), normalised: pi* for a uniform pi_0. Entropy and KL loss are summed over all arms
    even where the rest is sampled, which is a favour to them.

    Args:
        eta: the temperature of the target.

    Raises:
        ValueError: if LADConfig does not allow eta.
    """
    return [
        Method("lad-js", LADConfig(eta)),
        Method("lad-js-anchored", LADConfig(eta, anchor="reference")),
        Method("lad-hellinger", LADConfig(eta, "hellinger")),
        Method("lad-tv", LADConfig(eta, "tv")),
        Method("lad-tv-partition-group", LADConfig(eta, "tv", partition="group")),
        Method("lad-kl", LADConfig(eta, "kl")),
        Method("lad-rkl", LADConfig(eta, "rkl")),
        Method("lad-jeffreys", LADConfig(eta, "jeffreys")),
        Method("lad-alpha-2", LADConfig(eta, "alpha", alpha=ALPHA)),
        Method("grpo"),
        Method("ppo-clip", clip=CLIP),
        Method(f"grpo-entropy-{SMALL_ENTROPY:g}", entropy=SMALL_ENTROPY),
        Method("grpo-entropy-eta", entropy=eta),
        Method("grpo-kl-loss", kl_loss=eta),
        Method("grpo-kl-reward", kl_reward=eta),
    ]


def surrogate_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float | None) -> Tensor:
    """-rho A, the policy gradient's surrogate, or PPO's max(-rho A, -clip(rho) A), elementwise.

    Args:
        log_prob, old_log_prob, advantages: one shape.
        clip: rho is clipped to [1 - clip, 1 + clip]; None: not at all.
    """
    rho = (log_prob - old_log_prob).exp()
    if clip is None:
        return -rho * advantages
    return torch.maximum(-rho * advantages, -rho.clamp(1 - clip, 1 + clip) * advantages)


def regulariser(method: Method, log_prob: Tensor, initial_log_prob: Tensor) -> Tensor:
    """-entropy H(pi) + kl_loss KL(pi || pi_0) of each policy.

    Args:
        method: its coefficients are used.
        log_prob: (..., 50) log pi.
        initial_log_prob: (..., 50) log pi_0.

    Returns:
        (...).
    """
    per_arm = (method.entropy + method.kl_loss) * log_prob - method.kl_loss * initial_log_prob
    return (log_prob.exp() * per_arm).sum(-1)
