"""docs/theory.md, section 2: the minimiser of the practical loss."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from verl_lad import group_advantages, lad_loss

from .enumeration import (
    all_groups,
    config,
    every_divergence,
    every_strictly_convex_f,
    expected_loss,
    f_of,
    group_ids,
    logit_gradient,
    minimise,
    noise,
    policy,
    problems,
    target,
    tensor,
    tv_distance,
    with_mass,
)


@every_divergence
@given(problem=problems())
def test_loss_is_convex_in_the_probabilities(name, alpha, problem):
    q, u, p = problem
    other = q.flip(0)
    middle = (p + other) / 2
    ends = (expected_loss(p.log(), q, u, name, alpha) + expected_loss(other.log(), q, u, name, alpha)) / 2
    gap = ends - expected_loss(middle.log(), q, u, name, alpha)
    assert gap > -1e-12
    if name != "tv" and tv_distance(p, other) > 1e-2:
        assert gap > 1e-10


@every_strictly_convex_f
@given(problem=problems())
def test_no_policy_but_the_target_is_stationary_in_logits(name, alpha, problem):
    # along the direction w / p the probabilities move straight towards w, and convexity bounds the descent from below
    q, u, p = problem
    w = target(q, u)
    descent = (logit_gradient(p, q, u, name, alpha) * (w / p)).sum()
    excess = expected_loss(p.log(), q, u, name, alpha) - expected_loss(w.log(), q, u, name, alpha)
    assert descent <= -excess + 1e-12
    if tv_distance(p, w) > 1e-2:
        assert excess > 1e-9


def tv_loss(p: Tensor, q: Tensor, u: Tensor) -> Tensor:
    return (q * u.exp() * f_of(p / (q * u.exp()), "tv", 0.5)).sum()


@pytest.mark.parametrize("Z", [7.5, 1.3, 1.0, 0.7, 0.1])
@given(problem=problems())
def test_tv_loss_is_the_mass_on_the_wrong_side_of_the_target_alone(Z, problem):
    q, u, p = problem
    u = with_mass(u, q, Z)
    m = q * u.exp()
    wrong = (p - m).clamp(min=0).sum() if Z >= 1 else (m - p).clamp(min=0).sum()
    torch.testing.assert_close(tv_loss(p, q, u), abs(Z - 1) / 2 + wrong, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("Z", [7.5, 0.2])
def test_tv_has_a_continuum_of_minimisers_below_the_target_for_Z_above_one_and_above_it_for_Z_below(Z):
    q = policy(5, 0)
    m = q * with_mass(0.3 * noise(5, 1), q, Z).exp()
    u = (m / q).log()
    w = m / Z
    found = 0
    for seed in range(20):
        p = (w.log() + 0.3 * noise(5, 10 + seed)).softmax(0)
        if not ((p < m) if Z > 1 else (p > m)).all():
            continue
        found += 1
        assert tv_loss(p, q, u).item() == pytest.approx(abs(Z - 1) / 2, abs=1e-14)
        assert logit_gradient(p, q, u, "tv", 0.5).abs().max() < 1e-15
        assert tv_distance(p, w) > 0.01
    assert found > 10


@pytest.mark.parametrize("sign", [-1, 1])
def test_tv_learns_nothing_from_advantages_of_one_sign(sign):
    # scores in {0, 1} taken as they are, or their negatives: the expected gradient at pi_old is zero
    q, u = policy(5, 0), sign * tensor([1.0, 0.5, 2.0, 1e-3, 1.0])
    assert logit_gradient(q, q, u, "tv", 0.5).abs().max() < 1e-16
    assert logit_gradient(q, q, u, "js", 0.5).abs().max() > 1e-3


@every_divergence
def test_loss_between_normalised_ratios_has_the_same_minimiser(name, alpha):
    q, u = policy(5, 4), noise(5, 5)
    P_A = u.softmax(0)

    def theory(p: Tensor) -> Tensor:
        P = (p / q) / (p / q).sum()
        return (P_A * f_of(P / P_A, name, alpha)).sum()

    w = target(q, u)
    assert theory(w).abs() < 1e-14
    for seed in range(50):
        p = (w.log() + 0.1 * noise(5, 20 + seed)).softmax(0)
        assert theory(p) > 1e-3 * tv_distance(p, w) ** 2


# --- groups of finitely many samples ----------------------------------------------------------------------------------

SCORES = tensor([1.0, 0.0, 1.0, 0.4])
ETA = 0.5


def group_loss(logits: Tensor, q: Tensor, n: int, name: str, alpha: float, by_std: bool = False) -> Tensor:
    """Expected loss of the mean over a group of n samples from q, over every group there is.

    The advantages have the group's mass at one, or by_std its mean at zero and its standard deviation at one.
    """
    groups, probability = all_groups(q, n)
    settings = config(name, alpha, ETA, partition="none" if by_std else "group")
    A = group_advantages(SCORES[groups].flatten(), group_ids(groups), settings, norm_by_std=by_std)
    log_p = logits.log_softmax(-1)[groups].view(-1, 1)
    old = q.log()[groups].view(-1, 1)
    loss = lad_loss(log_p, old, A, torch.ones_like(log_p), settings)[0].view(groups.shape)
    return (probability * loss.mean(-1)).sum()


def gradient(p: Tensor, *problem) -> Tensor:
    logits = p.log().requires_grad_()
    (g,) = torch.autograd.grad(group_loss(logits, *problem), logits)
    return g


@every_strictly_convex_f
def test_minimiser_over_finite_groups_keeps_the_ratio_of_equals_and_increases_with_the_score(name, alpha):
    q, n = policy(4, 6), 3
    logits = minimise(lambda x: group_loss(x, q, n, name, alpha), torch.zeros(4, dtype=torch.float64))
    reached = logits.softmax(0) / q
    assert reached[0] == pytest.approx(reached[2].item(), abs=1e-6)  # score 1.0 twice; reached: about 1e-8
    assert reached[1] < reached[3] - 0.01 < reached[0] - 0.02  # scores 0.0 < 0.4 < 1.0
    # and it is flatter than the target: a good answer raises the mean that its own weight is divided by
    w = target(q, SCORES / ETA) / q
    for better, worse in ((0, 1), (0, 3), (3, 1)):
        assert reached[better] / reached[worse] < 0.99 * w[better] / w[worse]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_minimiser_of_rkl_over_finite_groups_is_pi_old_times_the_expected_normalised_weight(n):
    q = policy(4, 6)
    groups, probability = all_groups(q, n)
    e = (SCORES / ETA).exp()
    share = e[groups] / e[groups].mean(-1, keepdim=True)
    w_n = torch.zeros(4, dtype=torch.float64)
    w_n.scatter_add_(0, groups.flatten(), (probability.unsqueeze(-1) * share / n).flatten())
    assert w_n.sum().item() == pytest.approx(1.0, abs=1e-13)
    assert gradient(w_n, q, n, "rkl", 0.5).abs().max() < 1e-14
    if n == 1:
        torch.testing.assert_close(w_n, q, rtol=1e-13, atol=0)


def test_group_mean_and_standard_deviation_keep_the_ratio_of_equals_too():
    q = policy(4, 6)
    logits = minimise(lambda x: group_loss(x, q, 3, "js", 0.5, by_std=True), torch.zeros(4, dtype=torch.float64))
    reached = logits.softmax(0) / q
    assert reached[0] == pytest.approx(reached[2].item(), abs=1e-6)
    assert reached[1] < reached[3] - 0.01 < reached[0] - 0.02


def test_bias_of_finite_groups_is_whole_for_one_sample_and_falls_with_n():
    q = policy(4, 6)
    w, start = target(q, SCORES / ETA), torch.zeros(4, dtype=torch.float64)
    distance = [
        tv_distance(minimise(lambda x, n=n: group_loss(x, q, n, "js", 0.5), start).softmax(0), w) for n in (1, 2, 3, 5)
    ]
    assert distance[0] == pytest.approx(tv_distance(q, w), abs=1e-6)
    assert all(later < 0.8 * earlier for earlier, later in itertools.pairwise(distance))


def test_bias_of_rkl_falls_as_one_over_n():
    # two answers, scores 1 and 0: the number k of good samples is binomial, and n can be large
    share, e = 0.3, math.exp(1 / ETA)
    w = share * e / (share * e + 1 - share)
    bias = []
    for n in (50, 100, 200):
        w_n = sum(
            math.comb(n, k) * share**k * (1 - share) ** (n - k) * k * e / (k * e + n - k) for k in range(1, n + 1)
        )
        bias.append(w - w_n)
    assert bias[0] > 0.001
    for earlier, later in itertools.pairwise(bias):
        assert 1.9 < earlier / later < 2.1


@every_strictly_convex_f
def test_without_any_centring_the_expected_sample_loss_is_the_exact_one(name, alpha):
    # the bias comes from the group's statistics: weights that each sample has by itself have none
    q = policy(4, 6)
    groups, probability = all_groups(q, 3)
    A = SCORES[groups].flatten()
    p = policy(4, 7)
    log_p = p.log()[groups].view(-1, 1)
    loss = lad_loss(log_p, q.log()[groups].view(-1, 1), A, torch.ones_like(log_p), config(name, alpha, ETA))[0]
    mean = (probability * loss.view(groups.shape).mean(-1)).sum()
    torch.testing.assert_close(mean, expected_loss(p.log(), q, SCORES / ETA, name, alpha), rtol=1e-12, atol=1e-12)
