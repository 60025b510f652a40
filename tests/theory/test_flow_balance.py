"""docs/theory.md, section 8: the squared flow balance (log Z + log pi_theta - s / eta - log pi_ref)^2."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from verl_lad import LADConfig, lad_loss_reference

from .enumeration import (
    curvature,
    every_strictly_convex_f,
    kl,
    noise,
    policy,
    problems,
    target,
    tv_distance,
    weights,
    with_mass,
)


def lad(p: Tensor, q: Tensor, u: Tensor, name: str, alpha: float) -> Tensor:
    """Expected loss, not centred: zero at the target if that has mass one."""
    log_p = p.log().unsqueeze(-1)
    config = LADConfig(eta=1.0, divergence=name, alpha=alpha)
    return (q * lad_loss_reference(log_p, q.log().unsqueeze(-1), u, torch.ones_like(log_p), config).squeeze(-1)).sum()


def residual(p: Tensor, base: Tensor, reward: Tensor, log_Z: Tensor) -> Tensor:
    return log_Z + p.log() - reward - base.log()


def log_partition(base: Tensor, reward: Tensor) -> Tensor:
    return torch.log((base * reward.exp()).sum())


@every_strictly_convex_f
def test_near_the_target_every_f_is_the_flow_balance_weighted_by_the_target(name, alpha):
    q = policy(6, 0)
    u = with_mass(noise(6, 1), q)
    w = target(q, u)
    errors = []
    for size in (1e-2, 1e-3):
        p = (w.log() + size * noise(6, 2)).softmax(0)
        delta = residual(p, q, u, log_partition(q, u))
        torch.testing.assert_close(delta, (p / w).log(), rtol=1e-9, atol=1e-14)
        balance = curvature(name) / 2 * (q * u.exp() * delta.square()).sum()
        errors.append((lad(p, q, u, name, alpha) / balance - 1).abs().item())
    assert errors[0] < 0.05
    assert errors[1] < 0.005  # falls with the distance: what is left is of third order


@every_strictly_convex_f
def test_weighted_by_behaviour_the_flow_balance_differs_at_second_order_unless_the_advantages_are_small(name, alpha):
    q, ratio = policy(6, 0), {}
    for size in (2.0, 1e-2):
        u = with_mass(size * noise(6, 1), q)
        p = (target(q, u).log() + 1e-4 * (u == u.min())).softmax(0)  # off the target in the worst answer
        balance = curvature(name) / 2 * (q * (p / target(q, u)).log().square()).sum()
        ratio[size] = (lad(p, q, u, name, alpha) / balance).item()
    assert ratio[2.0] < 0.5
    assert ratio[1e-2] == pytest.approx(1.0, abs=0.05)


@every_strictly_convex_f
def test_at_the_start_every_f_is_the_flow_balance_to_second_order_in_the_advantages(name, alpha):
    # pi_theta = pi_old = pi_ref and small advantages of mass one
    q = policy(6, 0)
    errors = []
    for size in (1e-2, 1e-3):
        u = with_mass(size * noise(6, 1), q)
        balance = curvature(name) / 2 * (q * residual(q, q, u, log_partition(q, u)).square()).sum()
        errors.append((lad(q, q, u, name, alpha) / balance - 1).abs().item())
    assert errors[0] < 0.05
    assert errors[1] < 0.005


@given(problems())
def test_at_rho_one_the_sample_gradient_is_twice_that_of_anchored_kl(problem):
    base, reward, q = problem
    log_Z = log_partition(base, reward)
    u = reward - (q / base).log() - log_Z  # of mass one: E_q[exp(u)] = 1
    assert (q * u.exp()).sum().item() == pytest.approx(1.0, abs=1e-12)
    delta = residual(q, base, reward, log_Z)
    torch.testing.assert_close(2 * delta, 2 * weights(q, q, u, "kl", 0.5), rtol=1e-11, atol=1e-12)


@given(problems(), st.floats(-5, 5))
def test_sampled_from_the_policy_the_expected_gradient_is_that_of_twice_kl_whatever_Z(problem, log_Z):
    base, reward, p = problem
    w = target(base, reward)
    logits = p.log().requires_grad_()
    delta = residual(logits.softmax(0), base, reward, torch.tensor(log_Z, dtype=torch.float64))
    (balance,) = torch.autograd.grad((p * delta.square()).sum(), logits)  # the sampling policy p is held fixed
    (divergence,) = torch.autograd.grad(2 * kl(logits.softmax(0), w), logits)
    torch.testing.assert_close(balance, divergence, rtol=1e-10, atol=1e-11)


@given(problems())
def test_best_learned_log_Z_is_a_mean_and_becomes_the_partition_function_at_the_target_alone(problem):
    base, reward, p = problem
    best = (p * (reward + base.log() - p.log())).sum()  # minimises E_p[residual^2]
    for shift in (-0.1, 0.1):
        assert (p * residual(p, base, reward, best + shift).square()).sum() > (
            p * residual(p, base, reward, best).square()
        ).sum()
    # below log Z by exactly KL(p || w)
    gap = log_partition(base, reward) - best
    torch.testing.assert_close(gap, kl(p, target(base, reward)), rtol=1e-10, atol=1e-12)


def test_flow_balance_is_not_convex_in_the_probabilities():
    # two policies beyond e times the target in the first answer, and their middle
    w = torch.tensor([0.1, 0.45, 0.45]).double()
    ends = [torch.tensor([x, (1 - x) / 2, (1 - x) / 2]).double() for x in (0.35, 0.55)]
    term = [(end[0] / w[0]).log() ** 2 for end in ends]
    middle = (ends[0] + ends[1]) / 2
    assert (middle[0] / w[0]).log() ** 2 > (term[0] + term[1]) / 2 + 1e-3
    # weighted by a behaviour that samples the first answer most, the whole loss is not convex either
    mu = torch.tensor([0.98, 0.01, 0.01]).double()

    def loss(p: Tensor) -> Tensor:
        return (mu * (p / w).log().square()).sum()

    assert loss(middle) > (loss(ends[0]) + loss(ends[1])) / 2 + 1e-3


def test_off_the_policy_a_wrong_Z_moves_the_stationary_point():
    base, reward, mu, error = policy(4, 3), noise(4, 4), policy(4, 5), 0.3
    w = target(base, reward)
    for behaviour in (mu, w):
        logits = w.log().requires_grad_()
        delta = residual(logits.softmax(0), base, reward, log_partition(base, reward) + error)
        (g,) = torch.autograd.grad((behaviour * delta.square()).sum(), logits)
        torch.testing.assert_close(g, 2 * error * (behaviour - w), rtol=1e-10, atol=1e-14)
    assert tv_distance(mu, w) > 0.1


def test_mean_log_probabilities_have_another_target_that_depends_on_the_lengths():
    # FlowRL's own residual divides both log-probabilities by |y|
    base = policy(4, 3)
    reward = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    length = torch.tensor([1.0, 3.0, 1.0, 3.0]).double()
    low, high = reward.min(), reward.max()
    for _ in range(100):
        log_Z = (low + high) / 2
        too_small = (base * (length * (reward - log_Z)).exp()).sum() > 1
        low, high = (log_Z, high) if too_small else (low, log_Z)
    p = base * (length * (reward - log_Z)).exp()
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (log_Z + p.log() / length - reward - base.log() / length).abs().max() < 1e-12
    # the longer of two equally good answers gains on the shorter one, the longer of two equally bad ones loses
    gain = (p / base).log()
    assert gain[1] - gain[0] > 0.1
    assert gain[3] - gain[2] < -0.1
    assert tv_distance(p, target(base, reward)) > 0.01
