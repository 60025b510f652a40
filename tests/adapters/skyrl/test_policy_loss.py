"""Our loss inside SkyRL's trainer and worker."""

import math

import pytest
import torch
from skyrl.backends.skyrl_train.utils.off_policy_correction_utils import compute_tis_ratio
from skyrl.backends.skyrl_train.workers.worker_utils import TokenBasedBatchIterator
from skyrl.train.trainer import RayPPOTrainer

from verl_lad import lad_loss_reference
from verl_lad.adapters.skyrl.config import LOSS_REDUCTIONS
from verl_lad.adapters.skyrl.policy_loss import METRIC_NAMES, compute_policy_loss_lad

from .tiny_worker import MASK, PROMPTS, B, batch, config, gradient, trainer

DIVERGENCES = ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"]
MODES = [(ratio, mode) for ratio, modes in LOSS_REDUCTIONS.items() for mode in modes]


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")  # where the worker puts its micro-batches


def wanted(cfg, tensors, weights=1.0):
    """The reference's gradient under SkyRL's names for the reductions, of the whole mini-batch at once."""
    log_prob = tensors["log_prob"].double().requires_grad_()
    matrix = lad_loss_reference(
        log_prob, tensors["action_log_probs"].double(), tensors["advantages"].double(), MASK, cfg.trainer.algorithm.lad
    )
    sums = (matrix * weights * MASK).sum(-1)
    counts = MASK.sum(-1)
    total = {
        "token_mean": lambda: sums.sum() / counts.sum(),
        "token_mean_legacy": lambda: sum(sums[i : i + 2].sum() / counts[i : i + 2].sum() for i in (0, 2, 4)) / 3,
        "sequence_mean": lambda: (sums / counts).mean(),
        "seq_mean_token_sum_norm": lambda: sums.mean() / 7,
        "prompt_mean": lambda: sum(sums[i:j].sum() / counts[i:j].sum() for i, j in PROMPTS) / len(PROMPTS),
    }[cfg.trainer.algorithm.loss_reduction]()
    return torch.autograd.grad(total, log_prob)[0].float()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("ratio", "loss_reduction"), MODES)
def test_gradient_of_skyrls_worker_is_the_references_with_nan_in_masked_slots(ratio, loss_reduction, divergence):
    cfg = config(**{"lad.ratio": ratio, "lad.divergence": divergence, "lad.eta": 0.5, "loss_reduction": loss_reduction})
    tensors = batch(torch.Generator().manual_seed(0))
    got, metrics = gradient(cfg, tensors)
    assert got.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted(cfg, tensors), rtol=1e-4, atol=1e-6)
    assert all(math.isfinite(metrics[f"loss_metrics/{name}"]) for name in METRIC_NAMES)


def test_micro_batches_by_tokens_with_padding_alone_leave_the_gradient_as_it_is(monkeypatch):
    """SkyRL adds micro-batches of masked rows where ranks have different counts; their advantages are (B, T)."""
    cfg = config(**{"lad.eta": 0.5})
    tensors = batch(torch.Generator().manual_seed(1))
    monkeypatch.setattr(TokenBasedBatchIterator, "_sync_num_microbatches", lambda self: len(self._microbatches) + 2)
    got, metrics = gradient(cfg, tensors, max_tokens=10)
    assert metrics["num_padding_microbatches"] == 2
    torch.testing.assert_close(got, wanted(cfg, tensors), rtol=1e-4, atol=1e-6)


def test_skyrls_off_policy_correction_weighs_the_tokens():
    keys = {"off_policy_correction.tis_ratio_type": "token", "off_policy_correction.token_tis_ratio_clip_high": 1.1}
    cfg = config(**keys)
    tensors = batch(torch.Generator().manual_seed(2))
    got, metrics = gradient(cfg, tensors)
    weights, _ = compute_tis_ratio(
        tensors["action_log_probs"], tensors["rollout_logprobs"], MASK, "token",
        cfg.trainer.algorithm.off_policy_correction,
    )  # fmt: skip
    torch.testing.assert_close(got, wanted(cfg, tensors, weights), rtol=1e-4, atol=1e-6)
    assert math.isfinite(metrics["loss_metrics/is_ratio_mean"])


def test_skyrls_sequence_mask_takes_responses_out():
    keys = {"off_policy_correction.sequence_mask_metric": "geometric", "off_policy_correction.geo_mask_high": 1.05}
    got, _ = gradient(config(**keys), tensors := batch(torch.Generator().manual_seed(3)))
    ratio = ((tensors["action_log_probs"] - tensors["rollout_logprobs"]) * MASK).sum(-1) / MASK.sum(-1)
    kept = (ratio.exp() <= 1.05) & (ratio.exp() >= 0.99)
    assert 0 < kept.sum() < B
    assert torch.equal(got.abs().sum(-1) > 0, kept)


def test_skyrls_own_trainer_is_refused_since_it_scales_the_advantages():
    with pytest.raises(ValueError, match=r"verl_lad\.adapters\.skyrl\.main_base"):
        gradient(config(), batch(torch.Generator().manual_seed(0)), cls=RayPPOTrainer)


def test_trajectories_that_are_masked_out_give_no_gradient_and_finite_metrics():
    """As under SkyRL's filter of overlong responses: a micro-batch of them alone (its pull request 1817)."""
    cfg = config()
    tensors = batch(torch.Generator().manual_seed(5))
    log_probs = torch.full_like(tensors["log_prob"], torch.nan).requires_grad_()
    advantages = torch.stack([tensors["advantages"], torch.ones_like(tensors["advantages"])], dim=-1)
    loss, metrics = compute_policy_loss_lad(
        log_probs, tensors["action_log_probs"], advantages, cfg.trainer.algorithm, torch.zeros_like(MASK)
    )
    (got,) = torch.autograd.grad(loss, log_probs)
    assert loss == 0
    assert not got.any()
    assert all(math.isfinite(value) for value in metrics.values())


def test_skyrl_computes_the_old_log_probs_although_it_has_those_of_the_rollout():
    """It leaves them out for losses that do not use them (its issue 1692)."""
    assert not trainer(config())._skip_policy_forward({"rollout_logprobs": torch.zeros(1)})


def test_the_advantages_reach_the_loss_unscaled():
    tensors = batch(torch.Generator().manual_seed(4))
    tensors["log_prob"] = tensors["action_log_probs"]  # rho = 1
    _, metrics = gradient(config(**{"lad.eta": 0.5}), tensors)
    # micro-batches of two responses, and the mean over micro-batches
    mass = (tensors["advantages"][:, 0] / 0.5).exp().view(3, 2).mean(-1).mean()
    assert metrics["loss_metrics/lad/target_mass"] == pytest.approx(float(mass), rel=1e-5)
    assert metrics["loss_metrics/lad/ppo_kl"] == 0
