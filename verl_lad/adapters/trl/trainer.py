"""A GRPOTrainer (TRL 1.16.0) that differs from its parent in the policy loss alone."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from verl_lad.objective import DIAGNOSTICS, LADConfig, lad_diagnostics, lad_terms

AGGREGATIONS = {
    "token": ("grpo", "bnpo", "dr_grpo", "dapo"),
    "sequence": ("luspo",),
    "geometric": ("grpo",),
}
"""Ratio -> values of loss_type, which here names TRL's aggregation alone: luspo is the mean of sums over responses."""


@dataclass
class LADTrainerConfig(GRPOConfig):
    """GRPOConfig with LAD's settings; loss_type chooses TRL's aggregation alone.

    use_bias_correction_kl is False by default here (TRL: True): the parent would weight the KL by a ratio that is 1.
    The anchor is the sampling policy (anchor="old"); anchor="reference" and partition="group" are not available here.

    Raises:
        ValueError: on a setting that is not allowed, or that contradicts the loss.
    """

    use_bias_correction_kl: bool = field(default=False, metadata={"help": "Must be False."})
    lad_eta: float = field(default=0.25, metadata={"help": "Temperature eta > 0."})
    lad_divergence: str = field(default="js", metadata={"help": "Name of the f-divergence."})
    lad_alpha: float = field(default=0.5, metadata={"help": "Order of the alpha divergence."})
    lad_ratio: str = field(default="token", metadata={"help": "token, sequence or geometric."})
    lad_max_log_ratio: float = field(default=20.0, metadata={"help": "Limit of the log-ratio."})
    lad_max_log_weight: float = field(default=20.0, metadata={"help": "Limit of A / eta where exp(A / eta) is formed."})

    def __post_init__(self) -> None:
        self.lad_settings()
        allowed = {
            "loss_type": AGGREGATIONS[self.lad_ratio],
            "importance_sampling_level": ("token",),
            "delta": (None,),
            "off_policy_mask_threshold": (None,),
            "use_bias_correction_kl": (False,),
            "use_liger_kernel": (False,),
        }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} does not go with LAD and lad_ratio={self.lad_ratio!r}: "
                    f"allowed is {', '.join(map(repr, values))}"
                )
        super().__post_init__()

    def lad_settings(self) -> LADConfig:
        """The objective's settings; ValueError if one is not allowed."""
        return LADConfig(
            eta=self.lad_eta,
            divergence=self.lad_divergence,
            alpha=self.lad_alpha,
            ratio=self.lad_ratio,
            max_log_ratio=self.lad_max_log_ratio,
            max_log_weight=self.lad_max_log_weight,
        )


class LADTrainer(GRPOTrainer):
    """GRPOTrainer whose per-token loss is LAD's; masks, corrections, KL and aggregation are the parent's own code.

    The parent computes -min(rho A, clip(rho) A) from its inputs. It is given A := -LAD's loss matrix, with its
    gradient, and pi_old := pi_theta, so that rho is 1 without gradient. Metrics: lad/ and the names of DIAGNOSTICS.

    Raises:
        ValueError: if args is not a LADTrainerConfig.
    """

    _lad_inputs: dict[str, Any] | None = None

    def __init__(self, model: Any, reward_funcs: Any, args: LADTrainerConfig, **kwargs: Any) -> None:
        if not isinstance(args, LADTrainerConfig):
            raise ValueError(f"args must be a LADTrainerConfig, got {type(args).__name__}")
        self._lad = args.lad_settings()
        super().__init__(model, reward_funcs, args=args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._lad_inputs = dict(inputs)  # a copy: TRL uses the buffered inputs again in later iterations
        try:
            return super()._compute_loss(model, self._lad_inputs)
        finally:
            self._lad_inputs = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        log_prob, entropies, aux_loss = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        inputs = self._lad_inputs
        if inputs is None:  # not inside _compute_loss
            return log_prob, entropies, aux_loss
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        mask = mask.bool()
        old = inputs.get("old_per_token_logps")
        old = log_prob.detach() if old is None else old
        advantages = inputs["advantages"]
        if advantages.dim() == 1:
            advantages = advantages.unsqueeze(1)
        terms = lad_terms(log_prob, old, advantages.expand_as(log_prob), mask, self._lad)
        mode = "train" if self.model.training else "eval"
        values = self.accelerator.gather(lad_diagnostics(terms, self._lad).unsqueeze(0)).mean(0).tolist()
        for name, value in zip(DIAGNOSTICS, values, strict=True):
            self._metrics[mode][f"lad/{name}"].append(value)
        # The parent multiplies by the mask, which does not stop NaN: take garbage out of masked slots here.
        log_prob, entropies = torch.where(mask, log_prob, 0.0), torch.where(mask, entropies, 0.0)
        for key in ("ref_per_token_logps", "importance_sampling_ratio"):
            if inputs.get(key) is not None and inputs[key].shape == mask.shape:
                inputs[key] = torch.where(mask, inputs[key], 0.0)
        inputs["advantages"] = -terms.loss
        inputs["old_per_token_logps"] = log_prob
        return log_prob, entropies, aux_loss
