"""The policy loss `lad`."""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from verl_lad.objective import DIAGNOSTICS, LADConfig, diagnostic_means, lad_loss
from verl_lad.version import __version__

if TYPE_CHECKING:
    from verl.workers.config import ActorConfig

METRIC_NAMES = {name: f"actor/{name}" if name == "ppo_kl" else f"actor/lad/{name}" for name in DIAGNOSTICS}
"""Diagnostic -> verl's metric. verl 0.9.1 averages each over micro-batches and ranks, whatever a loss asks for."""


@cache
def _say_once(settings: LADConfig) -> None:
    print(f"[verl-lad {__version__}] policy loss lad in process {os.getpid()}: {settings}", flush=True)


def compute_policy_loss_lad(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: "ActorConfig | None" = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Compute LAD's loss under verl's contract of a policy loss.

    Args:
        old_log_prob: (B, T) log-probabilities of the sampling policy.
        log_prob: (B, T) log-probabilities of the policy in training; the only input that gets a gradient.
        advantages: (B, T).
        response_mask: (B, T) bool or 0/1; not changed.
        loss_agg_mode: as verl's agg_loss.
        config: verl's actor config; its policy_loss.lad holds the settings, its global_batch_info goes to agg_loss.
        rollout_is_weights: (B, T) importance weights of verl's rollout correction, multiplied in, without gradient.

    Returns:
        The scalar loss, an output of agg_loss, and the metrics as floats, fetched in one transfer.

    Raises:
        ValueError: if config is None, or not composed with our keys.
    """
    from verl.trainer.ppo.core_algos import agg_loss

    settings = getattr(getattr(config, "policy_loss", None), "lad", None)
    if config is None or not isinstance(settings, LADConfig):
        raise ValueError(
            "policy loss lad: config.policy_loss.lad holds no settings: this actor config was not composed with "
            "verl-lad's keys. Run `verl-lad doctor`, and set policy_loss._target_ to "
            "verl_lad.adapters.verl.settings.LADPolicyLossConfig if you build the config yourself."
        )
    _say_once(settings)
    loss, diagnostics = lad_loss(log_prob, old_log_prob, advantages, response_mask, settings)
    if rollout_is_weights is not None:
        loss = loss * torch.where(response_mask.bool(), rollout_is_weights.detach(), 0.0)
    loss = agg_loss(loss_mat=loss, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    means = diagnostic_means(diagnostics)  # the one device synchronisation
    return loss, {METRIC_NAMES[name]: mean for name, mean in means.items()}
