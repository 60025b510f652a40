"""The advantage estimator `lad`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from verl_lad.adapters.verl.presets import read_settings
from verl_lad.objective import group_advantages


def compute_lad_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    config: Mapping[str, Any] | None = None,
    index: np.ndarray | None = None,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Compute group-relative outcome advantages under verl's contract of an estimator.

    By default they equal those of verl's `grpo`. algorithm.lad.partition shifts each group by a constant. With
    algorithm.lad.anchor=reference the rewards arrive as s - eta K, spread over the tokens by verl's in-reward KL; their
    sum is the score that `group_advantages` takes.

    Args:
        token_level_rewards: (B, T).
        response_mask: (B, T).
        config: the section `algorithm`.
        index: (B,) uids: equal for the responses to one prompt.
        unused: what verl hands to every estimator and this one does not need (reward_baselines).

    Returns:
        (B, T) advantages, 0 where masked, twice: verl wants returns as well.

    Raises:
        ValueError: without uids, on bad settings, or on a reward that is not finite: its group's advantages would be
            NaN, and verl drops a mini-batch with a NaN gradient with no more than a line in a worker's log
            (verl/workers/engine/fsdp/transformer_impl.py, optimizer_step).
    """
    if index is None:
        raise ValueError("algorithm.adv_estimator=lad needs the uid of each response, and this trainer passes none")
    algorithm = config or {}
    settings = read_settings(algorithm.get("lad"))
    norm_by_std = bool(algorithm.get("norm_adv_by_std_in_grpo", True))
    scores = token_level_rewards.sum(dim=-1)
    finite = scores.isfinite()
    if not finite.all():
        first = int((~finite).nonzero()[0, 0])
        anchored = settings.anchor == "reference"
        also = ", which includes eta times the log-ratio to the reference policy" if anchored else ""
        raise ValueError(
            f"{int((~finite).sum())} of {len(scores)} rewards are not finite; the first is {scores[first].item()} for "
            f"response {first} of the batch (uid {index[first]}){also}. Allowed: finite numbers. Mend the reward "
            "function; a checkpoint can be resumed (trainer.resume_mode=auto)"
        )
    advantages = group_advantages(scores, index.tolist(), settings, norm_by_std=norm_by_std)
    advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages
