"""GRPOTrainer (TRL 1.16.0) with LAD's policy loss and advantages."""

import logging
import textwrap
from typing import Any, ClassVar

import torch
import trl
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from verl_lad.adapters.trl.config import LADTrainerConfig
from verl_lad.adapters.trl.fused import add_lad_head
from verl_lad.objective import Diagnostics, diagnostic_means, group_advantages, lad_loss

logger = logging.getLogger(__name__)
TRIED_TRL = "1.16.0"

FORWARD_KEYS = (
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles",
    "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids",
)  # fmt: skip
"""What a batch may hold for the model's forward pass beside the tokens."""


class LADTrainer(GRPOTrainer):
    """GRPOTrainer with LAD's policy loss and, for lad_anchor="reference" or a lad_partition, LAD's advantages.

    The rest is GRPOTrainer's, its masks and corrections of the loss included. A response that no reward function
    scored moves nothing. TRL's metrics are logged, without clip_ratio, since LAD does not clip, and with policy_loss in
    every run. Others are lad/ with the names of DIAGNOSTICS, and with lad_anchor="reference" lad/reference_kl, the mean
    over responses of log pi_old - log pi_ref.

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

    _unscored: Tensor  # (processes * B,) bool, of the batch that is being generated

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: LADTrainerConfig | None = None, *others: Any, **named: Any
    ) -> None:
        if not isinstance(args, LADTrainerConfig):
            raise TypeError(f"args must be a LADTrainerConfig, got {type(args).__name__}")
        if trl.__version__ != TRIED_TRL:
            logger.warning("verl-lad: TRL %s: this trainer was tried with %s alone", trl.__version__, TRIED_TRL)
        self._lad = args.lad_settings()
        self._anchored = self._lad.anchor == "reference"
        super().__init__(model, reward_funcs, args, *others, **named)
        if args.lad_fused:
            if self.aux_loss_enabled:
                coefficient = self.router_aux_loss_coef
                raise ValueError(f"router_aux_loss_coef={coefficient} does not go with lad_fused=True: allowed is 0.0")
            with_peft = hasattr(self.model, "get_base_model")
            add_lad_head(self.model.get_base_model() if with_peft else self.model, self.temperature)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        mask = _loss_mask(inputs)

        def masked(x: Tensor) -> Tensor:
            """Put 0 where masked: NaN there would survive a product with the mask."""
            return torch.where(mask, x, 0.0)

        advantages = inputs["advantages"]  # (B,), or (B, T) from a subclass
        advantages = (advantages.unsqueeze(1) if advantages.dim() == 1 else advantages).expand(mask.shape)
        scored_mask = mask & ~advantages.isnan()
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        vllm_weights = masked(inputs["importance_sampling_ratio"]) if corrected else None
        divisor = self._aggregation_divisor(mask, inputs)

        if self.args.lad_fused:
            lad_inputs = {
                "labels": inputs["completion_ids"],
                "old_log_prob": inputs.get("old_per_token_logps"),
                "advantages": advantages,
                "response_mask": scored_mask,
                "config": self._lad,
                "response_weights": torch.ones(len(mask), device=mask.device) / divisor,
                "token_weights": vllm_weights,
            }
            outputs = self._fused_forward(model, inputs, lad_inputs)
            self._log_means(outputs["diagnostics"], {"policy_loss": (outputs["loss"], 1)})
            return outputs["loss"] / accumulation

        per_token_logps, entropies, aux_loss = self._forward(
            model, inputs, compute_entropy=True, compute_aux_loss=self.aux_loss_enabled
        )
        per_token_logps, entropies = masked(per_token_logps), masked(entropies)
        old_per_token_logps = inputs.get("old_per_token_logps")  # TRL leaves it out where it is the policy's own
        old_per_token_logps = per_token_logps.detach() if old_per_token_logps is None else masked(old_per_token_logps)

        per_token_loss, diagnostics = lad_loss(per_token_logps, old_per_token_logps, advantages, scored_mask, self._lad)
        metrics: dict[str, tuple[Any, Any]] = {"entropy": (entropies.sum(), mask.sum())}

        if self.off_policy_mask_threshold is not None:
            sampling_per_token_logps = masked(inputs.get("sampling_per_token_logps", old_per_token_logps))
            per_token_loss = per_token_loss * self.get_off_policy_mask(
                advantages, per_token_logps, sampling_per_token_logps, mask, self.off_policy_mask_threshold
            )
        entropy_mask = mask
        if self.top_entropy_quantile < 1.0:
            entropy_mask = self.get_high_entropy_mask(entropies, mask, 1 - self.top_entropy_quantile)
            per_token_loss = per_token_loss * entropy_mask
        if vllm_weights is not None:
            per_token_loss = per_token_loss * vllm_weights
        if self.beta != 0.0 and not self._anchored:  # an anchored target holds the KL already
            ref_log_ratio = masked(inputs["ref_per_token_logps"]) - per_token_logps
            per_token_kl = torch.exp(ref_log_ratio) - ref_log_ratio - 1
            if self.args.use_bias_correction_kl:
                log_ratio = (per_token_logps - old_per_token_logps).clamp(max=self._lad.max_log_ratio)
                per_token_kl = per_token_kl * torch.exp(log_ratio)
            per_token_loss = per_token_loss + self.beta * per_token_kl
            metrics["kl"] = per_token_kl.sum(), mask.sum()

        loss = (per_token_loss.sum(-1) / divisor).sum()
        metrics["policy_loss"] = loss, 1
        if self.entropy_coef != 0.0:
            loss = loss - self.entropy_coef * (entropies * entropy_mask).sum() / entropy_mask.sum().clamp(min=1)
            metrics["entropy_coef"] = self.entropy_coef, 1
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * aux_loss
            metrics["aux_loss"] = aux_loss, 1
        self._log_means(diagnostics, metrics)
        return loss / accumulation

    def _aggregation_divisor(self, mask: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return what TRL's aggregation divides each response's summed loss by: (B,), or a scalar for all."""
        size, lengths = len(mask), mask.sum(-1)
        # num_items_in_batch counts the tokens of all processes and, in training, of all micro-batches of a generation
        parts = self.accelerator.num_processes * (self.args.steps_per_generation if self.model.training else 1)
        return {
            "grpo": size * lengths.clamp(min=1),
            "bnpo": lengths.sum().clamp(min=1),
            "dapo": inputs["num_items_in_batch"].clamp(min=1) / parts,
            "luspo": torch.full_like(lengths, size),
            "dr_grpo": torch.full_like(lengths, size * self.max_completion_length),
        }[self.loss_type]

    def _fused_forward(self, model: Any, inputs: dict[str, Any], lad_inputs: dict[str, Any]) -> dict[str, Any]:
        """Compute the aggregated loss and the diagnostics from hidden states. See `add_lad_head` for lad_inputs."""
        unsupported = [key for key in FORWARD_KEYS if inputs.get(key) is not None]
        if unsupported:
            raise ValueError(f"lad_fused=True is for text alone; the batch holds {', '.join(unsupported)}")
        with self.accelerator.autocast():
            return model(
                input_ids=torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                lad_inputs=lad_inputs,
            )

    def _forward(self, model: Any, batch: dict[str, Any], **options: Any) -> tuple[Tensor, Any, Any]:
        """Return TRL's (B, T) log-probabilities of the completions, their entropies, and the routers' loss."""
        return self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].size(1),
            **{key: batch.get(key) for key in FORWARD_KEYS},
            **options,
        )

    @torch.no_grad()
    def _log_means(self, diagnostics: Diagnostics, metrics: dict[str, tuple[Any, Any]]) -> None:
        """Log sum / count over all processes of each name -> (sum, count), and log_ratio_abs_max as the maximum."""
        together = {f"lad/{name}": pair for name, pair in diagnostics.items()} | metrics
        scalars = [torch.as_tensor(x, device=self.accelerator.device) for pair in together.values() for x in pair]
        processes = self.accelerator.gather(torch.stack(scalars).view(1, -1, 2))  # (processes, names, 2)
        pairs = dict(zip(together, processes.sum(0), strict=True))
        pairs["lad/log_ratio_abs_max"] = processes.amax(0)[list(together).index("lad/log_ratio_abs_max")]
        mode = "train" if self.model.training else "eval"
        for name, mean in diagnostic_means(pairs).items():
            self._metrics[mode][name].append(mean)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)  # (processes * B, reward functions), NaN where none
        infinite = [name for name, bad in zip(self.reward_func_names, rewards.isinf().any(0), strict=True) if bad]
        if infinite:
            raise ValueError(f"{', '.join(infinite)} returned an infinite reward: allowed is a finite number or None")
        self._unscored = rewards.isnan().all(dim=1)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        first = self.accelerator.process_index * len(inputs)
        rows = slice(first, first + len(inputs))
        if self._lad.constant != "none":
            advantages = self._group_advantages(output)
            output["advantages"] = advantages[rows]
            logged = self._logs["advantages"]  # TRL has put its own there
            for _ in range(min(len(logged), len(advantages))):
                logged.pop()
            logged.extend(advantages.tolist())
        # TRL gives an unscored response A = 0, which would pull it back to pi_old
        output["advantages"] = output["advantages"].masked_fill(self._unscored[rows], torch.nan)
        return output

    def _group_advantages(self, output: dict[str, Any]) -> Tensor:
        """Return the (processes * B,) advantages of all processes, from TRL's: scores up to scale and group constant.

        Args:
            output: the generated batch of this process. With lad_anchor="reference" it gains old_per_token_logps where
                TRL left it out, and loses ref_per_token_logps.
        """
        mode = "train" if self.model.training else "eval"
        scores, left_out = self.accelerator.gather(output["advantages"]), self._unscored
        if self._anchored:
            mask = _loss_mask(output)
            if "old_per_token_logps" not in output:
                output["old_per_token_logps"] = self._old_log_prob(output)
            log_ratio = output["old_per_token_logps"] - output.pop("ref_per_token_logps")
            log_ratio = self.accelerator.gather(torch.where(mask, log_ratio, 0.0).sum(-1))
            scores = scores - self._lad.eta * log_ratio
            # mask_truncated_completions: nothing is known of such a response's log-ratio, nor is it trained on
            left_out = left_out | ~self.accelerator.gather(mask.any(-1))
            known = log_ratio[~left_out]
            self._metrics[mode]["lad/reference_kl"].append(known.sum().item() / max(known.numel(), 1))
        size = self.num_generations if mode == "train" else self.num_generations_eval
        row = torch.arange(len(scores), device=scores.device)
        group = torch.where(left_out, len(scores) + row, row // size)  # what is left out is a group of its own
        return group_advantages(scores, group, self._lad, norm_by_std=False)

    @torch.no_grad()
    def _old_log_prob(self, batch: dict[str, Any]) -> Tensor:
        """Return the (B, T) log-probabilities of the policy as it is now, computed as TRL does at generation."""
        size = self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self._forward(self.model, batch, batch_size=size)[0]


def _loss_mask(batch: dict[str, Any]) -> Tensor:
    """Return the (B, T) bool mask of the tokens that TRL trains on."""
    mask = batch["completion_mask"]
    return (mask if "tool_mask" not in batch else mask * batch["tool_mask"]).bool()
