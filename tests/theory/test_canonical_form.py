"""docs/theory.md, section 3: what c (X - 1) does."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from .enumeration import (
    every_divergence,
    every_strictly_convex_f,
    f_of,
    logit_gradient,
    noise,
    policy,
    problems,
    slope,
    target,
    weights,
    with_mass,
)


@every_divergence
@given(problem=problems(), c=st.floats(-3, 3))
def test_a_multiple_of_X_minus_one_adds_a_constant_and_no_expected_gradient(name, alpha, problem, c):
    q, u, p = problem
    m = q * u.exp()
    assume(name != "tv" or (p / m - 1).abs().min() > 1e-9)  # no gradient at the kink

    def loss(x: Tensor, c: float) -> Tensor:
        return (m * (f_of(x / m, name, alpha) + c * (x / m - 1))).sum()

    torch.testing.assert_close(loss(p, c) - loss(p, 0.0), c * (1 - m.sum()), rtol=1e-10, atol=1e-11)
    logits = p.log().requires_grad_()
    (g,) = torch.autograd.grad(loss(logits.softmax(0), c), logits)
    torch.testing.assert_close(g, logit_gradient(p, q, u, name, alpha), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("Z", [7.5, 1.0, 0.2])
@every_strictly_convex_f
def test_each_samples_weight_at_the_target_is_f_prime_of_one_over_Z_times_rho(name, alpha, Z):
    q = policy(5, 0)
    u = with_mass(noise(5, 1), q, Z)
    w = target(q, u)
    expected = (w / q) * slope(torch.tensor(1 / Z, dtype=torch.float64), name, alpha)
    torch.testing.assert_close(weights(w, q, u, name, alpha), expected, rtol=1e-12, atol=1e-14)
    assert (expected.abs().max() < 1e-14) == (Z == 1.0)


def total_variance(p: Tensor, q: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Variance, summed over coordinates, of one sample's gradient g (e_y - p) in logits; and E_q[rho^2 |e_y - p|^2]."""
    score = torch.eye(len(p), dtype=p.dtype) - p
    sample = g.unsqueeze(-1) * score
    mean = (q.unsqueeze(-1) * sample).sum(0)
    square = score.square().sum(-1)
    return (q * sample.square().sum(-1)).sum() - mean.square().sum(), (q * (p / q).square() * square).sum()


@every_strictly_convex_f
@given(problem=problems(), c=st.floats(-3, 3))
def test_variance_is_quadratic_in_c_with_its_minimum_at_the_mean_of_minus_f_prime(name, alpha, problem, c):
    q, u, p = problem
    g, rho = weights(p, q, u, name, alpha), p / q
    square = (torch.eye(len(p), dtype=p.dtype) - p).square().sum(-1)
    best = -(q * rho * g * square).sum() / (q * rho.square() * square).sum()
    V_0, K = total_variance(p, q, g)
    V_c, _ = total_variance(p, q, g + c * rho)
    torch.testing.assert_close(V_c - V_0, K * c * (c - 2 * best), rtol=1e-9, atol=1e-9 * (1 + float(V_0)))
    assert best.abs() <= slope(p / (q * u.exp()), name, alpha).abs().max() + 1e-12


@every_strictly_convex_f
def test_canonical_form_has_the_least_variance_near_a_target_of_mass_one(name, alpha):
    q = policy(5, 0)
    u = with_mass(noise(5, 1), q)
    for size in (0.1, 0.01, 0.0):
        p = (target(q, u).log() + size * noise(5, 2)).softmax(0)
        g, rho = weights(p, q, u, name, alpha), p / q
        canonical, K = total_variance(p, q, g)
        assert canonical < 20 * size**2 + 1e-25  # of second order, and zero at the target
        for c in (-1.0, 1.0):  # rkl as -log X, kl as X log X
            assert total_variance(p, q, g + c * rho)[0] > 0.4 * K


def test_far_from_the_target_another_form_can_have_less_variance():
    # all advantages large: every sample pulls, and a baseline helps
    q, u = policy(5, 0), 3 + 0.1 * noise(5, 1)
    g = weights(q, q, u, "kl", 0.5)
    assert total_variance(q, q, g + 3.0)[0] < 0.1 * total_variance(q, q, g)[0]
