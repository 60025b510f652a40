"""The claims of the README about minimisers, proved by enumeration over a handful of actions, in float64.

Expectations are exact: every action stands once in the batch, weighted by pi_old. The policy is a softmax over free
logits, so it can represent every target, and what an optimiser finds is the objective's doing, not the model's.
"""

import math

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, group_advantages, lad_loss

from .formulas import DIVERGENCES, IDS, STRICT, STRICT_IDS, f, objective, theta_free

ACTIONS = 6
ETA = 0.25


def problem(Z: float, actions: int = ACTIONS, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """pi_old, u with E_{pi_old}[exp(u)] = Z, and the target w = pi_old exp(u) / Z; u spreads over about 3 nats."""
    generator = torch.Generator().manual_seed(seed)
    pi_old = torch.randn(actions, generator=generator).double().softmax(0)
    u = torch.randn(actions, generator=generator).double()
    u = u + math.log(Z) - torch.log((pi_old * u.exp()).sum())
    return pi_old, u, pi_old * u.exp() / Z


def expected_loss(logits: Tensor, pi_old: Tensor, u: Tensor, config: LADConfig) -> Tensor:
    """E_{y ~ pi_old} of the package's loss for one-token responses: each action once, weighted by pi_old."""
    log_prob = logits.log_softmax(-1).unsqueeze(-1)
    loss = lad_loss(log_prob, pi_old.log().unsqueeze(-1), u * config.eta, torch.ones_like(log_prob), config)[0]
    return (pi_old * loss.squeeze(-1)).sum()


def exact_objective(pi: Tensor, pi_old: Tensor, u: Tensor, name: str, alpha: float) -> Tensor:
    """E_{pi_old}[exp(u) f(pi / (pi_old exp(u)))], not centred, from formulas.py."""
    return (pi_old * objective(name, alpha, pi.log() - pi_old.log(), u)).sum()


def tv_distance(p: Tensor, q: Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


def minimise(start: Tensor, pi_old: Tensor, u: Tensor, config: LADConfig) -> Tensor:
    """The policy at which L-BFGS ends."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=300, tolerance_grad=1e-14, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = expected_loss(logits, pi_old, u, config)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach().softmax(-1)


def minimise_by_adam(start: Tensor, pi_old: Tensor, u: Tensor, config: LADConfig, steps: int = 2500) -> Tensor:
    """For tv, whose gradient jumps at the target: steps that shrink geometrically from 0.05 to 1e-9."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, (1e-9 / 0.05) ** (1 / steps))
    for _ in range(steps):
        optimiser.zero_grad()
        expected_loss(logits, pi_old, u, config).backward()
        optimiser.step()
        schedule.step()
    return logits.detach().softmax(-1)


def starts(pi_old: Tensor) -> list[Tensor]:
    """pi_old itself, the uniform policy, and two far from both."""
    generator = torch.Generator().manual_seed(11)
    return [pi_old.log(), torch.zeros_like(pi_old), *(2 * torch.randn(2, len(pi_old), generator=generator).double())]


# --- 1. the minimiser -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("Z", [7.5, 0.1, 1.0])
@pytest.mark.parametrize(("name", "alpha"), STRICT, ids=STRICT_IDS)
def test_minimiser_is_pi_old_exp_u_over_Z_from_every_start_for_strictly_convex_f(name, alpha, Z):
    pi_old, u, target = problem(Z)
    config = LADConfig(divergence=name, alpha=alpha, eta=ETA)
    assert tv_distance(pi_old, target) > 0.1
    for start in starts(pi_old):
        # required: 1e-6; reached: about 1e-8, where float64 no longer resolves the loss' quadratic bottom
        assert tv_distance(minimise(start, pi_old, u, config), target) < 1e-6


@pytest.mark.parametrize("Z", [7.5, 0.1])
@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_expected_gradient_vanishes_at_the_target_for_every_Z(name, alpha, Z):
    pi_old, u, target = problem(Z)
    logits = target.log().requires_grad_()
    config = LADConfig(divergence=name, alpha=alpha, eta=ETA)
    (g,) = torch.autograd.grad(expected_loss(logits, pi_old, u, config), logits)
    assert g.abs().max() < 1e-14


@pytest.mark.parametrize("Z", [7.5, 0.1, 1.0])
@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_jensen_no_policy_is_below_Z_f_of_one_over_Z_and_only_the_target_attains_it(name, alpha, Z):
    pi_old, u, target = problem(Z)
    bound = Z * f(name, alpha, torch.tensor(1 / Z, dtype=torch.float64))
    at_target = exact_objective(target, pi_old, u, name, alpha)
    assert abs(at_target - bound) < 1e-13 * (1 + Z)
    generator = torch.Generator().manual_seed(5)
    for scale in (3.0, 1.0, 0.1, 0.01):
        for noise in scale * torch.randn(50, ACTIONS, generator=generator).double():
            pi = (target.log() + noise).softmax(-1)
            excess = exact_objective(pi, pi_old, u, name, alpha) - bound
            assert excess > -1e-13 * (1 + Z)
            if name != "tv" or Z == 1.0:
                # strictly convex: the excess is positive, and of second order in the distance (tv: of first)
                assert excess > 1e-3 * tv_distance(pi, target) ** 2


def test_centred_loss_differs_from_the_objective_by_a_constant_in_theta():
    generator = torch.Generator().manual_seed(6)
    for name, alpha in DIVERGENCES:
        pi_old, u, _ = problem(7.5)
        for logits in torch.randn(5, ACTIONS, generator=generator).double():
            ours = expected_loss(logits, pi_old, u, LADConfig(divergence=name, alpha=alpha, eta=ETA))
            expected = exact_objective(logits.softmax(-1), pi_old, u, name, alpha)
            constant = (pi_old * theta_free(name, alpha, u)).sum()
            assert abs(expected - ours - constant) < 1e-12 * (1 + abs(constant))


# --- 2. total variation -----------------------------------------------------------------------------------------------


def test_tv_has_other_minimisers_when_Z_is_7_5():
    pi_old, u, target = problem(7.5, actions=7, seed=1)
    bound = 0.5 * (7.5 - 1)  # Z f(1 / Z)
    below = pi_old * u.exp()
    assert (target < below).all()
    # another policy that lies below pi_old exp(u) pointwise: fill the actions up in order until the mass is one
    other, left = torch.zeros_like(below), 1.0
    for y in range(len(below)):
        other[y] = min(0.9 * below[y].item(), left)
        left -= other[y].item()
    assert left == pytest.approx(0.0, abs=1e-15)
    other = 0.999 * other + 0.001 * target  # every action positive
    assert (other < below).all()
    assert tv_distance(other, target) > 0.3
    # exactly the same, minimal, loss
    for pi in (target, other):
        assert exact_objective(pi, pi_old, u, "tv", 0.5).item() == pytest.approx(bound, abs=1e-14)
    # and no gradient: an optimiser that reaches it stays there
    logits = other.log().requires_grad_()
    config = LADConfig(divergence="tv", eta=ETA)
    loss = expected_loss(logits, pi_old, u, config)
    (g,) = torch.autograd.grad(loss, logits)
    assert g.abs().max() < 1e-15
    assert loss.item() == pytest.approx(expected_loss(target.log(), pi_old, u, config).item(), abs=1e-14)


def test_tv_stops_far_from_the_target_when_Z_is_7_5_where_js_arrives():
    pi_old, u, target = problem(7.5, actions=7, seed=1)
    start = starts(pi_old)[2]
    tv = minimise_by_adam(start, pi_old, u, LADConfig(divergence="tv", eta=ETA), steps=1500)
    js = minimise(start, pi_old, u, LADConfig(divergence="js", eta=ETA))
    assert exact_objective(tv, pi_old, u, "tv", 0.5).item() == pytest.approx(0.5 * 6.5, abs=1e-9)
    assert tv_distance(tv, target) > 0.1
    assert tv_distance(js, target) < 1e-6


def test_tv_has_the_target_as_its_only_minimiser_once_the_partition_is_centred():
    # group_advantages centres the partition: with one sample per action, pi_old is uniform and Z = 1
    scores = torch.tensor([1.0, 0.0, 0.2, 0.9, 0.0, 0.5]).double()
    config = LADConfig(divergence="tv", eta=1.0, partition="group")
    A = group_advantages(scores, torch.zeros(ACTIONS, dtype=torch.long), config)
    pi_old = torch.full((ACTIONS,), 1 / ACTIONS, dtype=torch.float64)
    u = A / config.eta
    assert (pi_old * u.exp()).sum().item() == pytest.approx(1.0, abs=1e-14)
    target = pi_old * u.exp()
    assert tv_distance(pi_old, target) > 0.1
    for start in (starts(pi_old)[0], starts(pi_old)[2]):
        # required: 1e-6; reached: 1e-9, as the steps shrink to 1e-9
        assert tv_distance(minimise_by_adam(start, pi_old, u, config), target) < 1e-6


# --- 3. canonical forms and the released code's -----------------------------------------------------------------------

PAPER_FORMS = {"kl": lambda X: X * X.log(), "rkl": lambda X: -X.log()}


@pytest.mark.parametrize("Z", [7.5, 0.1, 1.0])
@pytest.mark.parametrize("name", ["kl", "rkl"])
def test_canonical_and_paper_forms_have_the_same_expected_gradient_but_not_per_sample(name, Z):
    pi_old, u, _ = problem(Z)
    logits = torch.randn(ACTIONS, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    paper_form = PAPER_FORMS[name]

    def samples(function) -> tuple[Tensor, Tensor]:
        """Expected gradient, and each sample's own dL/dl."""
        l = logits.log_softmax(-1) - pi_old.log()
        loss = function(l)
        (g,) = torch.autograd.grad((pi_old * loss).sum(), logits, retain_graph=True)
        (per_sample,) = torch.autograd.grad(loss.sum(), l)
        return g, per_sample

    def ours(l: Tensor) -> Tensor:
        config = LADConfig(divergence=name, eta=ETA)
        l = l.unsqueeze(-1)
        return lad_loss(l, torch.zeros_like(l), u * ETA, torch.ones_like(l), config)[0].squeeze(-1)

    canonical, own = samples(ours)
    paper, own_paper = samples(lambda l: u.exp() * paper_form((l - u).exp()))
    torch.testing.assert_close(canonical, paper, rtol=1e-12, atol=1e-13)
    assert canonical.abs().max() > 1e-3
    # they differ by c rho per sample, whose expected gradient is c sum_y grad pi(y) = 0
    rho = (logits.log_softmax(-1) - pi_old.log()).exp()
    sign = 1.0 if name == "kl" else -1.0
    torch.testing.assert_close(own_paper - own, (sign * rho).detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["kl", "rkl"])
def test_only_the_canonical_form_vanishes_per_sample_at_the_target(name):
    pi_old, u, target = problem(1.0)
    l = (target.log() - pi_old.log()).unsqueeze(-1).requires_grad_()
    config = LADConfig(divergence=name, eta=ETA)
    loss = lad_loss(l, torch.zeros_like(l), u * ETA, torch.ones(ACTIONS, 1), config)[0]
    (own,) = torch.autograd.grad(loss.sum(), l)
    assert own.abs().max() < 1e-14
    paper = u.exp() * PAPER_FORMS[name]((l.squeeze(-1) - u).exp())
    (own_paper,) = torch.autograd.grad(paper.sum(), l)
    # every sample pushes with rho = exp(u): only their sum cancels
    torch.testing.assert_close(own_paper.abs().squeeze(-1), u.exp(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_every_samples_own_gradient_vanishes_at_a_centred_target(name, alpha):
    # not only the expectation: this is what the canonical form buys. tv: sign(d) is exact at d = 0 only, so l = u.
    _, u, _ = problem(1.0)
    l = u.unsqueeze(-1).clone().requires_grad_()
    config = LADConfig(divergence=name, alpha=alpha, eta=ETA)
    (g,) = torch.autograd.grad(lad_loss(l, torch.zeros_like(l), u * ETA, torch.ones(ACTIONS, 1), config)[0].sum(), l)
    assert (g == 0).all()


# --- 4. anchoring -----------------------------------------------------------------------------------------------------

SCORES = torch.tensor([1.0, 1.0, 0.0, 0.3, 0.0, 1.0]).double()
COUNTS = ([1, 1, 1, 1, 1, 1], [5, 1, 2, 1, 1, 10], [1, 30, 1, 4, 2, 2])


def reference_policy() -> Tensor:
    return torch.randn(ACTIONS, generator=torch.Generator().manual_seed(8)).double().softmax(0)


def anchored_target(pi_ref: Tensor, eta: float) -> Tensor:
    weight = pi_ref * (SCORES / eta).exp()
    return weight / weight.sum()


@pytest.mark.parametrize("eta", [0.125, 1.0])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_anchored_target_is_pi_ref_exp_s_over_eta_whatever_pi_old(counts, eta):
    # a group in which action y appears n_y times is an exact enumeration of pi_old(y) = n_y / sum n
    n = torch.tensor(counts)
    pi_old, pi_ref = n.double() / n.sum(), reference_policy()
    K = (pi_old.log() - pi_ref.log()).repeat_interleave(n)
    A = group_advantages(
        SCORES.repeat_interleave(n),
        torch.zeros(int(n.sum()), dtype=torch.long),
        LADConfig(anchor="reference", eta=eta),
        reference_log_ratio=K,
    )
    u_of_samples = A / eta
    assert u_of_samples.exp().mean().item() == pytest.approx(1.0, abs=1e-13)
    u = u_of_samples[n.cumsum(0) - 1]
    torch.testing.assert_close(pi_old * u.exp(), anchored_target(pi_ref, eta), rtol=1e-12, atol=1e-15)


def one_update(pi_old: Tensor, config: LADConfig, pi_ref: Tensor | None = None) -> Tensor:
    """pi_old exp(u) / Z, exactly, from the advantages of one sample per action."""
    K = None if pi_ref is None else pi_old.log() - pi_ref.log()
    A = group_advantages(SCORES, ["x"] * ACTIONS, config, reference_log_ratio=K)
    weight = pi_old.log() + A / config.eta
    return weight.softmax(-1)


def entropy(p: Tensor) -> float:
    return -torch.special.xlogy(p, p).sum().item()


def test_iterating_plain_lad_collapses_onto_the_best_while_the_anchored_target_is_a_fixed_point():
    pi_ref, eta = reference_policy(), 0.25
    target = anchored_target(pi_ref, eta)
    plain = anchored = pi_ref
    for iteration in range(30):
        plain = one_update(plain, LADConfig(eta=eta))
        anchored = one_update(anchored, LADConfig(eta=eta, anchor="reference"), pi_ref)
        # reached by the first update, from wherever, and kept
        assert tv_distance(anchored, target) < 1e-12, iteration
    best = SCORES.max() == SCORES
    assert plain[~best].sum() < 1e-12
    assert anchored[~best].sum() == pytest.approx(target[~best].sum().item(), abs=1e-12)
    assert target[~best].sum() > 1e-3
    # among equally good answers the target keeps pi_ref's own distribution
    torch.testing.assert_close(anchored[best] / anchored[best].sum(), pi_ref[best] / pi_ref[best].sum())


def test_anchored_target_is_reached_in_one_step_from_a_policy_that_has_drifted():
    pi_ref = reference_policy()
    drifted = torch.tensor([0.9, 0.05, 0.01, 0.01, 0.01, 0.02]).double()
    new = one_update(drifted, LADConfig(eta=0.25, anchor="reference"), pi_ref)
    assert tv_distance(new, anchored_target(pi_ref, 0.25)) < 1e-13
    # the lost alternatives come back: entropy rises again, which plain LAD never does here
    assert entropy(new) > entropy(drifted) > entropy(one_update(drifted, LADConfig(eta=0.25)))


def test_minimising_the_anchored_loss_restores_the_target_from_a_drifted_policy():
    # end to end: advantages, loss and optimiser; each action once, so the group is uniform and pi_old enters through K
    pi_ref, config = reference_policy(), LADConfig(eta=0.25, anchor="reference")
    pi_old = torch.full((ACTIONS,), 1 / ACTIONS, dtype=torch.float64)
    A = group_advantages(SCORES, [0] * ACTIONS, config, reference_log_ratio=pi_old.log() - pi_ref.log())
    reached = minimise(starts(pi_old)[2], pi_old, A / config.eta, config)
    assert tv_distance(reached, anchored_target(pi_ref, 0.25)) < 1e-6
