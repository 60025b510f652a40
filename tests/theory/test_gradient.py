"""docs/theory.md, section 4: the weight g = rho f'(X) of one sample."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verl_lad import get_divergence

from .enumeration import curvature, every_divergence, every_strictly_convex_f, tensor

LOG2 = math.log(2)
# name, alpha -> f'(0+) and f'(inf): the limits of g at rho = 1 for u -> inf (good) and u -> -inf (bad)
LIMITS = {
    ("js", 0.5): (-math.inf, LOG2 / 2),
    ("hellinger", 0.5): (-math.inf, 0.5),
    ("tv", 0.5): (-0.5, 0.5),
    ("kl", 0.5): (-math.inf, math.inf),
    ("rkl", 0.5): (-math.inf, 1.0),
    ("jeffreys", 0.5): (-math.inf, math.inf),
    ("alpha", -1.0): (-math.inf, 0.5),
    ("alpha", 0.3): (-math.inf, 1 / 0.7),
    ("alpha", 1.5): (-2.0, math.inf),
    ("alpha", 2.0): (-1.0, math.inf),
}


def g_of(l, u, name, alpha):
    l, u = (torch.as_tensor(x, dtype=torch.float64) for x in (l, u))
    return get_divergence(name, alpha).weight(l, u)


@every_divergence
@given(l=st.floats(-6, 6), u=st.floats(-6, 6))
def test_weight_has_the_sign_of_l_minus_u(name, alpha, l, u):
    g = g_of(l, u, name, alpha).item()
    assert g * (l - u) > 0 or abs(l - u) < 1e-12
    assert g_of(u, u, name, alpha).item() == 0


@every_divergence
def test_weight_at_rho_one_falls_with_u_between_the_limits_of_f_prime(name, alpha):
    u = torch.linspace(-15, 15, 301).double()
    g = g_of(torch.zeros_like(u), u, name, alpha)
    assert (g.diff() <= 0).all()
    assert name == "tv" or (g.diff() < 0).all()
    low, high = LIMITS[name, alpha]
    assert (g >= low).all()
    assert (g <= high).all()
    far = g_of(tensor([0.0, 0.0]), tensor([300.0, -300.0]), name, alpha).tolist()
    for value, limit in zip(far, (low, high), strict=True):
        assert abs(value) > 40 if math.isinf(limit) else value == pytest.approx(limit, rel=1e-9)


GROWTH = {  # the equivalent of g at rho = 1 for u -> inf, and for u -> -inf where g is unbounded
    ("js", 0.5): (lambda u: -u / 2, None),
    ("hellinger", 0.5): (lambda u: -math.exp(u / 2) / 2, None),
    ("tv", 0.5): (lambda u: -0.5, None),
    ("kl", 0.5): (lambda u: -u, lambda u: -u),
    ("rkl", 0.5): (lambda u: -math.exp(u), None),
    ("jeffreys", 0.5): (lambda u: -math.exp(u), lambda u: -u),
    ("alpha", -1.0): (lambda u: -math.exp(2 * u) / 2, None),
    ("alpha", 0.3): (lambda u: -math.exp(0.7 * u) / 0.7, None),
    ("alpha", 1.5): (lambda u: -2.0, lambda u: 2 * math.exp(-u / 2)),
    ("alpha", 2.0): (lambda u: -1.0, lambda u: math.exp(-u)),
}


@every_divergence
def test_growth_of_the_weight_at_rho_one(name, alpha):
    for u, equivalent in zip((300.0, -300.0), GROWTH[name, alpha], strict=True):
        if equivalent is not None:
            assert g_of(0.0, u, name, alpha).item() == pytest.approx(equivalent(u), rel=5e-3)


def pull_on_the_lost(name: str, alpha: float, u: float) -> float:
    """lim g for l -> -inf at a fixed u."""
    if name == "alpha":
        return -math.inf if alpha < 0 else 0.0
    return -math.exp(u) if name in ("rkl", "jeffreys") else 0.0


@pytest.mark.parametrize("u", [-2.0, 0.0, 3.0])
@every_divergence
def test_weight_of_an_answer_that_is_nearly_lost(name, alpha, u):
    limit = pull_on_the_lost(name, alpha, u)
    g = g_of(-60.0, u, name, alpha).item()
    assert g < 0
    if math.isinf(limit):
        assert g < -1e20
    else:
        assert g == pytest.approx(limit, abs=1e-6)


def push_on_the_overdone(name: str, alpha: float, l: float, u: float) -> float:
    """The equivalent of g for l -> inf at a fixed u."""
    high = LIMITS[name, alpha][1]
    if math.isfinite(high):
        return high * math.exp(l)
    if name == "alpha":
        return math.exp(alpha * l + (1 - alpha) * u) / (alpha - 1)
    return l * math.exp(l)


@pytest.mark.parametrize("u", [-2.0, 0.0, 3.0])
@every_divergence
def test_weight_of_an_answer_that_is_far_beyond_its_target(name, alpha, u):
    ratio = g_of(200.0, u, name, alpha).item() / push_on_the_overdone(name, alpha, 200.0, u)
    assert ratio == pytest.approx(1.0, rel=2e-2)


@every_strictly_convex_f
def test_slope_of_the_weight_at_the_target_is_f_second_of_one_times_rho(name, alpha):
    for u in (-1.0, 0.0, 2.0):
        h = 1e-6
        difference = (g_of(u + h, u, name, alpha) - g_of(u - h, u, name, alpha)) / (2 * h)
        assert difference.item() == pytest.approx(curvature(name) * math.exp(u), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "alpha", "nats"),
    [
        ("js", 0.5, 2 * LOG2),
        ("hellinger", 0.5, 2.0),
        ("rkl", 0.5, 1.0),
        ("alpha", -1.0, 0.5),
        ("alpha", 0.3, 1 / 0.7),
        ("alpha", 0.8, 5.0),
        ("kl", 0.5, math.inf),
        ("jeffreys", 0.5, math.inf),
    ],
)
def test_an_excess_among_good_answers_weighs_as_much_as_the_worst_mistake_from_the_stated_size_on(name, alpha, nats):
    small = 1e-6
    slope = g_of(0.0, -small, name, alpha).item() / small
    assert slope == pytest.approx(curvature(name), rel=1e-5)
    worst = [g_of(0.0, -e, name, alpha).item() for e in (20.0, 200.0)]
    if math.isinf(nats):
        assert worst[1] > 9 * worst[0]
    else:
        assert worst[1] == pytest.approx(slope * nats, rel=1e-5)


@given(e=st.floats(0.1, 30))
def test_a_smaller_eta_does_not_strengthen_the_pull_of_js_on_a_mistake(e):
    missing = LOG2 / 2 - g_of(0.0, -e, "js", 0.5).item()
    assert -1e-15 < missing < math.exp(-e) / 2 + 1e-15
    assert g_of(0.0, -2 * e, "kl", 0.5).item() == pytest.approx(2 * g_of(0.0, -e, "kl", 0.5).item())
