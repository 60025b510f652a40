"""docs/theory.md, section 1: the target."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from .enumeration import every_divergence, kl, logit_gradient, noise, policy, problems, target, tv_distance


@given(problems(), st.floats(0.1, 10))
def test_regularised_objective_is_a_constant_minus_eta_kl_to_the_target(problem, eta):
    q, A, p = problem
    w, Z = target(q, A / eta), (q * (A / eta).exp()).sum()
    J = (p * A).sum() - eta * kl(p, q)
    torch.testing.assert_close(J, eta * Z.log() - eta * kl(p, w), rtol=1e-11, atol=1e-11)


def other_direction(q: torch.Tensor, A: torch.Tensor, eta: float) -> torch.Tensor:
    """The maximiser of E_p[A] - eta KL(q || p): eta q / (lam - A), lam by bisection."""
    low, high = A.max() + 1e-14, A.max() + eta + A.max() - A.min()
    for _ in range(200):
        lam = (low + high) / 2
        low, high = (lam, high) if (eta * q / (lam - A)).sum() > 1 else (low, lam)
    return eta * q / (high - A)


def test_other_direction_of_kl_has_a_rational_maximiser_not_the_exponential_one():
    q, A, eta = policy(6, 0), noise(6, 1), 0.25
    p = other_direction(q, A, eta)
    assert abs(p.sum() - 1) < 1e-10

    def objective(x):
        return (x * A).sum() - eta * kl(q, x)

    for seed in range(200):
        other = (p.log() + (0.1 + seed % 3) * noise(6, 100 + seed)).softmax(0)
        assert objective(other) < objective(p)
    w = target(q, A / eta)
    assert tv_distance(p, w) > 0.03
    assert objective(w) < objective(p) - 0.01


def test_both_directions_agree_to_first_order_for_a_large_eta():
    q, A = policy(6, 0), noise(6, 1)
    first_order = q * (A - (q * A).sum())
    errors = []
    for eta in (100.0, 1000.0):
        exponential, rational = target(q, A / eta), other_direction(q, A, eta)
        errors.append(
            max((eta * (p - q) - first_order).abs().max().item() for p in (exponential, rational)),
        )
    assert errors[0] < 0.05
    assert 9 < errors[0] / errors[1] < 11  # falls as 1 / eta: what is left is of second order


@every_divergence
def test_a_constant_added_to_the_advantages_leaves_the_target(name, alpha):
    q, u = policy(5, 2), noise(5, 3)
    for c in (-2.0, 0.0, 1.5):
        w = target(q, u + c)
        torch.testing.assert_close(w, target(q, u), rtol=1e-12, atol=0)
        assert logit_gradient(w, q, u + c, name, alpha).abs().max() < 1e-14


def test_equally_good_answers_keep_their_ratio():
    q, u = policy(5, 2), torch.tensor([1.0, 0.3, 1.0, -2.0, 1.0]).double()
    w, best = target(q, u), [0, 2, 4]
    torch.testing.assert_close(w[best] / w[best].sum(), q[best] / q[best].sum(), rtol=1e-13, atol=0)
