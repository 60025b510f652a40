"""The policy loss `lad`."""

from typing import Any

import torch
from openrlhf.models import PolicyLoss
from torch import Tensor, nn

from verl_lad.objective import DIAGNOSTICS, Diagnostics, LADConfig, diagnostic_means, lad_loss

METRIC_NAMES = tuple(name if name == "ppo_kl" else f"lad/{name}" for name in DIAGNOSTICS)


class LADPolicyLoss(nn.Module):
    """LAD under the contract of OpenRLHF's PolicyLoss, whose own code corrects for the rollout and aggregates.

    PolicyLoss computes -min(rho A, clip(rho) A) from its inputs, weighs it by pi_old / pi_rollout if
    --algo.advantage.is_correction_level asks for it, and aggregates. It gets A := -LAD's loss matrix, with its
    gradient, and pi_theta := pi_old. So rho is exactly 1, nothing is clipped, and the weights are OpenRLHF's.

    Args:
        policy_loss: OpenRLHF's, as its trainer makes it. This class takes it over and sets its type to ppo.
        settings: of the objective.

    Attributes:
        diagnostics: of the last call, on its device.
    """

    diagnostics: Diagnostics

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
        """Compute LAD's loss of a micro-batch, as OpenRLHF's ActorPPOTrainer.training_step calls it.

        Args:
            log_probs: (B, A) log pi_theta; the only input that gets a gradient. A is the length of the padded sequence
                without its first token.
            old_log_probs: (B, A) log pi_old.
            advantages: (B, A); anything where masked.
            action_mask: (B, A) bool or 0/1 of any type. The log-probs may hold anything where it is 0.
            rollout_log_probs: (B, A) log-probs of the rollout engine, for OpenRLHF's correction.
            loss_batch_info: dp_size, batch_num_tokens, global_batch_size, as OpenRLHF's aggregate_loss takes them.

        Returns:
            Scalar loss; share of clipped tokens, 0; mean of log pi_old - log pi_theta; and, if OpenRLHF corrects,
            mean of log pi_rollout - log pi_old and the share that the correction drops, otherwise None twice.
        """
        mask = action_mask.bool()
        loss_matrix, self.diagnostics = lad_loss(log_probs, old_log_probs, advantages, mask, self.settings)
        # OpenRLHF multiplies by the mask, and 0 * NaN is NaN: masked slots get a finite value first.
        old = torch.where(mask, old_log_probs, 0.0).detach()
        rollout = None if rollout_log_probs is None else torch.where(mask, rollout_log_probs, 0.0)
        loss, clip_ratio, _, vllm_kl, is_filter_ratio = self.policy_loss(
            old, old, -loss_matrix, action_mask=action_mask, rollout_log_probs=rollout, **loss_batch_info
        )
        kl, tokens = self.diagnostics["ppo_kl"]
        return loss, clip_ratio, kl / tokens.clamp(min=1), vllm_kl, is_filter_ratio

    def metrics(self) -> dict[str, float]:
        """Return METRIC_NAMES of the last call, fetched from the device in one transfer."""
        return dict(zip(METRIC_NAMES, diagnostic_means(self.diagnostics).values(), strict=True))
