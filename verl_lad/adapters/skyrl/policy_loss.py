"""The policy loss and the advantage estimator `lad`, and their names in SkyRL's registries.

SkyRL pickles what is registered, by name, into a named Ray actor from which every worker takes it: verl-lad has to be
installed on every node.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from skyrl.backends.skyrl_train.utils.off_policy_correction_utils import apply_off_policy_correction
from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, PolicyLossRegistry, reduce_loss
from torch import Tensor

from verl_lad.adapters.skyrl.config import LADAlgorithmConfig
from verl_lad.objective import DIAGNOSTICS, group_advantages, lad_diagnostics, lad_terms

METRIC_NAMES = tuple(f"lad/{name}" for name in DIAGNOSTICS)
"""As SkyRL gets them; it puts policy/loss_metrics/ in front."""


def compute_policy_loss_lad(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    config: LADAlgorithmConfig,
    loss_mask: Tensor,
    rollout_logprobs: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """LAD under SkyRL's contract of a policy loss (called at skyrl/backends/skyrl_train/workers/worker.py).

    Args:
        log_probs: (B, T) of the policy in training; the only input that gets a gradient.
        old_log_probs: (B, T) of the policy before the update.
        advantages: (B, T, 2), A and the token's weight in loss_reduction, from LADTrainer; (B, T) in micro-batches that
            are padding alone.
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
    terms = lad_terms(log_probs, old_log_probs, advantages, mask, config.lad)
    loss, kept, metrics = apply_off_policy_correction(
        terms.loss,
        torch.where(mask, old_log_probs, 0.0),  # SkyRL multiplies by the mask, which does not stop NaN
        None if rollout_logprobs is None else torch.where(mask, rollout_logprobs, 0.0),
        loss_mask,
        config.off_policy_correction,
    )
    loss = reduce_loss(loss * torch.where(mask, weights, 0.0), kept)
    values = lad_diagnostics(terms, config.lad).tolist()
    return loss, {**dict(zip(METRIC_NAMES, values, strict=True)), **metrics}


def compute_lad_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any],
    config: LADAlgorithmConfig,
    grpo_norm_by_std: bool = True,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Group-relative outcome advantages under SkyRL's contract of an estimator: its grpo, and partition and anchor.

    With anchor="reference" the rewards arrive as s - eta K, by SkyRL's KL in the reward.

    Args:
        token_level_rewards: (B, T).
        response_mask: (B, T).
        index: (B,) equal for the responses to one prompt.
        config: the section trainer.algorithm.
        grpo_norm_by_std: divide by the group's standard deviation.
        unused: what SkyRL hands to every estimator and this one does not need.

    Returns:
        (B, T) advantages, 0 where masked, twice: SkyRL wants returns as well.
    """
    settings = config.lad
    if settings.anchor == "reference":
        settings = replace(settings, anchor="old", partition="group")
    scores = token_level_rewards.sum(dim=-1)
    advantages = group_advantages(scores, list(index), settings, norm_by_std=grpo_norm_by_std)
    advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


def register() -> None:
    """Registers both under `lad`: in this process, and for all workers once SkyRL has started Ray.

    Raises:
        ValueError: if the name is taken.
    """
    PolicyLossRegistry.register("lad", compute_policy_loss_lad)
    AdvantageEstimatorRegistry.register("lad", compute_lad_outcome_advantage)
