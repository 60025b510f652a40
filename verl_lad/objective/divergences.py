"""f-divergences in canonical form, f(1) = f'(1) = 0, evaluated in log space.

Notation, all per element: l = log pi_theta - log pi_old, rho = exp(l), u = A / eta, d = l - u, X = exp(d).
The objective of one sample is L = exp(u) f(X). Every divergence supplies

    weight  g = dL/dl = rho f'(X): what multiplies grad log pi_theta. It is zero at the target, l = u.
    value   L minus a term that does not depend on l, so that it never overflows (the "centred value").

Both in one function, since they share most of their work.

Adding c (X - 1) to f changes the expected objective by a constant only (at the levels token and sequence:
docs/theory.md, 3.1 and 9.6), so any f may be put into canonical form. Where the target has mass one, each sample's own
gradient is then zero at the optimum, not only its expectation, which lowers the variance. The forms that
the released LAD code is reported to use for kl (X log X) and rkl (-log X) differ from ours in exactly that way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LogSpaceFunction = Callable[[Tensor, Tensor], Tensor]
WeightAndValue = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Divergence:
    """Describe one f-divergence.

    Attributes:
        name: canonical name.
        weight_and_value: (l, u) -> g = dL/dl and the centred value, of which g is the derivative in l; elementwise, any
            shape. g is exactly 0 where l = u.
        f: X -> f(X), canonical, for the reference loss. None for a divergence that a user registered in log space.
        order: alpha of the alpha family that the divergence belongs to, up to a factor; None outside it.
        strictly_convex: whether pi_old exp(u) / Z is the only minimiser for every Z. False for tv, which is strictly
            convex nowhere: there, centre the partition (`partition="group"`).
        saturates_above: exp(u) itself is formed, so u is limited to at most max_log_weight.
        saturates_below: exp(-u) itself is formed, so u is limited to at least -max_log_weight.
    """

    name: str
    weight_and_value: WeightAndValue
    f: Callable[[Tensor], Tensor] | None
    order: float | None = None
    strictly_convex: bool = True
    saturates_above: bool = False
    saturates_below: bool = False

    def weight(self, l: Tensor, u: Tensor) -> Tensor:
        """Return g = dL/dl alone."""
        return self.weight_and_value(l, u)[0]

    def value(self, l: Tensor, u: Tensor) -> Tensor:
        """Return the centred value alone."""
        return self.weight_and_value(l, u)[1]

    @property
    def saturates(self) -> bool:
        """Whether exp(u) or exp(-u) itself is formed."""
        return self.saturates_above or self.saturates_below

    def saturate(self, u: Tensor, max_log_weight: float) -> Tensor:
        """Limit u where exp(u) or exp(-u) itself would be formed; elsewhere return u as it is."""
        if not self.saturates:
            return u
        return u.clamp(
            min=-max_log_weight if self.saturates_below else None,
            max=max_log_weight if self.saturates_above else None,
        )


NEGLIGIBLE_EXPONENT = 69.0
"""exp(-69) = 1e-30 is lost beside 1 in every type, while exp(69) still fits float32."""


def _expm1(x: Tensor) -> Tensor:
    """Return exp(x) - 1 without cancellation; inductor (torch 2.13) computes torch.expm1 as exp(x) - 1 on a CPU."""
    return (x.exp() + 1) * (x / 2).tanh() if torch.compiler.is_compiling() else torch.expm1(x)


def _log_mean_ratio(d: Tensor) -> Tensor:
    """Return log 2 - softplus(-d) = log(2 X / (X + 1)) = log(1 + tanh(d / 2)), without cancellation on either side."""
    return torch.log1p(d.abs().div_(2).tanh_()).add_(d.clamp(max=0))


def _softplus_over_exp(d: Tensor) -> Tensor:
    """Return softplus(d) / exp(d) = log(1 + X) / X for any d: 1 on the far left, d exp(-d) on the far right."""
    X = d.clamp(-NEGLIGIBLE_EXPONENT, NEGLIGIBLE_EXPONENT).exp_()
    return torch.log1p(X).div_(X)


def _js(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    d = l - u
    half_rho = 0.5 * l.exp()
    weight = half_rho * _log_mean_ratio(d)
    return weight, torch.addcmul(weight, half_rho, _softplus_over_exp(d), value=-1)


def _js_f(X: Tensor) -> Tensor:
    return 0.5 * (X * X.log() - (X + 1) * ((X + 1) / 2).log())


def _hellinger(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    half_rho = l.exp() / 2
    return half_rho * -_expm1((u - l) / 2), half_rho - ((l + u) / 2).exp()


def _hellinger_f(X: Tensor) -> Tensor:
    return 0.5 * (X.sqrt() - 1) ** 2


def _tv(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    d, rho = l - u, l.exp()
    return 0.5 * rho * torch.sign(d), rho * torch.where(d <= 0, -0.5, 0.5 - torch.exp(-d.clamp(min=0)))


def _tv_f(X: Tensor) -> Tensor:
    return 0.5 * (X - 1).abs()


def _kl(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    d, rho = l - u, l.exp()
    return rho * d, rho * (d - 1)


def _kl_f(X: Tensor) -> Tensor:
    return X * X.log() - X + 1


def _rkl(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    rho = l.exp()
    return -rho * _expm1(u - l), rho - u.exp() * l


def _rkl_f(X: Tensor) -> Tensor:
    return -X.log() + X - 1


def _jeffreys(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    d, rho = l - u, l.exp()
    return rho * (d - _expm1(-d)), rho * d - u.exp() * l


def _jeffreys_f(X: Tensor) -> Tensor:
    return (X - 1) * X.log()


def _alpha(a: float) -> Divergence:
    def weight_and_value(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        rho = l.exp()
        weight = rho * _expm1((a - 1) * (l - u)) / (a - 1)
        return weight, ((a * l + (1 - a) * u).exp() - a * rho) / (a * (a - 1))

    def f(X: Tensor) -> Tensor:
        return (X**a - a * X - (1 - a)) / (a * (a - 1))

    return Divergence("alpha", weight_and_value, f, order=a, saturates_above=a < 1, saturates_below=a > 1)


ALPHA_RANGE = (-1.0, 2.0)
"""Closed range of alpha, from Neyman's chi-square to Pearson's: beyond it exp((1 - alpha) u) overflows float32."""

ALPHA_DISTANCE = 1e-3
"""Least distance of alpha from 0 and 1, where the value, which carries 1 / (alpha (alpha - 1)), loses its digits."""

_BUILT_IN = {
    "js": Divergence("js", _js, _js_f),
    "hellinger": Divergence("hellinger", _hellinger, _hellinger_f, order=0.5, saturates_above=True),
    "tv": Divergence("tv", _tv, _tv_f, strictly_convex=False),
    "kl": Divergence("kl", _kl, _kl_f, order=1.0),
    "rkl": Divergence("rkl", _rkl, _rkl_f, order=0.0, saturates_above=True),
    "jeffreys": Divergence("jeffreys", _jeffreys, _jeffreys_f, saturates_above=True),
}
_ALIASES = {"hd": "hellinger", "jf": "jeffreys", "jeffrey": "jeffreys", "reverse_kl": "rkl"}
_REGISTERED: dict[str, Divergence] = {}


def divergence_names() -> list[str]:
    """List every name that `get_divergence` accepts, in lower case."""
    return [*_BUILT_IN, "alpha", *_ALIASES, *_REGISTERED]


def get_divergence(name: str, alpha: float = 0.5) -> Divergence:
    """Look a divergence up by name or alias; case does not matter ("JS", "rKL", "JF", "HD" as the paper writes them).

    Args:
        name: one of `divergence_names()`.
        alpha: the order of the alpha divergence, in [-1, 2] without 0 and 1; used by name="alpha" alone.
            alpha -> 1 is kl, alpha -> 0 is rkl, 1/2 is four times hellinger, 2 is half of Pearson's chi-square.

    Returns:
        The divergence in canonical form.

    Raises:
        ValueError: unknown name, or an alpha that is out of range.
    """
    if not isinstance(name, str):
        raise ValueError(f"divergence={name!r} is not a name; allowed: {', '.join(divergence_names())}")
    key = name.lower()
    key = _ALIASES.get(key, key)
    if key == "alpha":
        low, high = ALPHA_RANGE
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, (int, float))
            or not low <= alpha <= high
            or min(abs(alpha), abs(alpha - 1)) < ALPHA_DISTANCE
        ):
            raise ValueError(
                f"alpha={alpha!r} is not allowed: a number from {low:g} to {high:g}, at least {ALPHA_DISTANCE:g} away "
                "from 0 (that limit is divergence='rkl') and from 1 (that limit is divergence='kl')"
            )
        return _alpha(float(alpha))
    divergence = _BUILT_IN.get(key) or _REGISTERED.get(key)
    if divergence is None:
        raise ValueError(f"divergence={name!r} is unknown; allowed: {', '.join(divergence_names())}")
    return divergence


def register_divergence(
    name: str, f_prime: Callable[[Tensor], Tensor], value: LogSpaceFunction, *, strictly_convex: bool = True
) -> Divergence:
    """Register a user's own f-divergence, given in log space, under `name`. Do so in every process that trains.

    Args:
        name: the new name; case does not matter.
        f_prime: d -> f'(exp(d)), elementwise, with f in canonical form, f'(1) = 0; finite for |d| <= 42.
        value: (l, u) -> exp(u) f(exp(l - u)) minus anything that does not depend on l; elementwise.
        strictly_convex: whether f is strictly convex everywhere; checked.

    Returns:
        The registered divergence.

    Raises:
        ValueError: the name is taken or not a word; f'(1) is not 0; f' is not finite, or not increasing in X (f is not
            convex); or the derivative of `value` in l is not exp(l) f'(exp(l - u)). Checked in float64 on a grid.
    """
    key = name.lower() if isinstance(name, str) else ""
    if not key.isidentifier():
        raise ValueError(f"divergence name {name!r} is not allowed: letters, digits and underscores only")
    if key in divergence_names():
        raise ValueError(f"divergence name {name!r} is taken; taken names: {', '.join(divergence_names())}")
    fault = _derivative_fault(f_prime, strictly_convex) or _value_fault(f_prime, value)
    if fault:
        raise ValueError(f"divergence {name!r}: {fault}")

    def weight_and_value(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        d = l - u
        return torch.where(d == 0, 0.0, l.exp() * f_prime(d)), value(l, u)

    _REGISTERED[key] = Divergence(
        key, weight_and_value, None, strictly_convex=strictly_convex, saturates_above=True, saturates_below=True
    )
    return _REGISTERED[key]


def _derivative_fault(f_prime: Callable[[Tensor], Tensor], strictly_convex: bool) -> str | None:
    """Say what is wrong with f': its value at 1, its finiteness on [-42, 42], its increase on [-12, 12]; or None."""
    at_one = float(f_prime(torch.zeros((), dtype=torch.float64)))
    if not abs(at_one) < 1e-9:
        return (
            f"f'(1) = {at_one!r}, but the canonical form has f'(1) = 0; subtract f'(1) (X - 1) from f: it moves the "
            "expected objective by a constant only"
        )
    if not bool(f_prime(torch.linspace(-42, 42, 337, dtype=torch.float64)).isfinite().all()):
        return "f' is not finite on X = exp(d), d in [-42, 42]"
    f_primes = f_prime(torch.linspace(-12, 12, 193, dtype=torch.float64))  # beyond, a bounded f' is flat to rounding
    increases = f_primes.diff()
    if bool((increases < -1e-12 * f_primes.abs().max().clamp(min=1.0)).any()):
        return "f' decreases somewhere, so f is not convex"
    if strictly_convex and not bool((increases > 0).all()):
        return "f' is constant somewhere; register it with strictly_convex=False"
    return None


def _value_fault(f_prime: Callable[[Tensor], Tensor], value: LogSpaceFunction) -> str | None:
    """Say by how much the derivative of `value` in l, by autograd on a grid, is not exp(l) f'(exp(l - u)); or None."""
    l, u = torch.meshgrid(
        torch.linspace(-3, 3, 13, dtype=torch.float64),
        torch.linspace(-4.1, 4.2, 11, dtype=torch.float64),
        indexing="ij",
    )
    l = l.clone().requires_grad_()
    with torch.enable_grad():
        (derivative,) = torch.autograd.grad((value(l, u) + 0 * l).sum(), l)  # 0 * l: for a value without l
    expected = (l.exp() * f_prime(l - u)).detach()
    if torch.allclose(derivative, expected, rtol=1e-6, atol=1e-9):
        return None
    return (
        f"d value / d l differs from exp(l) f'(exp(l - u)) by up to {float((derivative - expected).abs().max()):.3g}; "
        "value must be exp(u) f(exp(l - u)) up to a term without l"
    )
