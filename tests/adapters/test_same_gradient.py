"""One batch through every adapter: the gradient is the reference's, and what is reported has the same names and values.

An adapter is a row of ADAPTERS: how its framework calls the aggregations, and a function that calls its loss.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss_reference
from verl_lad.objective import diagnostic_means, lad_loss

DIVERGENCES = ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"]
RATIOS = ["token", "sequence", "geometric"]
LENGTHS = [6, 1, 4, 0, 5]
B, T = len(LENGTHS), max(LENGTHS)


@dataclass(frozen=True)
class Batch:
    """(B, T) tensors but for the advantages, (B,). What is masked is NaN."""

    log_prob: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    mask: Tensor


@pytest.fixture
def batch() -> Batch:
    """Ragged, with a tool's token within a response and a response without any; float64."""
    gen = torch.Generator().manual_seed(0)
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    mask[0, 2] = False
    old = -torch.rand(B, T, generator=gen, dtype=torch.float64) - 0.5
    log_prob = old + 0.4 * torch.randn(B, T, generator=gen, dtype=torch.float64)
    advantages = torch.tensor([1.1, -0.6, 0.4, 0.9, -1.3], dtype=torch.float64)
    return Batch(log_prob.masked_fill(~mask, torch.nan), old.masked_fill(~mask, torch.nan), advantages, mask)


def aggregated(matrix: Tensor, mask: Tensor, mode: str) -> Tensor:
    """A loss matrix under verl's names of the aggregations. The batch is the whole of the update."""
    sums, lengths = torch.where(mask, matrix, 0.0).sum(-1), mask.sum(-1)
    return {
        "token-mean": sums.sum() / lengths.sum(),
        "seq-mean-token-mean": (sums / lengths.clamp(min=1)).mean(),
        "seq-mean-token-sum": sums.mean(),
        "seq-mean-token-sum-norm": sums.mean() / T,
    }[mode]


Result = tuple[Tensor, dict[str, Any]]
"""The gradient in log_prob, and the metrics."""


def through_verl(batch: Batch, settings: LADConfig, option: str, directory: Path) -> Result:
    from verl.workers.config import FSDPActorConfig

    from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad
    from verl_lad.adapters.verl.settings import LADPolicyLossConfig

    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1,
        policy_loss=LADPolicyLossConfig(loss_mode="lad", lad=settings),
    )  # fmt: skip
    config.global_batch_info.update(
        dp_size=1, batch_num_tokens=int(batch.mask.sum()), global_batch_size=B, loss_scale_factor=T
    )
    log_prob = batch.log_prob.clone().requires_grad_()
    advantages = batch.advantages[:, None].expand(B, T)
    loss, metrics = compute_policy_loss_lad(batch.old_log_prob, log_prob, advantages, batch.mask, option, config)
    return torch.autograd.grad(loss, log_prob)[0], metrics


def through_trl(batch: Batch, settings: LADConfig, option: str, directory: Path) -> Result:
    from trl import GRPOTrainer

    from .trl.tiny_trainer import make_trainer

    lad = {f"lad_{name}": value for name, value in vars(settings).items()}
    trainer = make_trainer(directory, loss_type=option, max_completion_length=T, **lad)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    log_prob = batch.log_prob.clone().requires_grad_()
    prompt = torch.ones(B, 2, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": torch.ones(B, T, dtype=torch.long),
        "completion_mask": batch.mask.long(), "advantages": batch.advantages, "num_items_in_batch": batch.mask.sum(),
        "old_per_token_logps": batch.old_log_prob,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        outputs = log_prob, torch.full_like(log_prob, torch.nan), None
        patch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *_, **__: outputs)
        loss = trainer._compute_loss(trainer.model, inputs)
    metrics = {name: values[0] for name, values in trainer._metrics["train"].items() if name.startswith("lad/")}
    return torch.autograd.grad(loss, log_prob)[0], metrics


def through_openrlhf(batch: Batch, settings: LADConfig, option: str, directory: Path) -> Result:
    from .openrlhf.without_gpu import import_openrlhf

    import_openrlhf()
    from openrlhf.models import PolicyLoss

    from verl_lad.adapters.openrlhf.policy_loss import LADPolicyLoss

    policy_loss = LADPolicyLoss(PolicyLoss(token_level_loss=option == "token_level_loss"), settings)
    log_prob = batch.log_prob.clone().requires_grad_()
    advantages = batch.advantages[:, None].expand(B, T)
    totals = {"dp_size": 1, "batch_num_tokens": int(batch.mask.sum()), "global_batch_size": B}
    loss, *_ = policy_loss(log_prob, batch.old_log_prob, advantages, batch.mask.long(), **totals)
    return torch.autograd.grad(loss, log_prob)[0], policy_loss.metrics()


def through_skyrl(batch: Batch, settings: LADConfig, option: str, directory: Path) -> Result:
    from .skyrl.tiny_worker import TrainingInputBatch, compute_policy_loss_lad, config, trainer

    cfg = config(
        loss_reduction=option, max_seq_len=T, **{f"lad.{name}": value for name, value in vars(settings).items()}
    )
    mask, advantages = batch.mask.long(), batch.advantages[:, None].repeat(1, T)
    data = TrainingInputBatch({"advantages": advantages, "response_mask": mask, "loss_mask": mask})
    data = trainer(cfg)._normalize_advantages(data, [(0, B)])
    log_prob = batch.log_prob.clone().requires_grad_()
    loss, metrics = compute_policy_loss_lad(
        log_prob, batch.old_log_prob, data["advantages"], cfg.trainer.algorithm, mask
    )
    return torch.autograd.grad(loss, log_prob)[0], metrics


def through_trinity(batch: Batch, settings: LADConfig, option: str, directory: Path) -> Result:
    from verl_lad.adapters.trinity.algorithm import DEFAULTS, LADPolicyLossFn

    policy_loss = LADPolicyLossFn(loss_agg_mode=option, **{name: vars(settings)[name] for name in DEFAULTS})
    log_prob = batch.log_prob.clone().requires_grad_()
    # under verl's names, as Trinity's trainer has them
    others = {"old_log_probs": batch.old_log_prob, "response_mask": batch.mask}
    loss, metrics = policy_loss(logprob=log_prob, advantages=batch.advantages[:, None].expand(B, T), **others)
    return torch.autograd.grad(loss, log_prob)[0], metrics


@dataclass(frozen=True)
class Adapter:
    """One adapter of verl_lad.adapters.

    Attributes:
        through: (batch, settings, option, a directory of its own) -> gradient and metrics.
        options: aggregation under verl's name -> what the framework calls it, once or more.
        only: ratio -> the options that the adapter allows with it; all, where it is not named.
    """

    through: Callable[[Batch, LADConfig, str, Path], Result]
    options: dict[str, tuple[str, ...]]
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)


ADAPTERS = {
    "verl": Adapter(
        through_verl,
        {
            "token-mean": ("token-mean",),
            "seq-mean-token-mean": ("seq-mean-token-mean",),
            "seq-mean-token-sum": ("seq-mean-token-sum",),
            "seq-mean-token-sum-norm": ("seq-mean-token-sum-norm",),
        },
    ),
    "trl": Adapter(
        through_trl,
        {
            "token-mean": ("dapo", "bnpo"),
            "seq-mean-token-mean": ("grpo",),
            "seq-mean-token-sum": ("luspo",),
            "seq-mean-token-sum-norm": ("dr_grpo",),
        },
        only={"sequence": ("luspo", "dr_grpo"), "geometric": ("grpo",)},
    ),
    "openrlhf": Adapter(
        through_openrlhf,
        {"token-mean": ("token_level_loss",), "seq-mean-token-mean": ("no token_level_loss",)},
        only={"sequence": ("token_level_loss",), "geometric": ("no token_level_loss",)},
    ),
    "skyrl": Adapter(
        through_skyrl,
        {
            "token-mean": ("token_mean",),
            "seq-mean-token-mean": ("sequence_mean",),
            "seq-mean-token-sum-norm": ("seq_mean_token_sum_norm",),
        },
        only={"sequence": ("token_mean", "seq_mean_token_sum_norm"), "geometric": ("sequence_mean",)},
    ),
    "trinity": Adapter(
        through_trinity,
        {
            "token-mean": ("token-mean",),
            "seq-mean-token-mean": ("seq-mean-token-mean",),
            "seq-mean-token-sum": ("seq-mean-token-sum",),
            # its seq-mean-token-sum-norm is a sum over the responses: tests/adapters/trinity
        },
        only={"sequence": ("seq-mean-token-sum",), "geometric": ("seq-mean-token-mean",)},
    ),
}


def cases():
    for framework, adapter in ADAPTERS.items():
        for ratio, (mode, options) in product(RATIOS, adapter.options.items()):
            for option in options:
                if option in adapter.only.get(ratio, options):
                    yield framework, ratio, mode, option


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("framework", "ratio", "mode", "option"), list(cases()))
def test_gradient_and_diagnostics_are_the_references_in_every_framework(
    tmp_path, batch, framework, ratio, mode, option, divergence
):
    settings = LADConfig(eta=0.5, divergence=divergence, ratio=ratio)
    gradient, metrics = ADAPTERS[framework].through(batch, settings, option, tmp_path)

    log_prob = batch.log_prob.clone().requires_grad_()
    matrix = lad_loss_reference(log_prob, batch.old_log_prob, batch.advantages, batch.mask, settings)
    (wanted,) = torch.autograd.grad(aggregated(matrix, batch.mask, mode), log_prob)
    assert not gradient[~batch.mask].any()
    assert wanted[batch.mask].abs().max() > 1e-3
    torch.testing.assert_close(gradient[batch.mask], wanted[batch.mask], rtol=1e-6, atol=1e-10)

    _, diagnostics = lad_loss(batch.log_prob, batch.old_log_prob, batch.advantages, batch.mask, settings)
    reported = {name.rsplit("/", 1)[-1]: value for name, value in metrics.items()}
    assert reported == pytest.approx(diagnostic_means(diagnostics))
