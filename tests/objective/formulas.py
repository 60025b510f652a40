"""LAD from the paper's formula, written a second time and plainly, so that no test judges the package by itself.

f, the objective exp(u) f(exp(l - u)) and the theta-free terms are derived by hand; `loss_matrix` is what is tested.
"""

import torch
from torch import Tensor

from verl_lad import lad_loss

ALPHAS = (-1.0, -0.5, 0.3, 0.5, 1.5, 2.0)
DIVERGENCES = [(name, 0.5) for name in ("js", "hellinger", "tv", "kl", "rkl", "jeffreys")] + [
    ("alpha", a) for a in ALPHAS
]
"""(name, alpha) of every divergence under test."""
IDS = [name if name != "alpha" else f"alpha({a:g})" for name, a in DIVERGENCES]
STRICT = [case for case in DIVERGENCES if case[0] != "tv"]
STRICT_IDS = [i for i in IDS if i != "tv"]
RATIOS = ("token", "sequence", "geometric")
SATURATES_ABOVE = {"hellinger", "rkl", "jeffreys"}
"""Forms exp(u) at u > 0, so u is limited to max_log_weight; alpha < 1 does too, alpha > 1 is limited from below."""


def loss_matrix(*arguments) -> Tensor:
    """The loss of lad_loss without its diagnostics."""
    return lad_loss(*arguments)[0]


def f(name: str, alpha: float, X: Tensor) -> Tensor:
    """The canonical f(X), straight from the table of the README."""
    if name == "js":
        return 0.5 * (X * X.log() - (X + 1) * ((X + 1) / 2).log())
    if name == "hellinger":
        return 0.5 * (X.sqrt() - 1) ** 2
    if name == "tv":
        return 0.5 * (X - 1).abs()
    if name == "kl":
        return X * X.log() - X + 1
    if name == "rkl":
        return X - 1 - X.log()
    if name == "jeffreys":
        return (X - 1) * X.log()
    return (X**alpha - alpha * X - (1 - alpha)) / (alpha * (alpha - 1))


def objective(name: str, alpha: float, l: Tensor, u: Tensor) -> Tensor:
    """L = exp(u) f(exp(l - u)), not centred."""
    return u.exp() * f(name, alpha, (l - u).exp())


def theta_free(name: str, alpha: float, u: Tensor) -> Tensor:
    """The term without theta by which L exceeds the centred value."""
    if name == "js":
        return 0.5 * torch.log(torch.tensor(2.0, dtype=u.dtype)) * u.exp()
    if name in ("hellinger", "tv"):
        return 0.5 * u.exp()
    if name == "kl":
        return u.exp()
    if name == "rkl":
        return u.exp() * (u - 1)
    if name == "jeffreys":
        return u.exp() * u
    return u.exp() / alpha


def saturate(name: str, alpha: float, u: Tensor, limit: float = 20.0) -> Tensor:
    """u as the package limits it before exp(u) or exp(-u) is formed."""
    if name in SATURATES_ABOVE or (name == "alpha" and alpha < 1):
        return u.clamp(max=limit)
    if name == "alpha":
        return u.clamp(min=-limit)
    return u
