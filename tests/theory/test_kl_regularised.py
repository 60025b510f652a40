"""docs/theory.md, section 6: KL-regularised RL and policy gradients."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from verl_lad import LADConfig, group_advantages

from .enumeration import (
    every_divergence,
    every_strictly_convex_f,
    expected_loss,
    kl,
    logit_gradient,
    noise,
    policy,
    problems,
    slope,
    target,
    weights,
)

ETA = 0.5
SCORES = torch.tensor([1.0, 0.0, 0.3, 1.0]).double()


def J(p: Tensor, base: Tensor) -> Tensor:
    """E_p[s] - eta KL(p || pi_ref)."""
    return (p * SCORES).sum() - ETA * kl(p, base)


def anchored_u(q: Tensor, base: Tensor) -> Tensor:
    """A / eta, centred: the group of every answer once, weighted by q."""
    v = SCORES / ETA - (q / base).log()
    return v - torch.log((q * v.exp()).sum())


@every_strictly_convex_f
@given(problem=problems())
def test_optimum_of_kl_regularised_rl_is_the_minimiser_of_anchored_lad(name, alpha, problem):
    base, _, q = problem
    w = target(base, SCORES / ETA)
    logits = w.log().requires_grad_()
    (g,) = torch.autograd.grad(J(logits.softmax(0), base), logits)
    assert g.abs().max() < 1e-13
    assert J(w, base) >= J(q, base)
    assert logit_gradient(w, q, anchored_u(q, base), name, alpha).abs().max() < 1e-10


@given(problems(), problems())
def test_anchored_lad_with_kl_is_kl_regularised_rl_divided_by_eta_at_every_policy(first, second):
    base, _, q = first
    _, _, p = second
    u = anchored_u(q, base)

    def difference(x: Tensor) -> Tensor:
        return expected_loss(x.log(), q, u, "kl", 0.5) + J(x, base) / ETA

    torch.testing.assert_close(difference(p), difference(base), rtol=1e-10, atol=1e-11)
    logits = p.log().requires_grad_()
    (ascent,) = torch.autograd.grad(J(logits.softmax(0), base), logits)
    torch.testing.assert_close(-ETA * logit_gradient(p, q, u, "kl", 0.5), ascent, rtol=1e-10, atol=1e-11)


@given(problems())
def test_plain_lad_with_kl_is_policy_optimisation_with_a_kl_penalty_to_pi_old(problem):
    q, A, p = problem
    logits = p.log().requires_grad_()
    pi = logits.softmax(0)
    penalised = (pi * A).sum() - ETA * (pi * (pi.log() - q.log())).sum()
    (ascent,) = torch.autograd.grad(penalised, logits)
    torch.testing.assert_close(-ETA * logit_gradient(p, q, A / ETA, "kl", 0.5), ascent, rtol=1e-10, atol=1e-11)


@given(problems(), st.floats(0.1, 5))
def test_kl_at_rho_one_is_grpos_gradient_over_eta_for_each_sample(problem, eta):
    q, A, p = problem
    torch.testing.assert_close(weights(q, q, A / eta, "kl", 0.5), -A / eta, rtol=1e-12, atol=1e-14)
    # elsewhere GRPO has -A rho, and kl's own log-ratio comes on top: the restoring force
    rho = p / q
    expected = -A * rho + eta * rho * rho.log()
    torch.testing.assert_close(eta * weights(p, q, A / eta, "kl", 0.5), expected, rtol=1e-11, atol=1e-12)


def test_grpo_with_in_reward_kl_has_the_advantage_of_anchored_lad_up_to_a_constant_of_the_group():
    # verl subtracts kl_coef * K from the score and centres the group; the anchor subtracts another constant
    K = noise(4, 1)
    reward = SCORES - ETA * K
    grpo = group_advantages(reward, [0] * 4, LADConfig(eta=ETA), norm_by_std=False)
    for partition in ("group", "balanced"):
        A = group_advantages(reward, [0] * 4, LADConfig(eta=ETA, anchor="reference", partition=partition))
        torch.testing.assert_close(A - A.mean(), grpo, rtol=1e-12, atol=1e-13)


@every_divergence
def test_only_kl_is_proportional_to_the_advantage_at_rho_one(name, alpha):
    u = torch.linspace(-2, 2, 5).double()
    u = u[u != 0]
    ratio = slope((-u).exp(), name, alpha) / -u
    varies = ratio.max() - ratio.min() > 0.05
    assert bool(varies) == (name != "kl")


@every_divergence
@given(problem=problems())
def test_every_f_ascends_the_kl_regularised_objective_in_the_natural_gradient(name, alpha, problem):
    # d/dt J along dp = -q (G - mean G), G = f'(exp(-u)), is -eta Cov_q(G, u) >= 0
    base, _, q = problem
    u = anchored_u(q, base)
    G = slope((-u).exp(), name, alpha)
    pi = q.clone().requires_grad_()
    (dJ,) = torch.autograd.grad((pi * SCORES).sum() - ETA * (pi * (pi / base).log()).sum(), pi)
    rate = (dJ * -q * (G - (q * G).sum())).sum()
    covariance = (q * G * u).sum() - (q * G).sum() * (q * u).sum()
    torch.testing.assert_close(rate, -ETA * covariance, rtol=1e-9, atol=1e-12)
    assert rate > -1e-15
    if (u.max() - u.min()) > 1e-2:
        assert rate > 0


def test_gradients_of_other_divergences_point_elsewhere_at_second_order():
    base, q = policy(4, 0), policy(4, 1)
    u = anchored_u(q, base)
    reference = logit_gradient(q, q, u, "kl", 0.5)
    for name in ("js", "hellinger", "rkl", "jeffreys"):
        g = logit_gradient(q, q, u, name, 0.5)
        assert torch.nn.functional.cosine_similarity(g, reference, dim=0) < 0.999
