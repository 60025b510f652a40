"""docs/theory.md, section 10: which constant a group subtracts from A / eta."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from verl_lad import group_advantages

from .enumeration import (
    all_groups,
    config,
    every_divergence,
    every_strictly_convex_f,
    group_ids,
    group_weights,
    logit_gradient,
    noise,
    policy,
    problems,
    slope,
    target,
    tensor,
    weights,
    with_constant,
    with_mass,
)

ETA = 0.5
SCORES = tensor([1.0, 0.0, 0.3, 1.0])
CONVEX_IN_U = {("alpha", 1.5), ("alpha", 2.0)}
"""Divergences whose weight at rho = 1 is strictly convex in u; that of kl is linear, of the others strictly concave."""

values_of_a_group = st.lists(st.floats(-4, 4), min_size=2, max_size=16).map(tensor)


def one_group(v: Tensor, partition: str, name: str, alpha: float, eta: float = ETA) -> tuple[Tensor, Tensor]:
    """Return u and g at rho = 1 of one group with A / eta = v but for a constant, from the package."""
    settings = config(name, alpha, eta, partition=partition)
    A = group_advantages(eta * v, [0] * len(v), settings, norm_by_std=False)
    return A / eta, group_weights(torch.arange(len(v)).unsqueeze(0), A, name, alpha, eta).squeeze(0)


def every_group(
    q: Tensor, scores: Tensor, n: int, partition: str, name: str, alpha: float, eta: float = ETA
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all groups of n, their probabilities, and A and g at rho = 1 of their samples, each (M, n)."""
    groups, probability = all_groups(q, n)
    settings = config(name, alpha, eta, partition=partition)
    A = group_advantages(scores[groups].flatten(), group_ids(groups), settings, norm_by_std=False)
    return groups, probability, A.view(groups.shape), group_weights(groups, A, name, alpha, eta)


# --- 10.1 mass one ----------------------------------------------------------------------------------------------------


@every_strictly_convex_f
@given(v=values_of_a_group)
def test_at_mass_one_the_mean_weight_of_a_group_has_the_sign_of_the_bend_of_h(name, alpha, v):
    _, g = one_group(v, "group", name, alpha)
    mean, size = g.mean(), g.abs().mean()
    if name == "rkl":
        assert abs(mean) <= 1e-13 * (1 + size)
    else:
        sign = -1 if alpha < 0 else 1
        assert sign * mean >= -1e-13 * (1 + size)
        if v.max() - v.min() > 0.1:
            assert sign * mean > 1e-6 * size


@every_strictly_convex_f
def test_the_weight_as_a_function_of_exp_u_bends_as_stated(name, alpha):
    w = torch.linspace(0.05, 8.0, 400, dtype=torch.float64)
    bend = slope(1 / w, name, alpha).diff().diff()
    if name == "rkl":
        assert bend.abs().max() < 1e-13
    else:
        assert ((bend > 0) if alpha > 0 else (bend < 0)).all()


def test_kl_at_mass_one_pushes_down_by_3_9_on_average_in_the_example():
    v = tensor([8.0] * 4 + [0.0] * 6)
    u, g = one_group(v, "group", "kl", 0.5)
    torch.testing.assert_close(u.exp().mean(), tensor(1.0), rtol=1e-12, atol=0)
    assert g[0].item() == pytest.approx(-0.92, abs=0.005)
    assert g[-1].item() == pytest.approx(7.08, abs=0.005)
    assert g.mean().item() == pytest.approx(3.9, abs=0.05)
    _, balanced = one_group(v, "balanced", "kl", 0.5)
    assert balanced[0].item() == pytest.approx(-4.8, abs=1e-12)
    assert balanced[-1].item() == pytest.approx(3.2, abs=1e-12)


# --- 10.2 no constant, and the order ----------------------------------------------------------------------------------


@every_strictly_convex_f
@given(v=values_of_a_group)
def test_at_mean_zero_the_mean_weight_is_negative_but_for_kl_and_alpha_above_one(name, alpha, v):
    _, g = one_group(v, "none", name, alpha)
    mean, size = g.mean(), g.abs().mean()
    if name == "kl":
        assert abs(mean) <= 1e-13 * (1 + size)
    else:
        sign = 1 if (name, alpha) in CONVEX_IN_U else -1
        assert sign * mean >= -1e-13 * (1 + size)
        if v.max() - v.min() > 0.1:
            assert sign * mean > 1e-6 * size


def test_js_without_a_constant_pushes_up_in_the_example():
    _, g = one_group(tensor([4.0, -4.0]), "none", "js", 0.5)
    assert g.tolist() == pytest.approx([-1.66, 0.34], abs=0.005)


@every_strictly_convex_f
@given(v=values_of_a_group)
def test_the_balanced_constant_lies_on_the_stated_side_of_the_mean_and_of_mass_one(name, alpha, v):
    b = (v - one_group(v, "balanced", name, alpha)[0])[0]
    mean, mass_one = v.mean(), v.logsumexp(0) - math.log(len(v))
    assert (b - mean) * (-1 if (name, alpha) in CONVEX_IN_U else 1) >= -1e-12
    assert (mass_one - b) * (-1 if alpha < 0 else 1) >= -1e-12


# --- 10.3 balanced ----------------------------------------------------------------------------------------------------


@every_strictly_convex_f
def test_the_weights_of_every_balanced_group_sum_to_zero_at_rho_one(name, alpha):
    for n in (1, 2, 3, 4):
        _, _, _, g = every_group(policy(4, 0), SCORES, n, "balanced", name, alpha)
        assert (g.sum(-1).abs() <= 1e-13 * (1 + g.abs().sum(-1))).all()


@every_strictly_convex_f
@given(v=values_of_a_group, shift=st.floats(-3, 3), rise=st.floats(0.1, 3))
def test_the_balanced_constant_moves_with_its_group_and_by_less_than_any_one_member(name, alpha, v, shift, rise):
    def b(v: Tensor) -> float:
        # A is centred before the constant is taken: v less u is the whole constant
        return (v - one_group(v, "balanced", name, alpha)[0])[0].item()

    assert v.min() - 1e-12 <= b(v) <= v.max() + 1e-12
    assert b(v + shift) == pytest.approx(b(v) + shift, abs=1e-11)
    higher = v.clone()
    higher[0] += rise
    assert b(v) < b(higher) < b(v) + rise


@pytest.mark.parametrize(
    ("name", "alpha", "power"),
    [("hellinger", 0.5, 0.5), ("alpha", -1.0, 2.0), ("alpha", 0.3, 0.7), ("alpha", 2.0, -1.0)],
)
@given(v=values_of_a_group)
def test_balanced_constants_of_the_alpha_family_are_power_means(name, alpha, power, v):
    u, _ = one_group(v, "balanced", name, alpha)
    assert (power * u).exp().mean().item() == pytest.approx(1.0, abs=1e-12)


@given(values_of_a_group)
def test_balanced_constants_of_kl_rkl_and_js_have_the_stated_closed_forms(v):
    assert one_group(v, "balanced", "kl", 0.5)[0].mean().item() == pytest.approx(0.0, abs=1e-13)
    assert one_group(v, "balanced", "rkl", 0.5)[0].exp().mean().item() == pytest.approx(1.0, abs=1e-12)
    u, _ = one_group(v, "balanced", "js", 0.5)
    assert torch.nn.functional.softplus(u).mean().item() == pytest.approx(math.log(2), abs=1e-13)


@every_strictly_convex_f
def test_no_constant_moves_the_minimiser_but_only_mass_one_silences_the_samples_there(name, alpha):
    q, v = policy(5, 0), 2 * noise(5, 1)
    w = target(q, v)
    for partition in ("none", "group", "balanced"):
        u = v if partition == "none" else with_constant(v, q, partition, name, alpha)
        assert logit_gradient(w, q, u, name, alpha).abs().max() < 1e-12
        silent = weights(w, q, u, name, alpha).abs().max() < 1e-12
        assert bool(silent) == (partition == "group" or (name, partition) == ("rkl", "balanced"))


@every_strictly_convex_f
def test_a_constant_keeps_the_expected_first_direction_in_the_alpha_family_alone(name, alpha):
    q, v = policy(5, 0), 2 * noise(5, 1)
    mean, balanced, mass_one = (
        logit_gradient(q, q, u, name, alpha)
        for u in (v - (q * v).sum(), with_constant(v, q, "balanced", name, alpha), with_mass(v, q))
    )
    if name == "kl":
        torch.testing.assert_close(balanced, mean, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(balanced, mass_one, rtol=1e-11, atol=1e-13)
    for one, other in ((mean, mass_one), (mean, balanced)):
        same = torch.nn.functional.cosine_similarity(one, other, dim=0) > 1 - 1e-12
        assert bool(same) == (name in ("kl", "rkl", "hellinger", "alpha"))


def test_tv_takes_the_midpoint_of_the_medians_and_keeps_its_other_minimisers():
    u, g = one_group(tensor([0.0, 1.0, 4.0, 9.0]), "balanced", "tv", 0.5)
    torch.testing.assert_close(u, tensor([-2.5, -1.5, 1.5, 6.5]), rtol=0, atol=1e-14)
    assert g.tolist() == [0.5, 0.5, -0.5, -0.5]
    q = torch.full((4,), 0.25, dtype=torch.float64)
    m = q * u.exp()
    assert m.sum() > 1.5  # the mass is not one, so by 2.3 every policy below m is a minimiser
    p = tensor([0.01, 0.05, 0.44, 0.5])
    assert (p < m).all()
    assert logit_gradient(p, q, u, "tv", 0.5).abs().max() < 1e-15


# --- 10.4 the anchored fixed point ------------------------------------------------------------------------------------


@every_divergence
def test_at_the_anchored_fixed_point_all_constants_are_one_and_every_sample_is_silent(name, alpha):
    base = policy(4, 0)
    w = target(base, SCORES / ETA)
    anchored = SCORES - ETA * (w / base).log()
    for partition in ("none", "group", "balanced"):
        _, _, A, g = every_group(w, anchored, 3, partition, name, alpha)
        assert A.abs().max() < 1e-14
        if name != "tv":  # whose weight is 1/2 as soon as u is not exactly zero
            assert g.abs().max() < 1e-13
    # and only there: from another policy some sample of some group has a weight
    q = policy(4, 1)
    _, _, _, g = every_group(q, SCORES - ETA * (q / base).log(), 3, "balanced", name, alpha)
    assert g.abs().max() > 0.1


# --- 10.5 two scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.05, 0.125, 1.0, 10.0])
@every_strictly_convex_f
def test_with_two_scores_balanced_weights_are_proportional_to_grpos_advantages(name, alpha, eta):
    scores = tensor([1.0, 0.0, 0.0, 1.0])
    groups, _, _, g = every_group(policy(4, 0), scores, 4, "balanced", name, alpha, eta)
    grpo = group_advantages(scores[groups].flatten(), group_ids(groups), norm_by_std=False).view(groups.shape)
    mixed = grpo.abs().sum(-1) > 0
    assert (g[~mixed] == 0).all()
    factor = -(g * grpo).sum(-1) / grpo.square().sum(-1)
    assert (factor[mixed] > 0).all()
    size = g[mixed].abs().amax(-1, keepdim=True)
    assert ((g + factor.unsqueeze(-1) * grpo)[mixed].abs() <= 1e-12 * size).all()
    if name == "kl":
        torch.testing.assert_close(factor[mixed], torch.full_like(factor[mixed], 1 / eta), rtol=1e-12, atol=0)


@every_strictly_convex_f
@given(problem=problems())
def test_with_three_scores_only_kl_has_grpos_direction(name, alpha, problem):
    q, _, _ = problem
    scores = tensor([1.0, 0.0, 0.3, 0.0])
    groups, _, _, g = every_group(q, scores, 4, "balanced", name, alpha, 0.125)
    grpo = group_advantages(scores[groups].flatten(), group_ids(groups), norm_by_std=False).view(groups.shape)
    all_three = torch.tensor([len(set(row)) == 3 for row in scores[groups].tolist()])
    cosine = -torch.nn.functional.cosine_similarity(g, grpo, dim=-1)[all_three]
    assert (cosine > 1 - 1e-12).all() if name == "kl" else (cosine < 1 - 1e-3).all()


# --- 10.6 the variance ------------------------------------------------------------------------------------------------

ALPHA_FAMILY = [("kl", 1.0), ("hellinger", 0.5), ("rkl", 0.0), ("alpha", -1.0), ("alpha", 0.3), ("alpha", 2.0)]


@pytest.mark.parametrize(("name", "order"), ALPHA_FAMILY)
@given(problem=problems(), b=st.floats(-3, 3))
def test_in_the_alpha_family_the_variance_is_quadratic_in_the_constant_as_a_baseline(name, order, problem, b):
    q, v, _ = problem
    direction = torch.eye(len(q), dtype=torch.float64) - q  # grad log q(y) in logits, a row for each y
    sigma = direction.square().sum(-1)

    def t(x: Tensor) -> Tensor:
        return -x if order == 1 else ((1 - order) * x).exp() / (order - 1) * (0.25 if name == "hellinger" else 1.0)

    def moments(b: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a sample's first gradient, divided by kappa."""
        g = weights(q, q, v - b, name, order or 0.5) * ((1 - order) * b).exp()
        torch.testing.assert_close(g, t(v) - t(b), rtol=1e-10, atol=1e-10)
        sample = g.unsqueeze(-1) * direction
        mean = (q.unsqueeze(-1) * sample).sum(0)
        return mean, (q * (sample - mean).square().sum(-1)).sum()

    best = (q * sigma * t(v)).sum() / (q * sigma).sum()
    b_of_best = -best if order == 1 else (best / t(tensor(0.0))).log() / (1 - order)
    (mean, variance), (mean_at_best, least) = moments(tensor(b)), moments(b_of_best)
    size = 1 + t(v).square().max() + t(tensor(b)).square()
    torch.testing.assert_close(mean, mean_at_best, rtol=1e-10, atol=float(1e-11 * size))
    expected = least + (q * sigma).sum() * (t(tensor(b)) - best) ** 2
    torch.testing.assert_close(variance, expected, rtol=1e-10, atol=float(1e-11 * size))
    # the balanced constant takes the plain mean of t for the weighted one
    balanced = v - with_constant(v, q, "balanced", name, order or 0.5)
    torch.testing.assert_close(t(balanced[0]), (q * t(v)).sum(), rtol=1e-10, atol=1e-12)


def test_mass_one_doubles_the_second_moment_of_kl_in_the_example():
    # sigma the same for all answers: ten answers, equally likely, four of them right
    v = tensor([8.0] * 4 + [0.0] * 6)
    second_moment = {
        partition: one_group(v, partition, "kl", 0.5)[1].square().mean().item() for partition in ("group", "balanced")
    }
    assert 1.9 < second_moment["group"] / second_moment["balanced"] < 2.1


def test_over_small_groups_kl_varies_less_when_balanced_and_js_not_always():
    # groups of 4 of five answers: Var / |mean|^2 of the group's gradient in logits, mass one against balanced
    def relative_variance(scores: Tensor, partition: str, name: str) -> float:
        q = policy(5, 0)
        groups, probability, _, g = every_group(q, scores, 4, partition, name, 0.5, 0.125)
        sample = torch.zeros(len(groups), 5, dtype=torch.float64).scatter_add_(1, groups, g / 4)
        sample = sample - g.mean(-1, keepdim=True) * q
        mean = (probability.unsqueeze(-1) * sample).sum(0)
        return ((probability * (sample - mean).square().sum(-1)).sum() / mean.square().sum()).item()

    two, three = tensor([1.0, 1.0, 1.0, 0.0, 0.0]), tensor([1.0, 0.0, 1.0, 0.3, 0.0])
    assert relative_variance(two, "balanced", "js") > 1.05 * relative_variance(two, "group", "js")
    assert relative_variance(three, "group", "js") > 1.05 * relative_variance(three, "balanced", "js")
    for scores in (two, three):
        assert relative_variance(scores, "group", "kl") > 1.2 * relative_variance(scores, "balanced", "kl")
