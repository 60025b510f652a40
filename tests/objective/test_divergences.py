"""The registry, the canonical form, the closed forms to 13 digits, and what register_divergence refuses."""

import itertools

import mpmath
import pytest
import torch
from mpmath import mpf
from torch.nn.functional import softplus

from verl_lad import LADConfig, get_divergence, lad_loss, lad_loss_reference, register_divergence
from verl_lad.objective import divergences
from verl_lad.objective.divergences import divergence_names

from .formulas import ALPHAS, DIVERGENCES, IDS, f, loss_matrix

every_divergence = pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)


@pytest.fixture(autouse=True)
def _clean_registry():
    before = dict(divergences._REGISTERED)
    yield
    divergences._REGISTERED.clear()
    divergences._REGISTERED.update(before)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("JS", "js"),
        ("HD", "hellinger"),
        ("TV", "tv"),
        ("KL", "kl"),
        ("rKL", "rkl"),
        ("RKL", "rkl"),
        ("JF", "jeffreys"),
        ("js", "js"),
        ("hd", "hellinger"),
        ("jf", "jeffreys"),
        ("Jeffrey", "jeffreys"),
        ("Hellinger", "hellinger"),
        ("reverse_kl", "rkl"),
        ("Alpha", "alpha"),
    ],
)
def test_the_papers_spellings_are_names(written, name):
    assert get_divergence(written).name == name
    assert LADConfig(divergence=written).divergence == written
    inputs = (torch.randn(2, 3), torch.randn(2, 3), torch.randn(2), torch.ones(2, 3))
    assert torch.equal(
        lad_loss(*inputs, LADConfig(divergence=written))[0], lad_loss(*inputs, LADConfig(divergence=name))[0]
    )


def test_every_listed_name_is_found_and_only_tv_is_not_strictly_convex():
    assert len(divergence_names()) == len(set(divergence_names()))
    for name in divergence_names():
        assert get_divergence(name).strictly_convex == (name != "tv")


@pytest.mark.parametrize("name", ["jsd", "", "js ", "kl2", None, 3, ["js"]])
def test_unknown_names_are_refused_with_the_list_of_names(name):
    with pytest.raises(ValueError, match="divergence=") as error:
        get_divergence(name)
    assert repr(name) in str(error.value)
    for known in ("js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"):
        assert known in str(error.value)


@pytest.mark.parametrize(
    "alpha", [0, 1, 0.0, 1.0, -1.001, 2.001, float("nan"), float("inf"), -float("inf"), True, False]
)
def test_wrong_alphas_are_refused_with_the_range(alpha):
    with pytest.raises(ValueError, match="alpha=") as error:
        get_divergence("alpha", alpha)
    assert repr(alpha) in str(error.value)
    assert "from -1 to 2" in str(error.value)


def test_alpha_is_ignored_by_the_other_divergences():
    assert get_divergence("js", 0.0).name == "js"
    assert LADConfig(divergence="js", alpha=1.0).alpha == 1.0


# --- canonical form ---------------------------------------------------------------------------------------------------


@every_divergence
def test_f_and_its_derivative_vanish_at_one(name, alpha):
    X = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = get_divergence(name, alpha).f(X)
    (slope,) = torch.autograd.grad(value, X)
    assert abs(value.item()) < 1e-15
    assert abs(slope.item()) < 1e-15


@every_divergence
def test_f_is_the_function_of_the_table(name, alpha):
    X = torch.linspace(-8, 8, 65, dtype=torch.float64).exp().requires_grad_()
    ours = get_divergence(name, alpha).f(X)
    (slope,) = torch.autograd.grad(ours.sum(), X)
    table = f(name, alpha, X)
    (table_slope,) = torch.autograd.grad(table.sum(), X)
    torch.testing.assert_close(ours, table, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(slope, table_slope, rtol=1e-13, atol=1e-13)
    assert (ours >= -1e-13).all()


@every_divergence
def test_weight_is_the_derivative_of_value(name, alpha):
    divergence = get_divergence(name, alpha)
    l, u = torch.meshgrid(torch.linspace(-6, 6, 25), torch.linspace(-6.1, 6.2, 23), indexing="ij")
    l, u = l.double().requires_grad_(), u.double()
    (slope,) = torch.autograd.grad(divergence.value(l, u).sum(), l)
    # relative to the terms of value, rho (1 + |d|) and exp(u) (1 + |l|), of which the slope is a difference
    size = (l.exp() * (1 + (l - u).abs()) + u.exp() * (1 + l.abs())).detach()
    error = (slope - divergence.weight(l.detach(), u)).abs() / torch.maximum(size, slope.abs())
    assert error.max() < 1e-13


def both(name: str, alpha: float, l: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight, and value relative to that at l = 0.3 (so that the theta-free term drops out)."""
    d = get_divergence(name, alpha)
    return d.weight(l, u), d.value(l, u) - d.value(torch.full_like(l, 0.3), u)


@pytest.mark.parametrize(("alpha", "limit"), [(1.0, "kl"), (0.0, "rkl")])
@pytest.mark.parametrize("sign", [-1, 1])
def test_alpha_tends_to_kl_at_one_and_to_rkl_at_zero(alpha, limit, sign):
    l, u = torch.meshgrid(torch.linspace(-2, 2, 9), torch.linspace(-2.1, 2, 9), indexing="ij")
    l, u = l.double(), u.double()
    expected = both(limit, 0.5, l, u)
    errors = []
    for h in (2e-2, 2e-3):
        got = both("alpha", alpha + sign * h, l, u)
        errors.append([float((ours - theirs).abs().max()) for ours, theirs in zip(got, expected, strict=True)])
    # the error is h times a number of the size of d^2 exp(|d| + |u|), at most 1000 here, and falls in proportion to h
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 2e-3 * 1000
        assert coarse / fine == pytest.approx(10, rel=0.2)


def test_alpha_one_half_is_four_times_hellinger():
    l, u = torch.meshgrid(torch.linspace(-2, 2, 9), torch.linspace(-2.1, 2, 9), indexing="ij")
    l, u = l.double(), u.double()
    for ours, theirs in zip(both("alpha", 0.5, l, u), both("hellinger", 0.5, l, u), strict=True):
        torch.testing.assert_close(ours, 4 * theirs, rtol=1e-13, atol=1e-13)


def test_alpha_two_is_half_of_the_chi_square():
    l, u = torch.meshgrid(torch.linspace(-2, 2, 9), torch.linspace(-2.1, 2, 9), indexing="ij")
    l, u = l.double(), u.double()
    X = (l - u).exp()
    torch.testing.assert_close(get_divergence("alpha", 2).f(X), (X - 1) ** 2 / 2, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(get_divergence("alpha", 2).weight(l, u), l.exp() * (X - 1), rtol=1e-13, atol=1e-13)


def test_js_is_bounded_below_and_softplus_above_at_rho_one():
    # the README's statement: at rho = 1, g = -1/2 (softplus(u) - log 2), at most 1/2 log 2
    u = torch.linspace(-30, 30, 121, dtype=torch.float64)
    g = get_divergence("js").weight(torch.zeros_like(u), u)
    log2 = torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(g, -0.5 * (softplus(u) - log2), rtol=1e-9, atol=1e-14)
    assert g.max() <= 0.5 * log2


# --- closed forms against 60 digits -----------------------------------------------------------------------------------

NEAR = (0.0, 1e-300, 1e-16, 1e-12, 1e-8, 1e-5, 1e-3, 0.1, 1.0)
TARGETS = (-19.5, -3.7, -0.7, 0.0, 0.3, 2.9, 19.5)
FAR = [(-20.0, 20.0), (20.0, -20.0), (20.0, 20.0), (-20.0, -20.0), (0.0, 9.3), (0.0, 15.0), (0.1, -9.3), (5.0, -20.0)]
POINTS = [(u + s * d, u) for u, d, s in itertools.product(TARGETS, NEAR, (-1, 1)) if abs(u + s * d) <= 20] + FAR
VERY_FAR = [(0.3, -700.0), (-5.0, -1e4), (20.0, -1e7), (0.3, 700.0), (-5.0, 1e4), (20.0, 1e7)]


def points(name: str, alpha: float) -> list[tuple[float, float]]:
    """Every (l, u) that the package can evaluate: u beyond +-20 only on the sides on which it is not limited."""
    divergence = get_divergence(name, alpha)
    far = [(l, u) for l, u in VERY_FAR if not (divergence.saturates_above if u > 0 else divergence.saturates_below)]
    return POINTS + far


def exact(name: str, alpha: float, l: float, u: float) -> tuple[mpf, mpf, mpf]:
    """g, the centred value, and the sum of the magnitudes of the value's terms; from the definition, in 60 digits."""
    l, u, a = mpf(l), mpf(u), mpf(alpha)
    rho, w, X = mpmath.exp(l), mpmath.exp(u), mpmath.exp(l - u)
    d, log2 = l - u, mpmath.log(2)
    if name == "js":
        slope, L, c = mpmath.log(2 * X / (X + 1)) / 2, (X * d - (X + 1) * mpmath.log((X + 1) / 2)) / 2, log2 / 2
        size = rho * (1 + abs(d))
    elif name == "hellinger":
        slope, L, c = (1 - 1 / mpmath.sqrt(X)) / 2, (mpmath.sqrt(X) - 1) ** 2 / 2, mpf(1) / 2
        size = rho + mpmath.exp((l + u) / 2)
    elif name == "tv":
        slope, L, c = mpmath.sign(d) / 2, abs(X - 1) / 2, mpf(1) / 2
        size = rho + (w if d > 0 else 0)
    elif name == "kl":
        slope, L, c = d, X * d - X + 1, mpf(1)
        size = rho * (1 + abs(d))
    elif name == "rkl":
        slope, L, c = 1 - 1 / X, X - 1 - d, u - 1
        size = rho + w * abs(l)
    elif name == "jeffreys":
        slope, L, c = d + 1 - 1 / X, (X - 1) * d, u
        size = rho * (1 + abs(d)) + w * abs(l)
    else:
        slope, L, c = (X ** (a - 1) - 1) / (a - 1), (X**a - a * X - (1 - a)) / (a * (a - 1)), 1 / a
        size = (mpmath.exp(a * l + (1 - a) * u) + abs(a) * rho) / abs(a * (a - 1))
    return rho * slope, w * (L - c), size


def evaluated(function, l: float, u: float) -> float:
    return float(function(torch.tensor(l, dtype=torch.float64), torch.tensor(u, dtype=torch.float64)))


def digits(u: float) -> int:
    """Working precision: exp(u) f(exp(l - u)) minus its constant cancels about |u| log10(e) digits."""
    return 60 + int(min(abs(u), 2e4))


@every_divergence
def test_weight_has_13_digits_relative_to_itself_everywhere(name, alpha):
    # relative to |g| itself, also at d = 1e-12 where g is 1e-12: there is no cancellation in the closed form
    weight = get_divergence(name, alpha).weight
    worst = 0.0
    for l, u in points(name, alpha):
        if abs(u) > 2e4:
            continue
        with mpmath.workdps(digits(u)):
            g, _, _ = exact(name, alpha, l, u)
            if abs(g) < 1e-300:  # below float64's normal range, relative accuracy does not exist
                assert abs(evaluated(weight, l, u)) < 1e-299
                continue
            worst = max(worst, float(abs(evaluated(weight, l, u) - g) / abs(g)))
    assert worst < 1e-13


@every_divergence
def test_value_has_13_digits_relative_to_its_terms(name, alpha):
    value = get_divergence(name, alpha).value
    errors = {}
    for l, u in points(name, alpha):
        if abs(u) > 2e4:
            continue
        with mpmath.workdps(digits(u)):
            _, v, size = exact(name, alpha, l, u)
            errors[l, u] = float(abs(evaluated(value, l, u) - v) / size)
    wrong = {point: error for point, error in errors.items() if not error < 1e-13}
    assert not wrong


@every_divergence
def test_float32_weight_has_5_digits_relative_to_itself(name, alpha):
    # l and u themselves are float32 here; 1e-5 is 20 to 40 exponents of rounding 6e-8 each
    weight = get_divergence(name, alpha).weight
    for l, u in points(name, alpha):
        if abs(u) > 2e4:
            continue
        l32, u32 = torch.tensor(l), torch.tensor(u)
        with mpmath.workdps(digits(u)):
            g, _, _ = exact(name, alpha, float(l32), float(u32))
        if abs(g) > 1e-37:
            assert abs(float(weight(l32, u32)) - g) < 1e-5 * abs(g), (l, u)


@pytest.mark.parametrize("name", ["js", "tv", "kl"])
def test_js_tv_and_kl_never_form_exp_u_and_need_no_saturation(name):
    divergence = get_divergence(name)
    assert not divergence.saturates_above
    assert not divergence.saturates_below
    u = torch.tensor([-1e25, -1e7, 1e7, 1e25])
    assert torch.equal(divergence.saturate(u, 20.0), u)
    for l in (-20.0, 0.0, 20.0):
        assert divergence.weight(torch.tensor(l), u).isfinite().all()
        assert divergence.value(torch.tensor(l), u).isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_saturation_is_on_the_side_that_alpha_needs(alpha):
    limited = get_divergence("alpha", alpha).saturate(torch.tensor([-50.0, -1.0, 1.0, 50.0]), 20.0)
    expected = [-50.0, -1.0, 1.0, 20.0] if alpha < 1 else [-20.0, -1.0, 1.0, 50.0]
    assert limited.tolist() == expected


# --- register_divergence ----------------------------------------------------------------------------------------------


def lecam_slope(d):
    """f = (X - 1)^2 / (2 (X + 1)), Le Cam's: f' = 1/2 - 2 / (X + 1)^2."""
    return 0.5 - 2 / (d.exp() + 1) ** 2


def lecam_value(l, u):
    X = (l - u).exp()
    return u.exp() * ((X - 1) ** 2 / (2 * (X + 1)))


def lecam_oracle(X):
    return (X - 1) ** 2 / (2 * (X + 1))


@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_a_registered_divergence_works_end_to_end(ratio):
    returned = register_divergence("LeCam", lecam_slope, lecam_value)
    assert get_divergence("lecam") is returned
    assert get_divergence("LECAM") is returned
    assert "lecam" in divergence_names()
    config = LADConfig(divergence="lecam", ratio=ratio, eta=0.5)
    log_prob, old, A = (torch.randn(4, 5, dtype=torch.float64) * 0.5 for _ in range(3))
    mask = torch.rand(4, 5) > 0.3
    grads = []
    for loss_function in (loss_matrix, lad_loss_reference):
        leaf = log_prob.clone().requires_grad_()
        grads.append(torch.autograd.grad(loss_function(leaf, old, A, mask, config).sum(), leaf)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)
    # and against f itself
    leaf = log_prob[:, :1].clone().requires_grad_()
    u = A[:, :1] / config.eta
    by_hand = u.exp() * lecam_oracle((leaf - old[:, :1] - u).exp())
    (expected,) = torch.autograd.grad(by_hand.sum(), leaf)
    again = log_prob[:, :1].clone().requires_grad_()
    loss = lad_loss(again, old[:, :1], A[:, :1], torch.ones(4, 1), config)[0]
    (g,) = torch.autograd.grad(loss.sum(), again)
    torch.testing.assert_close(g, expected, rtol=1e-12, atol=1e-12)


def test_a_registered_divergence_is_limited_on_both_sides_and_stays_finite():
    register_divergence("lecam", lecam_slope, lecam_value)
    l = torch.tensor([[-1e4, 0.0, 1e4, 0.0]]).requires_grad_()
    A = torch.tensor([[1e4, 1e4, -1e4, -1e4]])
    loss = lad_loss(l, torch.zeros(1, 4), A, torch.ones(1, 4), LADConfig(divergence="lecam", eta=1e-3))[0]
    loss.sum().backward()
    assert loss.isfinite().all()
    assert l.grad.isfinite().all()


def test_a_convex_divergence_that_is_not_strictly_convex_must_say_so():
    def slope(d):
        return 0.5 * torch.sign(d)

    def value(l, u):
        return 0.5 * u.exp() * ((l - u).exp() - 1).abs()

    with pytest.raises(ValueError, match=r"'my_tv'.*strictly_convex=False"):
        register_divergence("my_tv", slope, value)
    assert not register_divergence("my_tv", slope, value, strictly_convex=False).strictly_convex


REFUSED = [
    ("x_log_x", lambda d: d + 1, lambda l, u: l.exp() * (l - u), r"f'\(1\) = 1\.0.*canonical"),
    ("nan_slope", lambda d: d * float("nan"), lambda l, u: l.exp(), r"f'\(1\) = nan"),
    (
        "concave",
        lambda d: 1 - d.exp(),
        lambda l, u: l.exp() - 0.5 * (2 * l - u).exp(),
        r"f' decreases somewhere, so f is not convex",
    ),
    ("wavy", lambda d: d + 3 * torch.sin(d) ** 3, lambda l, u: l.exp(), r"f' decreases somewhere"),
    (
        "unbounded",
        lambda d: torch.where(d > 3, float("inf"), d),
        lambda l, u: l.exp() * (l - u - 1),
        r"f' is not finite",
    ),
    ("wrong_value", lambda d: d, lambda l, u: l.exp() * (l - u), r"d value / d l differs .* up to"),
    ("wrong_sign", lambda d: d, lambda l, u: -l.exp() * (l - u - 1), r"d value / d l differs"),
    ("wrong_scale", lambda d: d, lambda l, u: (l - u).exp() * (l - u - 1), r"d value / d l differs"),
    ("nan_value", lambda d: d, lambda l, u: l * float("nan"), r"d value / d l differs"),
    ("value_without_l", lambda d: d, lambda l, u: u.exp(), r"value"),
]


@pytest.mark.parametrize(("name", "slope", "value", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_wrong_divergences_are_refused_and_the_message_names_what_is_wrong(name, slope, value, message):
    with pytest.raises(ValueError, match=message) as error:
        register_divergence(name, slope, value)
    assert name in str(error.value)
    assert name not in divergence_names()


def test_the_message_for_a_non_canonical_f_can_be_followed():
    # f = X log X has f'(1) = 1; subtracting X - 1, as the message says, is accepted and is kl
    with pytest.raises(ValueError, match=r"subtract f'\(1\) \(X - 1\) from f"):
        register_divergence("my_kl", lambda d: d + 1, lambda l, u: l.exp() * (l - u))
    mine = register_divergence("my_kl", lambda d: d, lambda l, u: l.exp() * (l - u - 1))
    l, u = torch.randn(50).double(), torch.randn(50).double()
    torch.testing.assert_close(mine.weight(l, u), get_divergence("kl").weight(l, u), rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", ["js", "JS", "HD", "hellinger", "alpha", "Alpha", "jf", "reverse_kl"])
def test_taken_names_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        register_divergence(name, lecam_slope, lecam_value)


def test_a_name_cannot_be_registered_twice():
    first = register_divergence("lecam", lecam_slope, lecam_value)
    with pytest.raises(ValueError, match="'LeCam' is taken"):
        register_divergence("LeCam", lecam_slope, lecam_value)
    assert get_divergence("lecam") is first


@pytest.mark.parametrize("name", ["", "le cam", "le-cam", "1st", "a.b"])
def test_names_that_are_not_words_are_refused(name):
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        register_divergence(name, lecam_slope, lecam_value)


def test_registration_works_under_no_grad():
    with torch.no_grad():
        register_divergence("lecam", lecam_slope, lecam_value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_divergence
def test_the_weight_is_exactly_zero_where_l_is_u(name, alpha, dtype):
    # evaluate() relies on it where a token is masked, l = u = 0; 67: both torch's vector code and what it leaves over
    l = torch.linspace(-20, 20, 67, dtype=dtype)
    assert not get_divergence(name, alpha).weight(l, l.clone()).any()


def test_the_weight_of_a_registered_divergence_is_exactly_zero_where_l_is_u():
    register_divergence("nearly", lambda d: d + 1e-10, lambda l, u: l.exp() * (l - u - 1))
    assert not get_divergence("nearly").weight(torch.zeros(67), torch.zeros(67)).any()
