"""The balanced constant: with it the weights that the loss gives to a group at rho = 1 sum to zero."""

import math

import hypothesis.strategies as st
import mpmath
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from mpmath import mpf
from torch import Tensor

from verl_lad import LADConfig, group_advantages, lad_loss, register_divergence
from verl_lad.objective import divergences

from . import exact
from .formulas import DIVERGENCES, IDS, STRICT, STRICT_IDS

EPS = torch.finfo(torch.float64).eps
every_divergence = pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
every_strictly_convex_f = pytest.mark.parametrize(("name", "alpha"), STRICT, ids=STRICT_IDS)


@pytest.fixture
def registry():
    """The registered divergences, as they were before the test once it is over."""
    before = dict(divergences._REGISTERED)
    yield
    divergences._REGISTERED.clear()
    divergences._REGISTERED.update(before)


def balanced(name: str, alpha: float = 0.5, eta: float = 1.0, **fields) -> LADConfig:
    return LADConfig(divergence=name, alpha=alpha, eta=eta, partition="balanced", **fields)


def advantages(v: Tensor, config: LADConfig) -> Tensor:
    """The advantages of one group with A / eta = v but for a constant."""
    return group_advantages(config.eta * v, [0] * len(v), config, norm_by_std=False)


def weights(A: Tensor, config: LADConfig) -> Tensor:
    """The weights g = dL/dl that lad_loss gives to responses of one token at pi_theta = pi_old."""
    log_prob = torch.zeros(len(A), 1, dtype=torch.float64, requires_grad=True)
    loss = lad_loss(log_prob, torch.zeros_like(log_prob), A, torch.ones_like(log_prob), config)[0]
    return torch.autograd.grad(loss.sum(), log_prob)[0].squeeze(-1)


def check_balance(v: Tensor, config: LADConfig) -> None:
    """The weights sum to zero up to the rounding of their sum and of v.

    A constant that is larger by a few roundings of v makes the sum positive, one that is smaller makes it negative: the
    weights increase in the constant.
    """
    A = advantages(v, config)
    rounding = 8 * EPS * config.eta * (1 + (v - v.mean()).abs().max())
    above, below = weights(A - rounding, config), weights(A + rounding, config)
    assert above.sum() >= -len(v) * EPS * above.abs().sum()
    assert below.sum() <= len(v) * EPS * below.abs().sum()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values(size: int, scale: float, seed: int, whole: bool) -> Tensor:
    """v of one group: normal numbers, or their nearest integers, times scale."""
    x = torch.randn(size, generator=seeded(seed)).double()
    return scale * (x.round() if whole else x)


groups_of_values = st.builds(
    values,
    size=st.integers(1, 64),
    scale=st.sampled_from([1e-8, 1e-3, 1.0, 8.0, 100.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
    whole=st.booleans(),
)


# --- zero sum ---------------------------------------------------------------------------------------------------------


@every_strictly_convex_f
@settings(max_examples=60)
@given(v=groups_of_values, eta=st.sampled_from([1e-3, 0.125, 1.0, 100.0]))
def test_weights_of_a_balanced_group_sum_to_zero_to_rounding(name, alpha, v, eta):
    check_balance(v, balanced(name, alpha, eta))


@settings(max_examples=200)
@given(
    v=groups_of_values,
    alpha=st.floats(-1, 2).filter(lambda a: min(abs(a), abs(a - 1)) >= 1e-3),
    max_log_weight=st.sampled_from([1.0, 5.0, 20.0]),
)
def test_weights_sum_to_zero_for_every_alpha_also_where_the_loss_limits_u(v, alpha, max_log_weight):
    check_balance(v, balanced("alpha", alpha, max_log_weight=max_log_weight))


@every_strictly_convex_f
def test_weights_one_group_of_moderate_scores_sum_to_1e_14_of_their_size(name, alpha):
    for seed in range(20):
        v = 3 * torch.randn(8, generator=seeded(seed)).double()
        config = balanced(name, alpha, 0.25)
        g = weights(advantages(v, config), config)
        assert abs(g.sum()) < 1e-14 * g.abs().sum()
        assert g.abs().max() > 0.1


def test_a_group_whose_weights_are_all_limited_is_balanced_too(registry):
    # alpha = 0.9 at v = 0 and 1000: the good sample's u is limited to 20, and the constant takes that into account
    v = torch.tensor([0.0, 0.0, 1000.0]).double()
    register_divergence("linear", lambda d: d, lambda l, u: l.exp() * (l - u - 1))
    for config in (balanced("alpha", 0.9), balanced("linear"), balanced("linear", max_log_weight=5.0)):
        g = weights(advantages(v, config), config)
        assert abs(g.sum()) < 1e-13 * g.abs().sum()
        assert g[2] < -1 < 0 < g[0]
    config = balanced("linear")
    g = weights(advantages(v[1:], config), config)  # both samples limited: any constant in between balances
    assert g.tolist() == [20.0, -20.0]


@every_divergence
@pytest.mark.parametrize("anchor", ["old", "reference"])
def test_equal_scores_and_groups_of_one_have_advantage_exactly_zero(name, alpha, anchor):
    for eta in (1e-3, 0.125, 0.3, 7.0):
        config = balanced(name, alpha, eta, anchor=anchor)
        for score in (0.1, -1 / 3, 1e4):
            for n in (1, 2, 3, 64):
                assert (group_advantages(torch.full((n,), score).double(), [0] * n, config) == 0).all()
        assert (group_advantages(torch.tensor([0.1, -7.3, 1e4]), [0, 1, 2], config) == 0).all()


@every_divergence
def test_groups_are_balanced_each_by_itself(name, alpha):
    sizes, config = [1, 2, 5, 16, 64], balanced(name, alpha, 0.5)
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(ids), generator=seeded(1))
    scores = 5 * torch.randn(len(ids), generator=seeded(0)).double()
    together = group_advantages(scores[order], ids[order], config)
    for group in range(len(sizes)):
        member = ids[order] == group
        alone = group_advantages(scores[order][member], [0] * sizes[group], config)
        torch.testing.assert_close(together[member], alone, rtol=1e-12, atol=1e-12)


# --- the constant itself ----------------------------------------------------------------------------------------------


def check_constant(config: LADConfig, closed_form) -> None:
    for seed in range(10):
        v = 6 * torch.randn(1 + 7 * seed, generator=seeded(seed)).double()
        expected = config.eta * (v - closed_form(v))
        torch.testing.assert_close(advantages(v, config), expected, rtol=1e-12, atol=1e-13)


def test_the_constant_of_kl_is_the_mean():
    check_constant(balanced("kl", eta=0.25), lambda v: v.mean())


def test_the_constant_of_rkl_gives_mass_one():
    check_constant(balanced("rkl", eta=0.25), lambda v: v.logsumexp(0) - math.log(len(v)))
    scores = torch.randn(64, generator=seeded(3)).double()
    mass_one = LADConfig(divergence="rkl", partition="group")
    for norm_by_std in (True, False):
        expected = group_advantages(scores, [0] * 64, mass_one, norm_by_std)
        balanced_one = group_advantages(scores, [0] * 64, balanced("rkl", eta=mass_one.eta), norm_by_std)
        torch.testing.assert_close(balanced_one, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "alpha"), [("hellinger", 0.5), *[case for case in STRICT if case[0] == "alpha"]])
def test_the_constant_of_alpha_is_a_power_mean(name, alpha):
    power = 1 - alpha
    check_constant(balanced(name, alpha), lambda v: ((power * v).logsumexp(0) - math.log(len(v))) / power)


def test_the_constant_of_js_makes_the_mean_of_softplus_log_2():
    for seed in range(10):
        u = advantages(6 * torch.randn(16, generator=seeded(seed)).double(), balanced("js"))
        assert torch.nn.functional.softplus(u).mean().item() == pytest.approx(math.log(2), rel=1e-14)


VALUES = {
    "two": [0.0, 8.0],
    "mixed": [0.0, 8.0, 8.0, 0.5, -3.0],
    "close": [1e-9, 0.0, 3e-9],
    "wide": [1e4, -1e4, 0.0, 37.5],
    "one good of 64": [1e4] + [0.0] * 63,
    "one bad of 64": [-1e4] + [0.0] * 63,
}


@pytest.mark.parametrize("v", VALUES.values(), ids=VALUES.keys())
@every_divergence
def test_balanced_advantages_are_those_of_the_root_in_50_digits(name, alpha, v):
    A = advantages(torch.tensor(v, dtype=torch.float64), balanced(name, alpha))
    with mpmath.workdps(exact.DIGITS):
        digits = [mpf(one) for one in v]
        b = exact.constant("balanced", name, alpha, digits)
        expected = [one - b for one in digits]
        off = max(abs(mpf(float(a)) - one) for a, one in zip(A, expected, strict=True))
        assert off <= 40 * EPS * max(map(abs, digits))


def test_the_constant_of_tv_is_the_midpoint_of_the_medians():
    for v, b in (
        ([0.0, 1.0], 0.5),
        ([0.0, 0.0, 1.0], 0.0),
        ([3.0, 1.0, 2.0], 2.0),
        ([4.0, 1.0, 2.0, 100.0], 3.0),
        ([1.0, 1.0, 1.0, 0.0], 1.0),
    ):
        A = advantages(torch.tensor(v, dtype=torch.float64), balanced("tv"))
        torch.testing.assert_close(A, torch.tensor(v, dtype=torch.float64) - b, rtol=0, atol=1e-14)


@settings(max_examples=60)
@given(v=groups_of_values)
def test_weights_of_tv_sum_to_zero_unless_several_scores_are_the_median(v):
    config = balanced("tv")
    A = advantages(v, config)
    ties = int((A == 0).sum())
    if ties > 1:
        assert abs(weights(A, config).sum()) <= 0.5 * (ties - 1)
    else:
        assert weights(A, config).sum() == 0


def test_tv_warns_of_its_minimisers_under_the_balanced_constant_too():
    # the median does not give the target mass one, so that the minimisers of docs/theory.md, 2.3, remain
    for config in (balanced("tv"), LADConfig(divergence="tv", anchor="reference")):
        assert any("minimiser is not unique" in remark for remark in config.remarks("lad."))
    assert LADConfig(divergence="tv", anchor="reference", partition="group").remarks("lad.") == []


# --- registered divergences -------------------------------------------------------------------------------------------


def le_cam_slope(d: Tensor) -> Tensor:
    """f'(exp(d)) of f(X) = (X - 1)^2 / (X + 1), which is canonical: 1 - 4 / (X + 1)^2."""
    return 1 - 4 / (d.exp() + 1) ** 2


def le_cam_value(l: Tensor, u: Tensor) -> Tensor:
    X = (l - u).exp()
    return u.exp() * (X - 1) ** 2 / (X + 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(v=groups_of_values)
def test_a_registered_divergence_is_balanced_by_its_f_prime(registry, v):
    if "le_cam" not in divergences.divergence_names():  # every example of the test shares one registry
        register_divergence("le_cam", le_cam_slope, le_cam_value)
    check_balance(v, balanced("le_cam"))


def test_a_registered_copy_has_the_constant_of_the_built_in_divergence(registry):
    register_divergence("copy_of_kl", lambda d: d, lambda l, u: l.exp() * (l - u - 1))
    register_divergence("copy_of_rkl", lambda d: -torch.expm1(-d), lambda l, u: l.exp() - u.exp() * l)
    for seed in range(5):
        v = 4 * torch.randn(16, generator=seeded(seed)).double()  # within the limits of a registered one
        for name in ("kl", "rkl"):
            copy, built_in = (advantages(v, balanced(which)) for which in (f"copy_of_{name}", name))
            torch.testing.assert_close(copy, built_in, rtol=1e-12, atol=1e-13)


def test_a_registered_flat_f_prime_has_a_constant_between_the_extremes(registry):
    # a tube: no force within half a nat of the target
    def slope(d: Tensor) -> Tensor:
        return torch.sign(d) * (d.abs() - 0.5).clamp(min=0)

    def value(l: Tensor, u: Tensor) -> Tensor:
        d, above, below = l - u, math.exp(0.5), math.exp(-0.5)
        X = d.exp()
        beyond = torch.where(d > 0, X * (d - 1.5) + above, X * (d - 0.5) + below)
        return u.exp() * torch.where(d.abs() > 0.5, beyond, 0.0)

    register_divergence("tube", slope, value, strictly_convex=False)
    v = torch.tensor([-3.0, 0.0, 4.0]).double()
    config = balanced("tube")
    A = advantages(v, config)
    assert A.max() > 0 > A.min()
    g = weights(A, config)
    assert abs(g.sum()) < 1e-14 * g.abs().sum()
