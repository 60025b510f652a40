"""A GRPOTrainer (TRL 1.16.0) that differs from its parent in the policy loss and, anchored, in the advantages."""

import logging
import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
import trl
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from verl_lad.adapters.trl.fused import add_lad_head
from verl_lad.objective import DIAGNOSTICS, LADConfig, group_advantages, lad_diagnostics, lad_terms
from verl_lad.objective.config import FIELD_NAMES

logger = logging.getLogger(__name__)

TRIED_TRL = "1.16.0"

AGGREGATIONS = {
    "token": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo"),
    "sequence": ("luspo", "dr_grpo"),
    "geometric": ("grpo",),
}
"""lad_ratio -> values of loss_type, which here names TRL's aggregation alone: grpo is the mean over responses of their
token means, dapo and bnpo are token means over the batch and the micro-batch, luspo is the mean over responses of
their token sums, dr_grpo the same over max_completion_length."""

FORWARD_KEYS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
"""What a batch may hold for the model's forward pass beside the tokens."""


@dataclass
class LADTrainerConfig(GRPOConfig):
    """GRPOConfig with LAD's settings. loss_type chooses the aggregation alone, see AGGREGATIONS.

    TRL's advice to set importance_sampling_level="sequence" with loss_type="luspo" is about its own ratio: lad_ratio is
    LAD's. lad_anchor="reference" makes TRL hold its reference model as beta > 0 does: loaded from where the policy was
    loaded from, or with PEFT the adapter as it was. A generation then costs one or two forward passes more: of the
    reference and, where TRL leaves it out, of the policy.

    Raises:
        ValueError: naming the key, its value and what is allowed, on what contradicts the loss or the anchor.
    """

    scale_rewards: str | None = field(
        default=None,
        metadata={
            "help": "As GRPOConfig's. None: 'group', TRL's default, for lad_anchor=old, and 'none' for reference, "
            "whose target needs the raw scores."
        },
    )
    lad_eta: float = field(
        default=0.25,
        metadata={"help": "Temperature eta > 0 of the target. Default: the paper's 1/eta = 4, as reported."},
    )
    lad_divergence: str = field(
        default="js",
        metadata={
            "help": "f-divergence: js (the paper's choice), hellinger (hd), tv, kl, rkl, jeffreys (jf; all these are "
            "in the paper), alpha (ours), or a registered name."
        },
    )
    lad_alpha: float = field(
        default=0.5, metadata={"help": "Order of lad_divergence=alpha, from -1 to 2 but 0 and 1. Ours."}
    )
    lad_ratio: str = field(
        default="token",
        metadata={
            "help": "Level of the log-ratio: token (what the paper's released code appears to do), sequence (the "
            "paper's equation; loss_type luspo or dr_grpo), geometric (as GSPO; loss_type grpo)."
        },
    )
    lad_partition: str = field(
        default="none",
        metadata={"help": "none (paper), or group: the target of each group of responses has mass one (ours)."},
    )
    lad_anchor: str = field(
        default="old",
        metadata={
            "help": "What the target is relative to: old, the sampling policy (paper), or reference, the model as it "
            "was loaded, so that the target stands still (ours; it implies lad_partition=group)."
        },
    )
    lad_max_log_ratio: float = field(
        default=20.0, metadata={"help": "The log-ratio is limited to this magnitude in exp(l). Ours."}
    )
    lad_max_log_weight: float = field(
        default=20.0, metadata={"help": "A / eta is limited to this where exp(A / eta) itself is formed. Ours."}
    )
    lad_compile: bool = field(
        default=False, metadata={"help": "Evaluate the loss under torch.compile, in one kernel. Ours."}
    )
    lad_fused: bool = field(
        default=False,
        metadata={
            "help": "Compute loss and gradient from hidden states in one pass, without the logits of all tokens and "
            "without computing them again in backward, as TRL's own head does. Without the entropy metric. Ours."
        },
    )

    def __post_init__(self) -> None:
        settings = self.lad_settings()
        anchored = settings.anchor == "reference"
        if self.scale_rewards is None:
            self.scale_rewards = "none" if anchored else "group"
        allowed: dict[str, tuple[Any, ...]] = {
            "loss_type": AGGREGATIONS[settings.ratio],
            "importance_sampling_level": ("token",),
            "delta": (None,),
            "use_liger_kernel": (False,),
        }
        if anchored:
            allowed |= {
                "scale_rewards": ("none", False),
                "multi_objective_aggregation": ("sum_then_normalize",),
                "beta": (0.0,),  # the target holds the pull to the reference already: a second one moves the optimum
                "sync_ref_model": (False,),
            }
        if self.lad_fused:  # there is no per-token loss for the parent to add to
            allowed |= {
                "beta": (0.0,),
                "entropy_coef": (0.0,),
                "use_adaptive_entropy": (False,),
                "top_entropy_quantile": (1.0,),
                "off_policy_mask_threshold": (None,),
                "cast_lm_head_to_fp32": (False,),
            }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} does not go with LAD, lad_ratio={settings.ratio!r}, "
                    f"lad_anchor={settings.anchor!r} and lad_fused={self.lad_fused}: allowed is "
                    f"{', '.join(map(repr, values))}"
                )
        self._warn_of_what_has_no_use(settings)
        super().__post_init__()

    def lad_settings(self) -> LADConfig:
        """The objective's settings; ValueError if one is not allowed."""
        try:
            return LADConfig(**{name: getattr(self, f"lad_{name}") for name in FIELD_NAMES})
        except ValueError as error:
            raise ValueError(f"lad_{error}") from error

    def _warn_of_what_has_no_use(self, settings: LADConfig) -> None:
        stock = {one.name: one.default for one in fields(GRPOConfig)}
        changed = [key for key in ("epsilon", "epsilon_high") if getattr(self, key) != stock[key]]
        if changed:
            logger.warning("verl-lad: %s: LAD does not clip; no effect", ", ".join(changed))
        if self.entropy_coef or self.use_adaptive_entropy:
            logger.warning(
                "verl-lad: entropy_coef=%s, use_adaptive_entropy=%s: LAD's target keeps the spread by itself; the "
                "bonus is added all the same and moves the optimum away from the target",
                self.entropy_coef,
                self.use_adaptive_entropy,
            )
        if settings.divergence.lower() == "tv" and settings.partition == "none" and settings.anchor == "old":
            logger.warning(
                "verl-lad: lad_divergence='tv' is not strictly convex: without lad_partition='group' its minimiser is "
                "not unique"
            )


class LADTrainer(GRPOTrainer):
    """GRPOTrainer whose per-token loss is LAD's; masks, corrections, KL and aggregation are the parent's own code.

    The parent computes -min(rho A, clip(rho) A) from its inputs. It is given A := -LAD's loss matrix, with its
    gradient, and pi_old := pi_theta, so that rho is 1 without gradient. lad_anchor="reference" and
    lad_partition="group" replace the advantages by those of `group_advantages`, over all processes. As in the parent,
    a response that no reward function scored moves nothing. Metrics: lad/ and the names of DIAGNOSTICS; anchored,
    lad/reference_kl too, the mean over responses of log pi_old - log pi_ref.

    With lad_fused the loss comes from hidden states (`lad_linear_loss`), weighted as the parent aggregates.

    Raises:
        TypeError: if args is not a LADTrainerConfig.
        ValueError: with lad_fused, if the model scales its logits or has a loss of its own routers.
    """

    _tag_names: ClassVar = ["trl", "lad"]
    _name = "LAD"
    _paper: ClassVar = {
        "title": "Learning Advantage Distribution for Reasoning",
        "id": "2602.20132",
        "citation": textwrap.dedent("""\
            @article{li2026lad,
                title        = {{LAD: Learning Advantage Distribution for Reasoning}},
                author       = {Wendi Li and Sharon Li},
                year         = 2026,
                eprint       = {arXiv:2602.20132},
            }"""),
    }

    _lad_inputs: dict[str, Any] | None = None
    _lad_unscored: Tensor

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: LADTrainerConfig | None = None, *others: Any, **named: Any
    ) -> None:
        if not isinstance(args, LADTrainerConfig):
            raise TypeError(f"args must be a LADTrainerConfig, got {type(args).__name__}")
        if trl.__version__ != TRIED_TRL:
            logger.warning(
                "verl-lad: TRL %s: this trainer was tried with %s alone, whose private methods it overrides",
                trl.__version__,
                TRIED_TRL,
            )
        self._lad = args.lad_settings()
        with self._reference_wanted(args):
            super().__init__(model, reward_funcs, args, *others, **named)
        if args.lad_fused:
            if self.aux_loss_enabled:
                raise ValueError("lad_fused=True does not go with router_aux_loss_coef: the loss is LAD's alone")
            with_peft = hasattr(self.model, "get_base_model")
            add_lad_head(self.model.get_base_model() if with_peft else self.model, self.temperature)
        self.beta = args.beta
        self.epsilon_low = self.epsilon_high = math.inf

    @contextmanager
    def _reference_wanted(self, of: Any) -> Iterator[None]:
        """Anchored, of.beta is not 0 within: how the parent is told to load a reference model and to evaluate it."""
        beta = of.beta
        if self._lad.anchor == "reference":
            of.beta = 1.0
        try:
            yield
        finally:
            of.beta = beta

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)  # (processes * B, reward functions), NaN where none
        self._lad_unscored = rewards.isnan().all(dim=1)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._reference_wanted(self):
            output = super()._generate_and_score_completions(inputs)
        local = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        if self._lad.anchor == "reference" or self._lad.partition == "group":
            advantages = self._group_advantages(output)
            output["advantages"] = advantages[local]
            logged = self._logs["advantages"]
            for _ in range(min(len(logged), len(advantages))):
                logged.pop()
            logged.extend(advantages.tolist())
        # A = 0 alone would pull a response back to pi_old; NaN takes it out of the loss.
        output["advantages"] = output["advantages"].masked_fill(self._lad_unscored[local], torch.nan)
        return output

    def _group_advantages(self, output: dict[str, Any]) -> Tensor:
        """(processes * B,) advantages of all processes, from the parent's (scores but for scaling and a group's shift).

        Args:
            output: the batch of this process as generated; gets old_per_token_logps, and is relieved of
                ref_per_token_logps, if the anchor is the reference.
        """
        training = self.model.training
        advantages = self.accelerator.gather(output["advantages"])
        left_out = self._lad_unscored
        log_ratio = None
        if self._lad.anchor == "reference":
            mask = _loss_mask(output)
            if "old_per_token_logps" not in output:  # TRL leaves it out where the policy cannot have moved
                output["old_per_token_logps"] = self._old_log_prob(output)
            difference = output["old_per_token_logps"] - output.pop("ref_per_token_logps")
            log_ratio = self.accelerator.gather(torch.where(mask, difference, 0.0).sum(-1))
            # mask_truncated_completions: nothing is known of such a response's log-ratio, nor is it trained on.
            left_out = left_out | ~self.accelerator.gather(mask.any(-1))
            known = log_ratio[~left_out]
            self._metrics["train" if training else "eval"]["lad/reference_kl"].append(
                known.sum().item() / max(known.numel(), 1)
            )
        size = self.num_generations if training else self.num_generations_eval
        row = torch.arange(advantages.numel(), device=advantages.device)
        group = torch.where(left_out, advantages.numel() + row, row // size)  # what is left out is a group of its own
        return group_advantages(advantages, group, self._lad, norm_by_std=False, reference_log_ratio=log_ratio)

    @torch.no_grad()
    def _old_log_prob(self, batch: dict[str, Any]) -> Tensor:
        """(B, T) log-probabilities of the policy as it is now, computed as the parent would."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            log_prob, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=(
                    self.args.per_device_train_batch_size
                    if self.model.training
                    else self.args.per_device_eval_batch_size
                ),
                **{key: batch.get(key) for key in FORWARD_KEYS},
            )
        return log_prob

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.args.lad_fused:
            return self._fused_loss(model, inputs)
        self._lad_inputs = dict(inputs)  # a copy: TRL uses the buffered inputs again in later iterations
        try:
            loss = super()._compute_loss(model, self._lad_inputs)
            if self._lad_inputs["advantages"] is inputs["advantages"]:
                raise RuntimeError(
                    f"TRL {trl.__version__} computed its loss past LAD's: use LADTrainer with trl=={TRIED_TRL}"
                )
            return loss
        finally:
            self._lad_inputs = None

    def _fused_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The loss that the parent would aggregate, from hidden states.

        Raises:
            ValueError: if the batch holds more for the model than tokens.
        """
        more = [key for key in FORWARD_KEYS if inputs.get(key) is not None]
        if more:
            raise ValueError(f"lad_fused=True is for text alone; the batch holds {', '.join(more)}")
        mask = _loss_mask(inputs)
        advantages = inputs["advantages"]
        if advantages.dim() == 1:
            advantages = advantages.unsqueeze(1)
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        with self.accelerator.autocast():
            outputs = model(
                input_ids=torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                lad_inputs={
                    "labels": inputs["completion_ids"],
                    "old_log_prob": inputs.get("old_per_token_logps"),
                    "advantages": advantages.expand(mask.shape),
                    "response_mask": mask & ~advantages.isnan(),
                    "config": self._lad,
                    "response_weights": self._response_weights(mask, inputs),
                    "token_weights": inputs["importance_sampling_ratio"].expand(mask.shape) if corrected else None,
                },
            )
        self._log_diagnostics(outputs["diagnostics"])
        return outputs["loss"]

    def _response_weights(self, mask: Tensor, inputs: dict[str, Any]) -> Tensor:
        """(B,) what the parent multiplies the sum of a response's losses by (trl/trainer/grpo_trainer.py:3153-3186)."""
        size, length = mask.shape[0], mask.sum(-1).clamp(min=1)
        one = torch.ones(size, device=mask.device)
        training = self.model.training
        accumulation = self.current_gradient_accumulation_steps if training else 1.0
        if self.loss_type == "dapo":
            tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
            return one / (tokens * (accumulation / self.args.steps_per_generation if training else 1.0))
        divisor = {
            "grpo": size * length,
            "bnpo": mask.sum().clamp(min=1),
            "dr_grpo": size * self.max_completion_length,
            "luspo": size,
        }[self.loss_type]
        return one / divisor / accumulation

    def _log_diagnostics(self, diagnostics: Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        values = self.accelerator.gather(diagnostics.unsqueeze(0)).mean(0).tolist()
        for name, value in zip(DIAGNOSTICS, values, strict=True):
            self._metrics[mode][f"lad/{name}"].append(value)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any, Any]:
        log_prob, entropies, aux_loss = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._lad_inputs is not None:  # called by _compute_loss, whose inputs are changed to LAD's
            log_prob, entropies = self._substitute(log_prob, entropies, self._lad_inputs)
        return log_prob, entropies, aux_loss

    def _substitute(self, log_prob: Tensor, entropies: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Puts LAD's loss matrix in the place of the advantages.

        Args:
            log_prob: (B, T) log pi_theta.
            entropies: (B, T).
            inputs: the batch; changed.

        Returns:
            log_prob and entropies, 0 where masked: the parent multiplies by the mask, which does not stop NaN.
        """
        mask = _loss_mask(inputs)
        zero = log_prob.new_zeros(())
        log_prob, entropies = torch.where(mask, log_prob, zero), torch.where(mask, entropies, zero)
        old = inputs.get("old_per_token_logps")
        old = log_prob.detach() if old is None else torch.where(mask, old, zero)
        advantages = inputs["advantages"]
        if advantages.dim() == 1:
            advantages = advantages.unsqueeze(1)
        inputs["lad_advantages"] = advantages

        terms = lad_terms(log_prob, old, advantages.expand_as(log_prob), mask & ~advantages.isnan(), self._lad)
        self._log_diagnostics(lad_diagnostics(terms, self._lad))

        for key in ("ref_per_token_logps", "importance_sampling_ratio", "sampling_per_token_logps"):
            if key in inputs and inputs[key].shape == mask.shape:
                inputs[key] = torch.where(mask, inputs[key], zero)
        inputs.setdefault("sampling_per_token_logps", old)  # off_policy_mask_threshold compares with it
        # The parent's bias-corrected KL needs the true rho: it is left there, within the limits of LAD's own, and
        # taken out of the policy's part again.
        base = log_prob
        if self.beta != 0.0 and self.args.use_bias_correction_kl:
            limit = self._lad.max_log_ratio
            base = torch.clamp(old, log_prob.detach() - limit, log_prob.detach() + limit)
        inputs["old_per_token_logps"] = base
        inputs["advantages"] = -terms.loss * torch.exp(base - log_prob)
        return log_prob, entropies

    def get_off_policy_mask(self, advantages: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The parent's, which see, by the batch's own advantages: those in its inputs are LAD's loss by then."""
        if self._lad_inputs is not None:
            advantages = self._lad_inputs["lad_advantages"]
        return super().get_off_policy_mask(advantages, *args, **kwargs)


def _loss_mask(batch: dict[str, Any]) -> Tensor:
    """(B, T) bool: the tokens that the parent trains on."""
    mask = batch["completion_mask"]
    return (mask if "tool_mask" not in batch else mask * batch["tool_mask"]).bool()
