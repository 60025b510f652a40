"""Trinity's GRPO algorithm with LAD's policy loss.

Trinity resolves both classes from their dotted names in every process that needs them, so nothing is registered.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor
from trinity.algorithm.algorithm import GRPOAlgorithm
from trinity.algorithm.policy_loss_fn import PolicyLossFn
from trinity.algorithm.utils import aggregate_loss
from trinity.common.config import Config

from verl_lad.objective import DIAGNOSTICS, LADConfig, diagnostic_means, lad_loss

logger = logging.getLogger(__name__)

PREFIX = "algorithm.policy_loss_fn_args."
METRIC_NAMES = tuple(name if name == "ppo_kl" else f"lad/{name}" for name in DIAGNOSTICS)
"""Names of the metrics as Trinity gets them. It puts actor/ in front."""
LOSS_AGG_MODES = {
    "token": ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"),
    "sequence": ("seq-mean-token-sum", "seq-mean-token-sum-norm"),
    "geometric": ("seq-mean-token-mean",),
}
"""Ratio -> the values of loss_agg_mode under which its gradient is that of its objective."""
STEP_WISE = ("step_wise_grpo", "gigpo")
"""Values of advantage_fn for which each turn of a response is an experience of its own."""
DEFAULTS = {key: value for key, value in asdict(LADConfig()).items() if key not in ("partition", "anchor")}


def checked_settings(keys: Mapping[str, Any], loss_agg_mode: str) -> LADConfig:
    """Return the settings of the objective.

    partition and anchor are not available: Trinity computes the advantages before its trainer gets the batch, without
    the settings of the loss and without the log-probs of a reference policy.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """
    if unknown := sorted(set(keys) - set(DEFAULTS)):
        given = ", ".join(f"{PREFIX}{key}={keys[key]!r}" for key in unknown)
        raise ValueError(f"{given} is not available here; allowed: {', '.join(DEFAULTS)}")
    settings = LADConfig.from_keys(keys, PREFIX)
    if loss_agg_mode not in LOSS_AGG_MODES[settings.ratio]:
        raise ValueError(
            f"algorithm.loss_agg_mode={loss_agg_mode!r} does not go with {PREFIX}ratio={settings.ratio!r}: "
            f"allowed is {', '.join(LOSS_AGG_MODES[settings.ratio])}"
        )
    return settings


class LADPolicyLossFn(PolicyLossFn):
    """LAD under Trinity's contract of a policy loss.

    Args:
        backend: verl. Trinity's tinker backend is refused.
        loss_agg_mode: as Trinity's aggregate_loss.
        settings: eta, divergence, alpha, ratio, max_log_ratio, max_log_weight.

    Raises:
        ValueError: on a setting that is not allowed.
    """

    def __init__(self, backend: str = "verl", *, loss_agg_mode: str, **settings: Any) -> None:
        if backend != "verl":
            raise ValueError(f"backend={backend!r} is not allowed with LAD: verl")
        super().__init__(backend=backend)
        self.loss_agg_mode = loss_agg_mode
        self.settings = checked_settings(settings, loss_agg_mode)

    def __call__(
        self, logprob: Tensor, old_logprob: Tensor, action_mask: Tensor, advantages: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute LAD's loss of a micro-batch.

        Args:
            logprob: (B, T) of the policy in training; the only input that gets a gradient.
            old_logprob: (B, T) of the sampler, or of the policy before the update.
            action_mask: (B, T) bool or 0/1.
            advantages: (B, T). Trinity maps the names of these arguments to those of its batch.

        Returns:
            The scalar loss, and METRIC_NAMES as floats.
        """
        loss_matrix, diagnostics = lad_loss(logprob, old_logprob, advantages, action_mask, self.settings)
        loss = aggregate_loss(loss_matrix, action_mask, loss_agg_mode=self.loss_agg_mode)
        return loss, dict(zip(METRIC_NAMES, diagnostic_means(diagnostics).values(), strict=True))

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        """Return the arguments for a configuration that names none."""
        return {"loss_agg_mode": "token-mean", **DEFAULTS}


POLICY_LOSS_FN = f"{LADPolicyLossFn.__module__}.{LADPolicyLossFn.__qualname__}"


class LADAlgorithm(GRPOAlgorithm):
    """Trinity's GRPO, which differs in the policy loss. Its settings are algorithm.policy_loss_fn_args."""

    @classmethod
    def default_config(cls) -> dict[str, Any]:
        """Return GRPO's defaults with LAD's loss."""
        return {**super().default_config(), "policy_loss_fn": POLICY_LOSS_FN}

    @classmethod
    def check_config(cls, config: Config) -> None:
        """Check and complete the settings before Trinity starts Ray, and warn of those that are likely not meant.

        Trinity hands algorithm.loss_agg_mode to a loss only where policy_loss_fn_args already has that key.

        Raises:
            ValueError: naming the key, its value and what is allowed.
        """
        if config.model.tinker.enable:
            raise ValueError("model.tinker.enable=True is not allowed with LAD: False")
        if config.algorithm.policy_loss_fn not in (None, POLICY_LOSS_FN):
            raise ValueError(
                f"algorithm.policy_loss_fn={config.algorithm.policy_loss_fn!r} contradicts "
                f"algorithm.algorithm_type={config.algorithm.algorithm_type!r}; leave it out"
            )
        given = dict(config.algorithm.policy_loss_fn_args or {})
        given.pop("loss_agg_mode", None)  # Trinity puts algorithm.loss_agg_mode in its place
        settings = checked_settings(given, config.algorithm.loss_agg_mode or "token-mean")
        if settings.ratio != "token" and config.algorithm.advantage_fn in STEP_WISE:
            raise ValueError(
                f"algorithm.advantage_fn={config.algorithm.advantage_fn!r} does not go with "
                f"{PREFIX}ratio={settings.ratio!r}, since each turn is an experience of its own there: allowed is "
                f"{PREFIX}ratio='token'"
            )
        config.algorithm.policy_loss_fn_args = {**LADPolicyLossFn.default_args(), **given}
        for remark in _remarks(config, settings):
            logger.warning("verl-lad: %s", remark)


def _remarks(config: Config, settings: LADConfig) -> list[str]:
    """Return a warning for each setting of Trinity that is likely not meant."""
    remarks = []
    if config.algorithm.repeat_times < 2:
        remarks.append(
            f"algorithm.repeat_times={config.algorithm.repeat_times} (Trinity's default, also for its GRPO) gives LAD "
            "one response a task, so no advantage is relative to the task's other responses. Set 2 or more"
        )
    if config.algorithm.rollout_correction:
        remarks.append(
            f"algorithm.rollout_correction={config.algorithm.rollout_correction}: Trinity hands no importance weights "
            "to a policy loss, and with verl >= 0.8 rejects no responses either; no effect"
        )
    coefficient = (config.algorithm.entropy_loss_fn_args or {}).get("entropy_coef")
    entropy = f"algorithm.entropy_loss_fn_args.entropy_coef={coefficient}" if coefficient else None
    return remarks + settings.remarks(PREFIX, entropy_key=entropy)
