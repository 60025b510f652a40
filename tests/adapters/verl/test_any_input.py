"""Scores of any kind through our estimator, our policy loss and verl's aggregation, as verl's trainer calls them.

The cases are those of tests/objective/any_input.py: a few hundred here, 2 10^4 in `make long`; the same in every run.
"""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from objective.any_input import Case, any_kind, cases_in_all, cases_of
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss
from verl.workers.config import FSDPActorConfig

from verl_lad import lad_loss
from verl_lad.adapters.verl.advantage import compute_lad_outcome_advantage
from verl_lad.adapters.verl.policy_loss import METRIC_NAMES, compute_policy_loss_lad
from verl_lad.adapters.verl.settings import LADPolicyLossConfig

AGG_MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]


def estimated(case: Case) -> Tensor:
    """(B, T) advantages by our estimator, of groups of random sizes; its scores are the case's advantages."""
    rows, length = case.mask.shape
    rewards = torch.zeros(rows, length)
    rewards[:, -1] = case.advantages if case.advantages.dim() == 1 else case.advantages[:, 0]
    chosen = random.Random(case.seed)
    uids = np.array([f"prompt-{chosen.randrange(1 + rows // 4)}" for _ in range(rows)], dtype=object)
    algorithm = {"lad": {"eta": case.config.eta, "partition": chosen.choice(["none", "group"])}}
    advantages, returns = compute_lad_outcome_advantage(rewards, case.mask, config=algorithm, index=uids)
    assert advantages is returns
    assert advantages.shape == case.mask.shape
    assert advantages.isfinite().all()
    assert not advantages[case.mask == 0].any()
    return advantages


def check(case: Case) -> None:
    rows, length = case.mask.shape
    chosen = random.Random(case.seed)
    mode = chosen.choice(AGG_MODES)
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=LADPolicyLossConfig(loss_mode="lad", lad=case.config),
    )
    # of the whole batch, of which this is one micro-batch; verl gives them with every call
    global_info = {"dp_size": 2, "batch_num_tokens": 3 + int(case.mask.sum()), "global_batch_size": 2 + rows}
    config.global_batch_info.update(global_info, loss_scale_factor=None)
    masked = case.mask == 0
    importance = 2 * torch.rand(rows, length, generator=torch.Generator().manual_seed(case.seed))
    weights = importance if chosen.random() < 0.5 else None
    given = {
        "old_log_prob": case.old_log_prob,
        "log_prob": case.log_prob.detach(),
        "advantages": estimated(case),
        "response_mask": case.mask,
    }

    def run(tensors: dict[str, Tensor], weights: Tensor | None) -> tuple[Tensor, dict[str, float], Tensor]:
        leaf = tensors["log_prob"].clone().requires_grad_()
        loss, metrics = compute_policy_loss_lad(
            **{**tensors, "log_prob": leaf}, loss_agg_mode=mode, config=config, rollout_is_weights=weights
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), metrics, gradient

    before = {name: x.clone() for name, x in given.items()}
    loss, metrics, gradient = run(given, weights)
    assert loss.isfinite()
    assert set(metrics) == set(METRIC_NAMES.values())
    assert all(np.isfinite(value) for value in metrics.values())
    assert not gradient.isnan().any()
    assert not gradient[masked].any()
    assert all(torch.equal(given[name], x) for name, x in before.items())

    # verl's own aggregation of the loss matrix, as it is defined
    leaf = given["log_prob"].clone().requires_grad_()
    matrix, _ = lad_loss(leaf, case.old_log_prob, given["advantages"], case.mask, case.config)
    weighted = matrix * (1.0 if weights is None else weights.to(matrix.dtype))
    expected = agg_loss(weighted, case.mask, mode, **global_info)
    size = agg_loss(weighted.detach().abs(), case.mask, mode, **global_info)
    assert abs(loss - expected.detach()) <= 1e-5 * size
    (expected_gradient,) = torch.autograd.grad(expected, leaf)
    own = torch.finfo(leaf.dtype)
    rtol, atol = 1e-6 + 2 * own.eps, 2 * own.smallest_normal * own.eps
    torch.testing.assert_close(gradient, expected_gradient, rtol=rtol, atol=atol)

    contiguous = {name: x.contiguous() for name, x in given.items()}
    dirty = {name: x if name == "response_mask" else x.masked_fill(masked, case.junk) for name, x in contiguous.items()}
    dirty_weights = None if weights is None else weights.masked_fill(masked, case.junk)
    clean, spoilt = run(contiguous, weights), run(dirty, dirty_weights)
    assert torch.equal(clean[0], spoilt[0])
    assert clean[1] == spoilt[1]
    assert torch.equal(clean[2], spoilt[2])


def with_a_token(kind):
    """verl has no batches without a column: seq-mean-token-sum-norm divides by their number."""
    rows, length = kind["shape"]
    return {**kind, "shape": (rows, max(length, 1))}


any_micro_batch = any_kind.map(with_a_token)


@cases_in_all(400)
@given(kind=any_micro_batch)
def test_from_scores_to_the_gradient_everything_is_finite_repeatable_and_blind_to_what_is_masked(kind):
    for case in cases_of(kind):
        check(case)


@pytest.mark.long
@pytest.mark.timeout(7200)
@cases_in_all(20_000)
@given(kind=any_micro_batch)
def test_it_is_so_in_2e4_cases(kind):
    for case in cases_of(kind):
        check(case)
