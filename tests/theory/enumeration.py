"""Policies over a handful of answers, and expectations as sums: every answer stands once, weighted by pi_old.

Letters as in docs/theory.md: q = pi_old, p = pi_theta, u = A / eta, m = q exp(u), Z = sum m, w = m / Z. All float64.
An answer is a response of one token, so that all ratio levels agree (section 9 has trees of its own).
"""

import itertools

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from verl_lad import LADConfig, get_divergence, lad_loss

DIVERGENCES = [(name, 0.5) for name in ("js", "hellinger", "tv", "kl", "rkl", "jeffreys")] + [
    ("alpha", a) for a in (-1.0, 0.3, 1.5, 2.0)
]
IDS = [name if name != "alpha" else f"alpha({a:g})" for name, a in DIVERGENCES]
every_divergence = pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
every_strictly_convex_f = pytest.mark.parametrize(
    ("name", "alpha"), [case for case in DIVERGENCES if case[0] != "tv"], ids=[i for i in IDS if i != "tv"]
)


def curvature(name: str) -> float:
    """f''(1) of docs/theory.md's table in section 4."""
    return {"js": 0.25, "hellinger": 0.25, "jeffreys": 2.0}.get(name, 1.0)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def policy(size: int, seed: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()).softmax(0)


def noise(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()


def with_mass(u: Tensor, q: Tensor, Z: float = 1.0) -> Tensor:
    """u plus the constant with which E_q[exp(u)] = Z."""
    return u - torch.log((q * u.exp()).sum() / Z)


def target(q: Tensor, u: Tensor) -> Tensor:
    return (q.log() + u).softmax(-1)


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (torch.special.xlogy(a, a) - torch.special.xlogy(a, b)).sum(-1)


def tv_distance(a: Tensor, b: Tensor) -> float:
    return 0.5 * (a - b).abs().sum().item()


@st.composite
def problems(draw, size: int = 4, spread: float = 2.0):
    """q, u and another policy p, each from its own numbers."""
    numbers = st.lists(st.floats(-spread, spread, allow_nan=False), min_size=size, max_size=size)
    q, u, p = (tensor(draw(numbers)) for _ in range(3))
    return q.softmax(0), u, p.softmax(0)


def config(name: str, alpha: float, eta: float = 1.0, **settings) -> LADConfig:
    return LADConfig(divergence=name, alpha=alpha, eta=eta, **settings)


def losses(log_p: Tensor, q: Tensor, u: Tensor, name: str, alpha: float) -> Tensor:
    """(Y,) lad_loss of each answer, eta = 1."""
    log_p = log_p.unsqueeze(-1)
    return lad_loss(log_p, q.log().unsqueeze(-1), u, torch.ones_like(log_p), config(name, alpha))[0].squeeze(-1)


def expected_loss(log_p: Tensor, q: Tensor, u: Tensor, name: str, alpha: float) -> Tensor:
    return (q * losses(log_p, q, u, name, alpha)).sum()


def weights(p: Tensor, q: Tensor, u: Tensor, name: str, alpha: float) -> Tensor:
    """(Y,) each answer's own g = dL/dl, from the backward pass of lad_loss."""
    log_p = p.log().requires_grad_()
    (g,) = torch.autograd.grad(losses(log_p, q, u, name, alpha).sum(), log_p)
    return g


def logit_gradient(p: Tensor, q: Tensor, u: Tensor, name: str, alpha: float) -> Tensor:
    """(Y,) gradient of the expected loss in the logits of p."""
    logits = p.log().requires_grad_()
    (g,) = torch.autograd.grad(expected_loss(logits.log_softmax(-1), q, u, name, alpha), logits)
    return g


def f_of(X: Tensor, name: str, alpha: float) -> Tensor:
    return get_divergence(name, alpha).f(X)


def slope(X: Tensor, name: str, alpha: float) -> Tensor:
    """f'(X): the weight at rho = 1 and u = -log X."""
    return get_divergence(name, alpha).weight(torch.zeros_like(X), -X.log())


def minimise(loss_of_logits, start: Tensor) -> Tensor:
    """The logits at which L-BFGS ends; about 1e-8 from the minimiser, where float64 resolves the bottom no more."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-14, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of_logits(logits)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach()


def all_groups(q: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Every group of n samples from q, in order: (M, n) answers, and (M,) probabilities."""
    groups = torch.tensor(list(itertools.product(range(len(q)), repeat=n)))
    return groups, q[groups].prod(-1)


def group_ids(groups: Tensor) -> Tensor:
    """(M * n,) the number of each sample's group."""
    return torch.arange(groups.shape[0]).repeat_interleave(groups.shape[1])


def group_weights(groups: Tensor, advantages: Tensor, name: str, alpha: float, eta: float) -> Tensor:
    """(M, n) each sample's own g at pi_theta = pi_old, from the backward pass of lad_loss."""
    log_p = torch.zeros(groups.numel(), 1, dtype=torch.float64, requires_grad=True)
    settings = config(name, alpha, eta)
    loss = lad_loss(log_p, torch.zeros_like(log_p), advantages.flatten(), torch.ones_like(log_p), settings)[0]
    (g,) = torch.autograd.grad(loss.sum(), log_p)
    return g.view(groups.shape)
