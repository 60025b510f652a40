"""GRPOConfig with LAD's settings."""

import logging
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from verl_lad.objective import LADConfig
from verl_lad.objective.config import FIELD_NAMES

logger = logging.getLogger(__name__)

AGGREGATIONS = {
    "token": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo"),
    "sequence": ("luspo", "dr_grpo"),
    "geometric": ("grpo",),
}
"""Values of loss_type that each lad_ratio allows. Here loss_type names TRL's aggregation alone: grpo is the mean over
responses of their token means, dapo and bnpo are token means over the batch and the micro-batch, luspo is the mean
over responses of their token sums, dr_grpo the same over max_completion_length."""


def _setting(name: str, help_text: str) -> Any:
    """Return a field with LADConfig's default for `name`."""
    return field(default=getattr(LADConfig, name), metadata={"help": help_text})


@dataclass
class LADTrainerConfig(GRPOConfig):
    """GRPOConfig with LAD's settings, all checked on construction.

    Three of TRL's own keys change:

    - loss_type names the aggregation alone (AGGREGATIONS). TRL advises importance_sampling_level="sequence" for luspo;
      that is the level of GRPO's ratio and stays "token". The level of LAD's ratio is lad_ratio.
    - beta is the coefficient of the KL to the reference model. The target of lad_anchor="reference" holds that KL
      already, with the coefficient lad_eta. So beta becomes lad_eta there, and the loss adds no KL of its own. TRL
      then holds its reference model: loaded from where the policy was loaded from, or with PEFT the adapter as it was.
      A generation costs one or two forward passes more: of the reference and, where TRL leaves it out, of the policy.
    - scale_rewards is TRL's "group" by default for lad_anchor="old", and "none" for "reference", whose target needs
      the raw scores.

    Raises:
        ValueError: naming the key, its value and what is allowed, on what contradicts the loss or the anchor.
    """

    scale_rewards: str | None = field(
        default=None, metadata={"help": "See GRPOConfig. None: 'group' for lad_anchor=old, 'none' for reference."}
    )
    lad_eta: float = _setting("eta", "Temperature eta > 0 of the target. Default: the paper's 1/eta = 4, as reported.")
    lad_divergence: str = _setting(
        "divergence",
        "f-divergence: js (the paper's choice), hellinger (hd), tv, kl, rkl, jeffreys (jf; all these are in the "
        "paper), alpha (ours), or a registered name.",
    )
    lad_alpha: float = _setting("alpha", "Order of lad_divergence=alpha, from -1 to 2 but 0 and 1. Ours.")
    lad_ratio: str = _setting(
        "ratio",
        "Level of the log-ratio: token (what the paper's released code appears to do), sequence (the paper's equation; "
        "loss_type luspo or dr_grpo), geometric (as GSPO; loss_type grpo).",
    )
    lad_partition: str = _setting(
        "partition",
        "Constant subtracted from each group's advantages: none (paper), group (the group's target gets mass one; "
        "ours), balanced (the group's loss weights sum to zero at rho = 1; ours).",
    )
    lad_anchor: str = _setting(
        "anchor",
        "What the target is relative to: old, the sampling policy (paper), or reference, the model as it was loaded, "
        "so that the target stands still (ours; lad_partition=none means balanced with it).",
    )
    lad_max_log_ratio: float = _setting("max_log_ratio", "The ratio grows no further beyond this log-ratio. Ours.")
    lad_max_log_weight: float = _setting("max_log_weight", "A / eta is limited to this in exp(A / eta). Ours.")
    lad_fused: bool = field(
        default=False,
        metadata={
            "help": "Compute loss and gradient from hidden states in one pass, without the logits of all tokens and "
            "without computing them again in backward, as TRL's own head does. Without the entropy metric. Ours."
        },
    )

    def __post_init__(self) -> None:
        settings = self.lad_settings()
        if self.scale_rewards is None:
            self.scale_rewards = "none" if settings.anchor == "reference" else "group"
        self._refuse_contradictions(settings)
        self._warn(settings)
        if settings.anchor == "reference":
            self.beta = settings.eta
        super().__post_init__()

    def lad_settings(self) -> LADConfig:
        """Return the objective's settings.

        Raises:
            ValueError: naming the key, its value and what is allowed.
        """
        return LADConfig.from_keys({name: getattr(self, f"lad_{name}") for name in FIELD_NAMES}, "lad_")

    def _refuse_contradictions(self, settings: LADConfig) -> None:
        allowed_beside: dict[str, dict[str, tuple[Any, ...]]] = {
            "LAD": {
                "importance_sampling_level": ("token",),
                "delta": (None,),
                "use_liger_kernel": (False,),
                "use_adaptive_entropy": (False,),
            },
            f"lad_ratio={settings.ratio!r}": {"loss_type": AGGREGATIONS[settings.ratio]},
        }
        if settings.anchor == "reference":
            allowed_beside["lad_anchor='reference'"] = {
                "beta": (0.0, settings.eta),
                "scale_rewards": ("none", False),
                "multi_objective_aggregation": ("sum_then_normalize",),
                "sync_ref_model": (False,),
            }
        if self.lad_fused:  # it returns the sum of all losses, to which nothing per token can be added
            allowed_beside["lad_fused=True"] = {
                "beta": (0.0, settings.eta) if settings.anchor == "reference" else (0.0,),
                "entropy_coef": (0.0,),
                "top_entropy_quantile": (1.0,),
                "off_policy_mask_threshold": (None,),
                "cast_lm_head_to_fp32": (False,),
            }
        for setting, rules in allowed_beside.items():
            for key, allowed in rules.items():
                if (value := getattr(self, key)) not in allowed:
                    raise ValueError(
                        f"{key}={value!r} does not go with {setting}: allowed is {', '.join(map(repr, allowed))}"
                    )
        if self.num_generations == 1 and settings.constant != "none":
            raise ValueError(
                f"num_generations=1 does not go with lad_anchor={settings.anchor!r} and "
                f"lad_partition={settings.partition!r}, which make every advantage of a single response 0: allowed is "
                "2 or more"
            )

    def _warn(self, settings: LADConfig) -> None:
        clip_keys = [key for key in ("epsilon", "epsilon_high") if getattr(self, key) != getattr(GRPOConfig, key)]
        entropy_key = f"entropy_coef={self.entropy_coef}" if self.entropy_coef else None
        for remark in settings.remarks("lad_", clip_keys, entropy_key):
            logger.warning("verl-lad: %s", remark)
        for key in ("num_generations", "num_generations_eval"):
            if getattr(self, key) == 1:
                logger.warning(
                    "verl-lad: %s=1: the advantage of a single response is 0, so that loss and lad/ metrics do not "
                    "depend on its reward",
                    key,
                )
