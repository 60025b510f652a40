"""Trinity's GRPO algorithm with LAD's policy loss.

Trinity resolves both classes from their dotted names in every process that needs them, so nothing is registered.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor
from trinity.algorithm.algorithm import GRPOAlgorithm
from trinity.algorithm.policy_loss_fn import PolicyLossFn
from trinity.algorithm.utils import aggregate_loss
from trinity.common.config import Config

from verl_lad.objective import DIAGNOSTICS, LADConfig, lad_diagnostics, lad_terms

ARGS = "algorithm.policy_loss_fn_args"
METRIC_NAMES = tuple(name if name == "ppo_kl" else f"lad/{name}" for name in DIAGNOSTICS)
"""As Trinity gets them; it puts actor/ in front."""
LOSS_AGG_MODES = {
    "token": ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"),
    "sequence": ("seq-mean-token-sum", "seq-mean-token-sum-norm"),
    "geometric": ("seq-mean-token-mean",),
}
"""Ratio -> the values of loss_agg_mode under which its gradient is that of its objective."""
DEFAULTS = {key: value for key, value in asdict(LADConfig()).items() if key not in ("partition", "anchor")}


def checked_settings(keys: Mapping[str, Any], loss_agg_mode: str) -> LADConfig:
    """The objective's settings; ValueError names the key, its value and what is allowed.

    Trinity computes the advantages elsewhere, and pi_ref without a log-prob in the rewards: partition="group" and
    anchor="reference" are not available.
    """
    if unknown := sorted(set(keys) - set(DEFAULTS)):
        given = ", ".join(f"{ARGS}.{key}={keys[key]!r}" for key in unknown)
        raise ValueError(f"{given} is not available here; allowed: {', '.join(DEFAULTS)}")
    try:
        settings = LADConfig(**keys)
    except ValueError as error:
        raise ValueError(f"{ARGS}.{error}") from error
    if loss_agg_mode not in LOSS_AGG_MODES[settings.ratio]:
        raise ValueError(
            f"algorithm.loss_agg_mode={loss_agg_mode!r} does not go with {ARGS}.ratio={settings.ratio!r}: "
            f"allowed is {', '.join(LOSS_AGG_MODES[settings.ratio])}"
        )
    return settings


class LADPolicyLossFn(PolicyLossFn):
    """LAD under Trinity's contract of a policy loss (called at trinity/trainer/verl/losses.py:68).

    Args:
        backend: verl; Trinity's tinker backend is refused.
        loss_agg_mode: as Trinity's aggregate_loss.
        settings: eta, divergence, alpha, ratio, max_log_ratio, max_log_weight, compile.

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
        """The scalar loss, and METRIC_NAMES as floats. All arguments are (B, T); Trinity reads off their names."""
        terms = lad_terms(logprob, old_logprob, advantages, action_mask, self.settings)
        loss = aggregate_loss(terms.loss, action_mask, loss_agg_mode=self.loss_agg_mode)
        values = lad_diagnostics(terms, self.settings).tolist()
        return loss, dict(zip(METRIC_NAMES, values, strict=True))

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        """The arguments when the configuration names none."""
        return {"loss_agg_mode": "token-mean", **DEFAULTS}


POLICY_LOSS_FN = f"{LADPolicyLossFn.__module__}.{LADPolicyLossFn.__qualname__}"


class LADAlgorithm(GRPOAlgorithm):
    """GRPO that differs in the policy loss alone. Its settings are algorithm.policy_loss_fn_args."""

    @classmethod
    def default_config(cls) -> dict[str, Any]:
        """GRPO's, with LAD's loss."""
        return {**super().default_config(), "policy_loss_fn": POLICY_LOSS_FN}

    @classmethod
    def check_config(cls, config: Config) -> None:
        """Checks the settings, before Trinity starts Ray, and completes them.

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
        checked_settings(given, config.algorithm.loss_agg_mode or "token-mean")
        config.algorithm.policy_loss_fn_args = {**LADPolicyLossFn.default_args(), **given}
