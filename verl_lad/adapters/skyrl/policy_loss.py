"""The policy loss and the advantage estimator `lad`, and their names in SkyRL's registries.

SkyRL pickles registered functions by name into a Ray actor, from which every worker takes them. So verl-lad must be
installed on every node.
"""

from collections.abc import Sequence
from typing import Any

import torch
from skyrl.backends.skyrl_train.utils.off_policy_correction_utils import apply_off_policy_correction
from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, PolicyLossRegistry, reduce_loss
from torch import Tensor

from verl_lad.adapters.skyrl.config import LADAlgorithmConfig
from verl_lad.objective import DIAGNOSTICS, diagnostic_means, group_advantages, lad_loss

METRIC_NAMES = tuple(f"lad/{name}" for name in DIAGNOSTICS)
"""Names of the metrics as SkyRL gets them. It puts policy/loss_metrics/ in front."""


def compute_policy_loss_lad(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    config: LADAlgorithmConfig,
    loss_mask: Tensor,
    rollout_logprobs: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Compute LAD's loss of a micro-batch under SkyRL's contract of a policy loss.

    Args:
        log_probs: (B, T) of the policy in training; the only input that gets a gradient.
        old_log_probs: (B, T) of the policy before the update.
        advantages: (B, T, 2), A and the token's weight in loss_reduction, from LADTrainer. (B, T) in micro-batches that
            hold nothing but padding.
        config: the section trainer.algorithm.
        loss_mask: (B, T) 0/1.
        rollout_logprobs: (B, T) of the inference engine, for SkyRL's off_policy_correction.

    Returns:
        The weighted sum over the tokens, as SkyRL's losses; METRIC_NAMES and the metrics of the correction, as floats.

    Raises:
        ValueError: if the advantages do not come from LADTrainer.
    """
    mask = loss_mask.bool()
    if advantages.dim() == 2:
        if mask.any():
            raise ValueError(
                "policy_loss_type=lad got advantages that SkyRL already multiplied by the weights of loss_reduction; "
                "LAD is not linear in them. Start with `python -m verl_lad.adapters.skyrl.main_base`, or use "
                "verl_lad.adapters.skyrl.trainer.LADTrainer in your entrypoint"
            )
        advantages = torch.stack([advantages, torch.zeros_like(advantages)], dim=-1)
    advantages, weights = advantages.unbind(dim=-1)
    loss_matrix, diagnostics = lad_loss(log_probs, old_log_probs, advantages, mask, config.lad)
    loss, kept, metrics = apply_off_policy_correction(
        loss_matrix,
        torch.where(mask, old_log_probs, 0.0),  # SkyRL multiplies by the mask, and 0 * NaN is NaN
        None if rollout_logprobs is None else torch.where(mask, rollout_logprobs, 0.0),
        loss_mask,
        config.off_policy_correction,
    )
    loss = reduce_loss(loss * torch.where(mask, weights, 0.0), kept)
    return loss, {**dict(zip(METRIC_NAMES, diagnostic_means(diagnostics).values(), strict=True)), **metrics}


def compute_lad_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any],
    config: LADAlgorithmConfig,
    grpo_norm_by_std: bool = True,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Compute outcome advantages under SkyRL's contract of an estimator: its grpo, with LAD's partition and anchor.

    Args:
        token_level_rewards: (B, T). With anchor="reference" SkyRL's KL in the reward has made their sums s - eta K.
        response_mask: (B, T).
        index: (B,) equal for the responses to one prompt.
        config: the section trainer.algorithm.
        grpo_norm_by_std: divide by the group's standard deviation.
        unused: further arguments that SkyRL hands to every estimator.

    Returns:
        (B, T) advantages, 0 where masked, twice: as the advantages and as the returns.
    """
    scores = token_level_rewards.sum(dim=-1)
    advantages = group_advantages(scores, index, config.lad, norm_by_std=grpo_norm_by_std)
    advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


def register() -> None:
    """Register both under `lad`, in this process, and in all workers once SkyRL has started Ray.

    Raises:
        ValueError: if the name is taken.
    """
    PolicyLossRegistry.register("lad", compute_policy_loss_lad)
    AdvantageEstimatorRegistry.register("lad", compute_lad_outcome_advantage)
