"""The policy loss `lad`."""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from verl_lad.objective import DIAGNOSTICS, LADConfig, lad_responses
from verl_lad.version import __version__

if TYPE_CHECKING:
    from verl.workers.config import ActorConfig

METRIC_NAMES = tuple(f"actor/{name}" if name == "ppo_kl" else f"actor/lad/{name}" for name in DIAGNOSTICS)


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
    """LAD under verl's contract of a policy loss (called at verl/workers/utils/losses.py:104).

    Args:
        old_log_prob: (B, T) log-probabilities of the sampling policy.
        log_prob: (B, T) log-probabilities of the policy in training; the only input that gets a gradient.
        advantages: (B, T).
        response_mask: (B, T) bool or 0/1; not changed.
        loss_agg_mode: as verl's agg_loss.
        config: verl's actor config; its policy_loss.lad holds the settings, its global_batch_info goes to agg_loss.
        rollout_is_weights: (B, T) importance weights of verl's rollout correction, multiplied in, without gradient.

    Returns:
        Scalar loss, an output of agg_loss; and the metrics METRIC_NAMES as floats, fetched in one transfer.

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
    responses = lad_responses(log_prob, old_log_prob, advantages, response_mask, settings, rollout_is_weights)
    # agg_loss on one column: the mean loss of each response, which counts for as many tokens as it has. Every one of
    # its modes is linear in the sums over the responses, so that is the same number without its (B, T) matrices.
    info = {"loss_scale_factor": None, **config.global_batch_info}
    if info["loss_scale_factor"] is None:
        info["loss_scale_factor"] = response_mask.shape[-1]  # what agg_loss would take from the matrix
    loss = agg_loss(
        loss_mat=responses.loss_mean, loss_mask=responses.length.unsqueeze(-1), loss_agg_mode=loss_agg_mode, **info
    )
    values = responses.diagnostics.tolist()  # the one device synchronisation
    return loss, dict(zip(METRIC_NAMES, values, strict=True))
