"""The baselines' gradients, and that every divergence of the objective takes part."""

import pytest
import torch

from verl_lad.bandit.problem import ARMS, SCORES, Method, all_methods, policy_losses, target_log_prob
from verl_lad.objective.divergences import _BUILT_IN

ETA = 0.25
METHODS = all_methods(ETA)


@pytest.fixture
def drawn():
    """logits, log pi_0, log pi_old and scores, (4, 50) but for pi_0; the policies differ by about one nat an arm."""
    generator = torch.Generator().manual_seed(0)
    logits, initial, old = torch.randn(3, 4, ARMS, generator=generator).double()
    scores = torch.randn(4, ARMS, generator=generator).double()
    return logits.requires_grad_(), initial[0].log_softmax(-1), old.log_softmax(-1), scores


def expected(per_arm, pi):
    """sum_y pi(y) (x(y) - E_pi[x]) e_y: the gradient of E_pi[x] in the logits, for an x without gradient."""
    return pi * (per_arm - (pi * per_arm).sum(-1, keepdim=True))


def centred(scores, old):
    return scores - (old.exp() * scores).sum(-1, keepdim=True)


def regulariser(method, log_prob, initial):
    """Return the loss where every score is the same: what remains is the regulariser."""
    return policy_losses(method, log_prob, log_prob.detach(), initial, torch.zeros(ARMS), log_prob.detach().exp())


def test_every_divergence_of_the_objective_is_compared():
    assert {method.lad.divergence for method in METHODS.values() if method.lad} == {*_BUILT_IN, "alpha"}


def test_grpos_gradient_is_the_policy_gradient(drawn):
    logits, initial, old, scores = drawn
    log_prob = logits.log_softmax(-1)
    losses = policy_losses(METHODS["grpo"], log_prob, old, initial, scores, old.exp())
    (g,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(g, -expected(centred(scores, old), log_prob.detach().exp()), rtol=1e-12, atol=1e-14)


def test_ppos_gradient_is_the_policy_gradient_of_the_arms_that_are_not_clipped(drawn):
    logits, initial, old, scores = drawn
    log_prob = logits.log_softmax(-1)
    losses = policy_losses(METHODS["ppo-clip"], log_prob, old, initial, scores, old.exp())
    (g,) = torch.autograd.grad(losses.sum(), logits)
    rho = (log_prob.detach() - old).exp()
    A = centred(scores, old)
    moves = torch.where(A > 0, rho < 1.2, rho > 0.8)
    assert moves.any()
    assert not moves.all()
    torch.testing.assert_close(g, -expected(A * moves, log_prob.detach().exp()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["grpo-entropy-0.01", "grpo-entropy-eta"])
def test_gradient_of_the_entropy_bonus(drawn, name):
    logits, initial, _, _ = drawn
    log_prob = logits.log_softmax(-1)
    (g,) = torch.autograd.grad(regulariser(METHODS[name], log_prob, initial).sum(), logits)
    pi = log_prob.detach().exp()
    coefficient = {"grpo-entropy-0.01": 0.01, "grpo-entropy-eta": ETA}[name]
    torch.testing.assert_close(g, coefficient * expected(log_prob.detach(), pi), rtol=1e-12, atol=1e-14)


def test_gradient_of_the_kl_loss(drawn):
    logits, initial, _, _ = drawn
    log_prob = logits.log_softmax(-1)
    penalty = regulariser(METHODS["grpo-kl-loss"], log_prob, initial)
    kl = torch.nn.functional.kl_div(initial.expand(4, ARMS), log_prob, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(penalty, ETA * kl, rtol=1e-12, atol=1e-14)
    (g,) = torch.autograd.grad(penalty.sum(), logits)
    pi = log_prob.detach().exp()
    torch.testing.assert_close(g, ETA * expected(log_prob.detach() - initial, pi), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["grpo-kl-loss", "grpo-entropy-eta"])
def test_optimum_of_a_regulariser_as_strong_as_eta_is_a_target_of_exp_score_over_eta(drawn, name):
    _, initial, old, _ = drawn
    s = SCORES["unequal"]
    optimum = target_log_prob(initial if name == "grpo-kl-loss" else torch.zeros(ARMS), s, ETA)
    logits = optimum.clone().requires_grad_()
    loss = policy_losses(METHODS[name], logits.log_softmax(-1), old[0], initial, s, old[0].exp())
    (g,) = torch.autograd.grad(loss, logits)
    assert g.abs().max() < 1e-14


def test_a_method_without_settings_is_plain_grpo():
    assert METHODS["grpo"] == Method()
