"""LADPolicyLoss around OpenRLHF's real PolicyLoss, called as its trainer does."""

import math

import pytest
import torch
from openrlhf.models import PolicyLoss, aggregate_loss

from verl_lad import LADConfig, lad_loss_reference
from verl_lad.adapters.openrlhf.arguments import AGGREGATIONS
from verl_lad.adapters.openrlhf.policy_loss import METRIC_NAMES, LADPolicyLoss
from verl_lad.objective import DIAGNOSTICS

B, A = 5, 9
PROMPTS, LENGTHS = [3, 2, 0, 4, 1], [6, 1, 4, 5, 8]
"""Rows hold the shifted sequence: the rest of the prompt, the response, padding."""
BATCH_INFO = {"dp_size": 2, "batch_num_tokens": torch.tensor(41.0), "global_batch_size": torch.tensor(8.0)}
DIVERGENCES = ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"]
CORRECTIONS = {
    "off": {},
    "token clip": {"is_correction_level": "token", "is_correction_mode": "clip", "is_correction_threshold": [0.8, 1.2]},
    "token mask": {"is_correction_level": "token", "is_correction_threshold": [0.8, 1.2]},
    "seq mask": {"is_correction_level": "seq", "is_correction_threshold": [0.95, 1.05]},
    "token tv": {
        "is_correction_level": "token",
        "is_correction_gating": "tv",
        "is_correction_threshold": [0.0, 0.1],
    },
    "seq binary_kl": {
        "is_correction_level": "seq",
        "is_correction_gating": "binary_kl",
        "is_correction_threshold": [0.0, 0.02],
    },
}


def make_loss(settings, mode="token-mean", **keywords):
    """As openrlhf/trainer/ray/ppo_actor.py:76 makes it."""
    stock = PolicyLoss(token_level_loss=mode == "token-mean", policy_loss_type="lad", **keywords)
    return LADPolicyLoss(stock, settings)


@pytest.fixture
def batch():
    """(B, A) tensors as OpenRLHF's: integer mask with a gap, advantages in the prompt too, NaN where masked."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(A)
    start = torch.tensor(PROMPTS)[:, None]
    mask = ((place >= start) & (place < start + torch.tensor(LENGTHS)[:, None])).long()
    mask[0, 5] = 0  # what an environment said in between
    old = -torch.rand(B, A, generator=generator) - 0.2
    new = old + 0.4 * torch.randn(B, A, generator=generator)
    rollout = old + 0.2 * torch.randn(B, A, generator=generator)
    advantages = torch.randn(B, 1, generator=generator).expand(B, A).clone()
    dirty = {
        name: torch.where(mask.bool(), x, torch.nan)
        for name, x in {"log_probs": new, "old_log_probs": old, "rollout_log_probs": rollout}.items()
    }
    dirty["log_probs"].requires_grad_()
    return {**dirty, "advantages": advantages, "action_mask": mask}


def weights_of_openrlhf(batch, keywords):
    """(B, A) its own correction's weights: the gradient of a loss of one in each token by its own PPO."""
    if not keywords:
        return torch.ones(B, A)
    mask = batch["action_mask"].bool()
    old, rollout = (torch.where(mask, batch[name], 0.0) for name in ("old_log_probs", "rollout_log_probs"))
    ones = torch.ones(B, A, requires_grad=True)
    loss, *_ = PolicyLoss(**keywords)(old, old, -ones, batch["action_mask"], rollout)
    (gradient,) = torch.autograd.grad(loss, ones)
    return gradient * mask.sum()


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize(("ratio", "mode"), [(ratio, mode) for ratio, modes in AGGREGATIONS.items() for mode in modes])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_value_and_gradient_are_the_references_under_openrlhfs_own_functions(
    divergence, ratio, mode, correction, batch
):
    settings = LADConfig(eta=0.5, divergence=divergence, ratio=ratio)
    loss, *_ = make_loss(settings, mode, **CORRECTIONS[correction])(**batch, **BATCH_INFO)
    (gradient,) = torch.autograd.grad(loss, batch["log_probs"])

    mask = batch["action_mask"]
    log_probs = torch.where(mask.bool(), batch["log_probs"].detach(), 0.0).double().requires_grad_()
    old = torch.where(mask.bool(), batch["old_log_probs"], 0.0).double()
    if ratio == "token":
        matrix = lad_loss_reference(log_probs, old, batch["advantages"].double(), mask, settings)
        matrix = matrix * weights_of_openrlhf(batch, CORRECTIONS[correction])
        expected = aggregate_loss(matrix, mask, token_level_loss=mode == "token-mean", **BATCH_INFO)
        (expected_gradient,) = torch.autograd.grad(expected, log_probs)
    else:  # one gradient a response, which each of its tokens carries with its own weight
        matrix = lad_loss_reference(log_probs, old, batch["advantages"].double(), mask, settings)
        (per_token,) = torch.autograd.grad(matrix.sum(), log_probs)
        carried = per_token.detach() * weights_of_openrlhf(batch, CORRECTIONS[correction]) * log_probs
        aggregate = aggregate_loss(carried, mask, token_level_loss=mode == "token-mean", **BATCH_INFO)
        (expected_gradient,) = torch.autograd.grad(aggregate, log_probs)
    assert expected_gradient.abs().max() > 1e-4
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=2e-4, atol=1e-6)
    assert not gradient[~mask.bool()].any()


@pytest.mark.parametrize(("ratio", "mode"), [("sequence", "token-mean"), ("geometric", "seq-mean-token-mean")])
def test_a_response_counts_by_its_own_loss_and_not_by_its_length(ratio, mode, batch):
    """The gradient is that of the sum over responses of L(y), up to one factor: tokens of the step, or responses."""
    settings = LADConfig(eta=0.5, ratio=ratio)
    loss, *_ = make_loss(settings, mode)(**batch, **BATCH_INFO)
    (gradient,) = torch.autograd.grad(loss, batch["log_probs"])
    mask = batch["action_mask"].bool()
    log_probs = torch.where(mask, batch["log_probs"].detach(), 0.0).double().requires_grad_()
    l = torch.where(mask, log_probs - batch["old_log_probs"], 0.0).sum(-1)
    if ratio == "geometric":
        l = l / mask.sum(-1)
    u = batch["advantages"][:, 0].double() / settings.eta
    X = (l - u).exp()
    objective = (u.exp() * 0.5 * (X * X.log() - (X + 1) * ((X + 1) / 2).log())).sum()
    (expected,) = torch.autograd.grad(objective, log_probs)
    factor = BATCH_INFO["dp_size"] / BATCH_INFO["batch_num_tokens" if ratio == "sequence" else "global_batch_size"]
    torch.testing.assert_close(gradient, (expected * factor).float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_the_other_results_are_openrlhfs_own(correction, batch):
    keywords = CORRECTIONS[correction]
    clean = {
        name: x if name == "advantages" else torch.where(batch["action_mask"].bool(), x, torch.zeros_like(x))
        for name, x in batch.items()
    }
    _, _, ppo_kl, vllm_kl, filtered = PolicyLoss(**keywords)(**clean)
    _, clipped, *ours = make_loss(LADConfig(), **keywords)(**batch)
    assert clipped == 0
    for mine, theirs in zip(ours, (ppo_kl, vllm_kl, filtered), strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs.detach())


def test_clipping_settings_have_no_effect(batch):
    plain, *_ = make_loss(LADConfig())(**batch)
    clipped, *_ = make_loss(LADConfig(), clip_eps_low=1e-3, clip_eps_high=1e-3, dual_clip=1.5)(**batch)
    assert plain == clipped
    gradients = [torch.autograd.grad(loss, batch["log_probs"])[0] for loss in (plain, clipped)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_the_gradient_of_a_step_does_not_depend_on_its_split_into_micro_batches(mode, batch):
    def gradient(splits):
        log_probs = batch["log_probs"].detach().clone().requires_grad_()
        for rows in splits:
            part = {name: (log_probs if name == "log_probs" else x)[rows] for name, x in batch.items()}
            make_loss(LADConfig(), mode)(**part, **BATCH_INFO)[0].backward()
        return torch.where(batch["action_mask"].bool(), log_probs.grad, 0.0)

    torch.testing.assert_close(gradient([slice(0, 2), slice(2, 5)]), gradient([slice(0, 5)]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("value", [-torch.inf, -1e4])
def test_a_token_that_the_policy_makes_impossible_leaves_loss_and_gradient_finite(value, divergence, batch):
    """As at the end of a run that breaks down (OpenRLHF's issue 1120)."""
    log_probs = batch["log_probs"].detach().clone()
    row, token = batch["action_mask"].nonzero()[0]
    log_probs[row, token] = value
    loss, *_ = make_loss(LADConfig(divergence=divergence))(
        **(batch | {"log_probs": log_probs.requires_grad_()}), **BATCH_INFO
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_masks_of_any_type_give_the_same(kind, batch):
    loss, *_ = make_loss(LADConfig())(**batch)
    other, *_ = make_loss(LADConfig())(**(batch | {"action_mask": batch["action_mask"].to(kind)}))
    assert loss == other


def test_nothing_that_is_given_is_changed(batch):
    before = {name: x.detach().clone() for name, x in batch.items()}
    make_loss(LADConfig(), **CORRECTIONS["token mask"])(**batch)[0].backward()
    for name, x in before.items():
        torch.testing.assert_close(batch[name].detach(), x, rtol=0, atol=0, equal_nan=True)


def test_metrics_are_finite_and_in_the_objectives_order(batch):
    loss = make_loss(LADConfig())
    _, _, ppo_kl, *_ = loss(**batch)
    named = loss.metrics()
    assert tuple(named) == METRIC_NAMES
    assert all(math.isfinite(value) for value in named.values())
    assert named["ppo_kl"] == ppo_kl
    assert named["lad/log_ratio_abs_max"] > 0.1
    assert set(METRIC_NAMES) == {"ppo_kl", *(f"lad/{name}" for name in DIAGNOSTICS if name != "ppo_kl")}
