"""SkyRL's configuration with the section trainer.algorithm.lad."""

import logging
from dataclasses import dataclass, field
from typing import Any

from skyrl.train.config import AlgorithmConfig, SkyRLTrainConfig, TrainerConfig

from verl_lad.objective import LADConfig

logger = logging.getLogger(__name__)

SECTION = "trainer.algorithm."
PREFIX = f"{SECTION}lad."
LOSS_REDUCTIONS = {
    "token": ("token_mean", "token_mean_legacy", "sequence_mean", "seq_mean_token_sum_norm", "prompt_mean"),
    "sequence": ("seq_mean_token_sum_norm", "token_mean"),
    "geometric": ("sequence_mean",),
}
"""Ratio -> the values of loss_reduction under which its gradient is that of its objective, up to a factor that all
responses of a mini-batch share: a sequence's loss is spread over its tokens, so token_mean is a sum over responses."""


@dataclass
class LADAlgorithmConfig(AlgorithmConfig):
    """AlgorithmConfig with the settings of LAD.

    Attributes:
        policy_loss_type: lad.
        lad: the settings, a LADConfig, made from the keys of the section. A partition other than "none" and
            anchor="reference" need advantage_estimator="lad".

    Raises:
        ValueError: naming each key that contradicts the settings, its value and what is allowed.
    """

    policy_loss_type: str = "lad"
    lad: Any = field(default_factory=LADConfig)  # SkyRL would build a LADConfig itself, with errors without the section

    def __post_init__(self) -> None:
        self.lad = LADConfig.from_keys(self.lad, PREFIX)
        allowed: dict[str, tuple[object, ...]] = {
            "policy_loss_type": ("lad",),
            "loss_reduction": LOSS_REDUCTIONS[self.lad.ratio],
            "advantage_batch_normalize": (False,),
        }
        if self.lad.constant != "none":
            allowed["advantage_estimator"] = ("lad",)
        if self.lad.anchor == "reference":  # SkyRL must make the rewards s - eta K
            allowed |= {
                "use_kl_in_reward": (True,),
                "use_kl_loss": (False,),
                "kl_estimator_type": ("k1",),
                "kl_loss_coef": (self.lad.eta,),
                "grpo_norm_by_std": (False,),
            }
        wrong = [
            f"{SECTION}{key}={getattr(self, key)!r} (allowed: {', '.join(map(repr, values))})"
            for key, values in allowed.items()
            if getattr(self, key) not in values
        ]
        if self.lad.anchor == "reference" and self.kl_ctrl.type != "fixed":
            wrong.append(f"{SECTION}kl_ctrl.type={self.kl_ctrl.type!r} (allowed: 'fixed')")
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}: not with {SECTION}lad={self.lad}")


@dataclass
class LADTrainerConfig(TrainerConfig):
    """TrainerConfig with LADAlgorithmConfig."""

    algorithm: LADAlgorithmConfig = field(default_factory=LADAlgorithmConfig)


@dataclass
class LADSkyRLTrainConfig(SkyRLTrainConfig):
    """SkyRLTrainConfig with LADAlgorithmConfig. It warns of settings that are likely not meant.

    Raises:
        ValueError: naming the key that contradicts LAD, its value and what is allowed.
    """

    trainer: LADTrainerConfig = field(default_factory=LADTrainerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        lad = self.trainer.algorithm.lad
        if self.trainer.fully_async.enabled:  # it has a trainer of its own, without LADTrainer
            raise ValueError("trainer.fully_async.enabled=True is not allowed with LAD: False")
        # Each turn is a row of its own there: its log-ratio is not the response's, and its KL is the last turn's.
        for key, value, allowed in (("ratio", lad.ratio, "token"), ("anchor", lad.anchor, "old")):
            if self.generator.step_wise_trajectories and value != allowed:
                raise ValueError(
                    f"generator.step_wise_trajectories=True is not allowed with {PREFIX}{key}={value!r}: False, or "
                    f"{PREFIX}{key}={allowed!r}"
                )
        if lad.constant != "none" and self.generator.n_samples_per_prompt < 2:
            raise ValueError(
                f"generator.n_samples_per_prompt={self.generator.n_samples_per_prompt} is not allowed with "
                f"{PREFIX}anchor={lad.anchor!r} and {PREFIX}partition={lad.partition!r}, which need groups: 2 or more"
            )
        for remark in self._remarks():
            logger.warning("verl-lad: %s", remark)

    def _remarks(self) -> list[str]:
        """Return a warning for each setting that is likely not meant."""
        algorithm = self.trainer.algorithm
        remarks = []
        if self.generator.n_samples_per_prompt < 2:
            remarks.append(
                f"generator.n_samples_per_prompt={self.generator.n_samples_per_prompt} gives LAD one response a "
                "prompt, so no advantage is relative to the prompt's other responses. Set 2 or more"
            )
        stock = AlgorithmConfig()
        clips = [key for key in ("eps_clip_low", "eps_clip_high") if getattr(algorithm, key) != getattr(stock, key)]
        entropy = f"{SECTION}entropy_loss_coef={algorithm.entropy_loss_coef}" if algorithm.use_entropy_loss else None
        return remarks + algorithm.lad.remarks(PREFIX, [f"{SECTION}{key}" for key in clips], entropy)
