"""The policy loss `lad`."""

from typing import Any

import torch
from openrlhf.models import PolicyLoss
from torch import Tensor, nn

from verl_lad.objective import DIAGNOSTICS, LADConfig, lad_diagnostics, lad_terms

METRIC_NAMES = tuple(name if name == "ppo_kl" else f"lad/{name}" for name in DIAGNOSTICS)


class LADPolicyLoss(nn.Module):
    """LAD under the contract of OpenRLHF's PolicyLoss, whose own code corrects for the rollout and aggregates.

    PolicyLoss computes -min(rho A, clip(rho) A) from what it is given, weighs it by pi_old / pi_rollout if
    --algo.advantage.is_correction_level asks for it, and aggregates. It is given A := -LAD's loss matrix, with its
    gradient, and pi_theta := pi_old, so that rho is exactly 1, nothing is clipped, and the weights are its own.

    Args:
        policy_loss: OpenRLHF's, as its trainer makes it; taken over, and set to its type ppo.
        settings: of the objective.

    Attributes:
        diagnostics: (len(DIAGNOSTICS),) of the last call, on its device.
    """

    diagnostics: Tensor

    def __init__(self, policy_loss: PolicyLoss, settings: LADConfig) -> None:
        super().__init__()
        policy_loss.policy_loss_type = "ppo"
        self.policy_loss = policy_loss
        self.settings = settings

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor,
        rollout_log_probs: Tensor | None = None,
        **loss_batch_info: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """LAD's loss (called at openrlhf/trainer/ray/ppo_actor.py:304).

        Args:
            log_probs: (B, A) log pi_theta; the only input that gets a gradient. A: the padded sequence without its
                first token.
            old_log_probs: (B, A) log pi_old.
            advantages: (B, A); anything where masked.
            action_mask: (B, A) bool or 0/1 of any type. The log-probs may hold anything where it is 0.
            rollout_log_probs: (B, A) log-probs of the rollout engine; needed by OpenRLHF's correction alone.
            loss_batch_info: dp_size, batch_num_tokens, global_batch_size, as OpenRLHF's aggregate_loss.

        Returns:
            Scalar loss; share of clipped tokens, 0; mean of log pi_old - log pi_theta; and, if OpenRLHF corrects,
            mean of log pi_rollout - log pi_old and the share that the correction drops, otherwise None twice.
        """
        mask = action_mask.bool()
        terms = lad_terms(log_probs, old_log_probs, advantages, mask, self.settings)
        self.diagnostics = lad_diagnostics(terms, self.settings)
        # OpenRLHF multiplies by the mask, which does not stop NaN: take garbage out of masked slots here.
        old = torch.where(mask, old_log_probs, 0.0).detach()
        rollout = None if rollout_log_probs is None else torch.where(mask, rollout_log_probs, 0.0)
        loss, clip_ratio, _, vllm_kl, is_filter_ratio = self.policy_loss(
            old, old, -terms.loss, action_mask=action_mask, rollout_log_probs=rollout, **loss_batch_info
        )
        return loss, clip_ratio, self.diagnostics[METRIC_NAMES.index("ppo_kl")], vllm_kl, is_filter_ratio
