"""docs/theory.md, section 7: large and small eta."""

import math

import pytest
import torch
from hypothesis import given

from verl_lad import get_divergence

from .enumeration import (
    curvature,
    every_strictly_convex_f,
    expected_loss,
    kl,
    logit_gradient,
    noise,
    policy,
    problems,
    slope,
    target,
    tensor,
    weights,
)

LOG2 = math.log(2)


@every_strictly_convex_f
def test_for_a_large_eta_every_canonical_f_is_f_second_of_one_times_l_minus_u(name, alpha):
    l, A = noise(6, 0), noise(6, 1)
    errors = []
    for eta in (100.0, 1000.0):
        g = get_divergence(name, alpha).weight(l / eta, A / eta)
        errors.append((g - curvature(name) * (l - A) / eta).abs().max().item())
    assert errors[0] < 20 / 100**2
    # kl at l = 0 has no second-order term, but l is not 0 here
    assert 95 < errors[0] / errors[1] < 105


@every_strictly_convex_f
def test_for_a_large_eta_the_first_gradient_is_reinforce_times_f_second_of_one_over_eta(name, alpha):
    q, A = policy(5, 2), noise(5, 3)
    logits = q.log().requires_grad_()
    (reinforce,) = torch.autograd.grad((logits.softmax(0) * A).sum(), logits)
    for eta in (1e3, 1e5):
        g = -eta / curvature(name) * logit_gradient(q, q, A / eta, name, alpha)
        assert (g - reinforce).abs().max() < 10 / eta


def test_for_a_large_eta_tv_keeps_gradients_of_full_size():
    q, A = policy(5, 2), noise(5, 3)
    for eta in (1.0, 1e6):
        torch.testing.assert_close(weights(q, q, A / eta, "tv", 0.5), -0.5 * A.sign(), rtol=1e-12, atol=0)


@given(problems(), problems())
def test_rkl_is_likelihood_weighted_by_exp_u_at_every_policy(first, second):
    q, u, p = first
    _, _, other = second
    logits = p.log().requires_grad_()
    weighted = -(q * u.exp() * logits.log_softmax(0)).sum()
    (g,) = torch.autograd.grad(weighted, logits)
    torch.testing.assert_close(logit_gradient(p, q, u, "rkl", 0.5), g, rtol=1e-10, atol=1e-11)
    # and Z KL(w || p) up to a constant
    w, Z = target(q, u), (q * u.exp()).sum()
    difference = [expected_loss(x.log(), q, u, "rkl", 0.5) - Z * kl(w, x) for x in (p, other)]
    torch.testing.assert_close(*difference, rtol=1e-10, atol=1e-11)


def test_for_a_small_eta_the_target_is_pi_old_restricted_to_the_best():
    q, A = policy(5, 2), tensor([1.0, 0.0, 1.0, 0.9, -1.0])
    w = target(q, A / 0.002)
    best = A == 1
    torch.testing.assert_close(w, torch.where(best, q, 0.0) / q[best].sum(), rtol=1e-12, atol=1e-20)


@given(problems())
def test_for_a_small_eta_js_is_the_policy_gradient_of_the_positive_part(problem):
    q, A, _ = problem
    for eta in (1.0, 0.1, 0.01):
        error = eta * weights(q, q, A / eta, "js", 0.5) + A.clamp(min=0) / 2
        assert error.min() > -1e-14
        assert error.max() <= eta * LOG2 / 2 + 1e-14


@pytest.mark.parametrize(("name", "alpha"), [("rkl", 0.5), ("hellinger", 0.5), ("jeffreys", 0.5), ("alpha", 0.3)])
def test_for_a_small_eta_the_best_answers_alone_have_weight_where_f_prime_is_a_power_at_zero(name, alpha):
    A = tensor([1.0, 1.0, 0.9, 0.0, -1.0])
    share = slope((-A / 0.005).exp(), name, alpha)
    share = share / share[0]
    assert share[1].item() == 1
    assert share[2:].abs().max() < 1e-3


def test_for_a_small_eta_alpha_two_gives_all_weight_to_the_worst():
    A = tensor([1.0, 0.0, -0.9, -1.0])
    share = slope((-A / 0.01).exp(), "alpha", 2.0)
    assert (share / share[-1])[:-1].abs().max() < 1e-4


@given(problems())
def test_kl_at_rho_one_is_the_same_policy_gradient_for_every_eta(problem):
    q, A, _ = problem
    for eta in (10.0, 1.0, 0.01):
        torch.testing.assert_close(eta * weights(q, q, A / eta, "kl", 0.5), -A, rtol=1e-12, atol=1e-14)


@every_strictly_convex_f
def test_without_the_canonical_form_the_gradient_of_a_sample_does_not_shrink_with_a_large_eta(name, alpha):
    q, A = policy(5, 2), noise(5, 3)
    for eta in (1e2, 1e4):
        g = weights(q, q, A / eta, name, alpha)
        assert g.abs().max() < 10 / eta
        assert (g + 1).abs().min() > 0.9  # f + (X - 1): rho = 1 comes on top, signal and all
