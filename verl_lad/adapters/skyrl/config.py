"""SkyRL's configuration with the section trainer.algorithm.lad."""

from dataclasses import dataclass, field

from skyrl.train.config import AlgorithmConfig, SkyRLTrainConfig, TrainerConfig

from verl_lad.objective import LADConfig

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
        lad: the settings. partition="group" and anchor="reference" need advantage_estimator="lad".

    Raises:
        ValueError: naming each key that contradicts the settings, its value and what is allowed.
    """

    policy_loss_type: str = "lad"
    lad: LADConfig = field(default_factory=LADConfig)

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[object, ...]] = {
            "policy_loss_type": ("lad",),
            "loss_reduction": LOSS_REDUCTIONS[self.lad.ratio],
            "advantage_batch_normalize": (False,),
        }
        if self.lad.partition == "group":
            allowed["advantage_estimator"] = ("lad",)
        if self.lad.anchor == "reference":  # the rewards must arrive as s - eta K, and the advantages undivided
            allowed |= {
                "advantage_estimator": ("lad",),
                "use_kl_in_reward": (True,),
                "use_kl_loss": (False,),
                "kl_estimator_type": ("k1",),
                "kl_loss_coef": (self.lad.eta,),
                "grpo_norm_by_std": (False,),
            }
        wrong = [
            f"trainer.algorithm.{key}={getattr(self, key)!r} (allowed: {', '.join(map(repr, values))})"
            for key, values in allowed.items()
            if getattr(self, key) not in values
        ]
        if self.lad.anchor == "reference" and self.kl_ctrl.type != "fixed":
            wrong.append(f"trainer.algorithm.kl_ctrl.type={self.kl_ctrl.type!r} (allowed: 'fixed')")
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}: not with trainer.algorithm.lad={self.lad}")


@dataclass
class LADTrainerConfig(TrainerConfig):
    """TrainerConfig with LADAlgorithmConfig."""

    algorithm: LADAlgorithmConfig = field(default_factory=LADAlgorithmConfig)


@dataclass
class LADSkyRLTrainConfig(SkyRLTrainConfig):
    """SkyRLTrainConfig with LADAlgorithmConfig.

    Raises:
        ValueError: on a trainer that does without LADTrainer, or whose rewards hold the KL of the last step alone.
    """

    trainer: LADTrainerConfig = field(default_factory=LADTrainerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainer.fully_async.enabled:
            raise ValueError("trainer.fully_async.enabled=True is not allowed with LAD: False")
        if self.generator.step_wise_trajectories and self.trainer.algorithm.lad.anchor == "reference":
            raise ValueError(
                "generator.step_wise_trajectories=True is not allowed with trainer.algorithm.lad.anchor='reference': "
                "False"
            )
