"""docs/theory.md, section 5: what iteration does, with a target that moves along and with one that stands still."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from verl_lad import LADConfig, group_advantages, lad_loss

from .enumeration import (
    all_groups,
    every_divergence,
    every_strictly_convex_f,
    group_ids,
    group_weights,
    kl,
    logit_gradient,
    noise,
    policy,
    problems,
    slope,
    target,
    tensor,
    tv_distance,
)

ETA = 0.25
SCORES = tensor([1.0, 0.0, 1.0, 0.3, 1.0])
BEST = SCORES == 1


def spread(e: Tensor) -> Tensor:
    """max - min: a distance of log-probabilities that ignores their common constant."""
    return e.amax(-1) - e.amin(-1)


# --- plain LAD, exact -------------------------------------------------------------------------------------------------


@every_strictly_convex_f
def test_exact_plain_lad_ends_at_the_base_restricted_to_the_best_answers(name, alpha):
    base = policy(5, 0)
    p = base
    for k in range(1, 61):
        q, p = p, target(p, SCORES / ETA)
        if k < 4:  # it is the loss' minimiser
            assert logit_gradient(p, q, (SCORES - (q * SCORES).sum()) / ETA, name, alpha).abs().max() < 1e-12
        expected = base * (k * (SCORES - 1) / ETA).exp()
        torch.testing.assert_close(p, expected / expected.sum(), rtol=1e-11, atol=0)
    assert p[~BEST].sum() < 1e-15
    torch.testing.assert_close(p[BEST], base[BEST] / base[BEST].sum(), rtol=1e-11, atol=0)


@every_strictly_convex_f
def test_fixed_points_of_plain_lad_are_the_policies_on_one_score_level(name, alpha):
    for level in SCORES.unique():
        # any policy over that level: every sample of every group has A = 0 and no gradient
        answers = torch.nonzero(level == SCORES).flatten()
        groups, _ = all_groups(policy(len(answers), 1), 3)
        A = group_advantages(SCORES[answers][groups].flatten(), group_ids(groups))
        assert (A == 0).all()
        assert (group_weights(groups, A, name, alpha, ETA) == 0).all()
    q = policy(5, 2)
    assert logit_gradient(q, q, (SCORES - (q * SCORES).sum()) / ETA, name, alpha).abs().max() > 1e-3


def test_division_by_the_standard_deviation_makes_the_temperature_eta_times_it():
    for good, n in ((1, 16), (8, 16), (15, 16), (2, 3)):
        s = tensor([1.0] * good + [0.0] * (n - good))
        A = group_advantages(s, [0] * n)
        std = s.std()
        torch.testing.assert_close(A / ETA, (s - s.mean()) / (ETA * (std + 1e-6)), rtol=1e-12, atol=0)
        # an exact update moves the log-odds of being right by 1 / (eta std): at least by 2 / eta, and by more and
        # more as the prompt is solved
        step = (A[0] - A[-1]) / ETA
        accuracy = good / n
        bessel = math.sqrt((n - 1) / n)
        assert step.item() == pytest.approx(bessel / (ETA * math.sqrt(accuracy * (1 - accuracy))), rel=1e-5)
        assert step > 2 / ETA * bessel * (1 - 1e-5)


# --- plain LAD, one gradient step a batch -----------------------------------------------------------------------------

TWO_LEVELS = tensor([1.0, 1.0, 1.0, 0.0, 0.0])


def step_direction(p: Tensor, name: str, alpha: float) -> Tensor:
    """Minus the gradient in logits of the expected loss at pi_theta = pi_old, of length one."""
    u = (TWO_LEVELS - (p * TWO_LEVELS).sum()) / ETA
    g = logit_gradient(p, p, u, name, alpha)
    return -g / g.norm()


@every_divergence
@given(problem=problems(size=5))
def test_first_gradient_step_has_one_direction_for_every_f_and_for_grpo_when_there_are_two_scores(name, alpha, problem):
    p, _, _ = problem
    logits = p.log().requires_grad_()
    A = TWO_LEVELS - (p * TWO_LEVELS).sum()
    (policy_gradient,) = torch.autograd.grad((logits.softmax(0) / p * p * A).sum(), logits)
    expected = policy_gradient / policy_gradient.norm()
    torch.testing.assert_close(step_direction(p, name, alpha), expected, rtol=1e-9, atol=1e-10)


@every_divergence
@given(problem=problems(size=5))
def test_first_gradient_step_raises_the_likelier_of_two_equally_good_answers_more(name, alpha, problem):
    p, _, _ = problem
    assume(p[0] > 1.01 * p[1])
    step = step_direction(p, name, alpha)
    assert step[0] > step[1] > 0
    assert (step[3] - step[4]) * (p[3] - p[4]) <= 0  # of two equally bad ones it lowers the likelier more


def test_following_the_exact_gradient_collapses_onto_the_likeliest_best_answer_without_any_noise():
    p = tensor([0.2, 0.15, 0.1, 0.3, 0.25])
    start, wrong, gap = (p[0] / p[1]).log(), 1 - p[:3].sum(), p[0] - p[1]
    share = p[0] / p[:3].sum()
    while 1 - p[:3].sum() > 1e-4:
        step = step_direction(p, "js", 0.5)
        move = p * (step - (p * step).sum())
        h = 5e-3 * (1 - p[:3].sum()) / move[:3].sum()  # moves the accuracy by 0.5 % of what is missing
        p = (p.log() + h * step).softmax(0)
        bound = start + gap / 2 * (wrong / (1 - p[:3].sum())).log()
        assert (p[0] / p[1]).log() > bound
        assert p[0] / p[:3].sum() >= share
        share = p[0] / p[:3].sum()
    assert share > 0.9  # from 0.44


# --- plain LAD, groups of finitely many samples -----------------------------------------------------------------------

GOOD = 3  # answers 0, 1, 2 have score 1, the last has score 0


def refit(p: Tensor, groups: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """(1 - step) p + step (samples weighted by exp(u)): maximum likelihood with weights. (M, Y), and omega (M,)."""
    s = (groups < GOOD).double()
    A = group_advantages(s.flatten(), group_ids(groups), LADConfig(eta=ETA)).view(s.shape)
    weight = (A / ETA).softmax(-1)
    fitted = torch.zeros(len(groups), len(p), dtype=p.dtype).scatter_add(1, groups, weight)
    Q, P = step * fitted[:, :GOOD].sum(-1), (1 - step) * p[:GOOD].sum()
    return (1 - step) * p + step * fitted, Q / (P + Q)


def natural_step(p: Tensor, groups: Tensor, step: float, name: str, alpha: float) -> tuple[Tensor, Tensor]:
    """Natural-gradient step on the samples' own loss at pi_theta = pi_old. p (Y,) or (M, Y); (M, Y), and omega (M,)."""
    s = (groups < GOOD).double()
    A = group_advantages(s.flatten(), group_ids(groups), LADConfig(eta=ETA))
    c = -group_weights(groups, A, name, alpha, ETA) / groups.shape[1]
    moved = (1 - step * c.sum(-1, keepdim=True)) * p + torch.zeros(len(groups), p.shape[-1], dtype=p.dtype).scatter_add(
        1, groups, step * c
    )
    kept = (1 - step * c.sum(-1)) * p[..., :GOOD].sum(-1)
    assert (kept > 0).all()  # the step is small enough
    added = step * (c * s).sum(-1)
    moved = moved.clamp(min=0)
    return moved / moved.sum(-1, keepdim=True), added / (kept + added)


def disagreement(h: Tensor) -> Tensor:
    """1 - sum h^2: the probability that two draws differ."""
    return 1 - h.square().sum(-1)


UPDATES = [("refit", 0.9), ("refit", 0.3), ("rkl", 0.002), ("jeffreys", 0.002)] + [
    (name, 0.2) for name in ("js", "hellinger", "tv", "kl", "alpha")
]


def update(p: Tensor, groups: Tensor, kind: str, step: float) -> tuple[Tensor, Tensor]:
    return refit(p, groups, step) if kind == "refit" else natural_step(p, groups, step, kind, 1.5)


@pytest.mark.parametrize(("kind", "step"), UPDATES)
def test_share_among_equals_is_a_martingale_whose_disagreement_falls_by_the_stated_factor(kind, step):
    p, n = tensor([0.3, 0.2, 0.1, 0.4]), 4
    groups, probability = all_groups(p, n)  # 256 groups: expectations are exact
    new, omega = update(p, groups, kind, step)
    h = p[:GOOD] / p[:GOOD].sum()
    count = (groups < GOOD).sum(-1)
    assert omega.min() >= 0
    assert omega.max() <= 1
    drop = torch.zeros((), dtype=torch.float64)
    for N in range(1, n + 1):
        given_N = count == N
        conditional = probability[given_N] / probability[given_N].sum()
        share = new[given_N, :GOOD] / new[given_N, :GOOD].sum(-1, keepdim=True)
        w = omega[given_N]
        assert spread(w) < 1e-14  # the same for all these groups
        torch.testing.assert_close((conditional.unsqueeze(-1) * share).sum(0), h, rtol=1e-12, atol=0)
        expected = (1 - w[0] ** 2 / N) * disagreement(h)
        torch.testing.assert_close((conditional * disagreement(share)).sum(), expected, rtol=1e-12, atol=0)
        drop = drop + probability[given_N].sum() * (disagreement(h) - expected)
        # the entropy falls strictly wherever the share moves at all
        entropy = -(torch.special.xlogy(share, share)).sum(-1)
        fall = -(torch.special.xlogy(h, h)).sum() - (conditional * entropy).sum()
        assert (fall > 1e-9) if w[0] > 0 else (fall.abs() < 1e-14)
    assert drop > 1e-5


@pytest.mark.parametrize("name", ["js", "hellinger", "kl", "rkl"])
def test_a_solved_prompt_stands_still_under_the_canonical_loss_but_not_under_weighted_likelihood(name):
    p, n = tensor([0.5, 0.3, 0.2]), 4
    groups, probability = all_groups(p, n)
    still, omega = natural_step(p, groups, 0.2, name, 0.5)
    assert (omega == 0).all()
    torch.testing.assert_close(still, p.expand_as(still), rtol=1e-15, atol=1e-16)
    for step in (1.0, 0.3):
        moved, omega = refit(p, groups, step)
        torch.testing.assert_close(omega, torch.full_like(omega, step), rtol=1e-14, atol=0)
        expected = (1 - step**2 / n) * disagreement(p)
        torch.testing.assert_close((probability * disagreement(moved)).sum(), expected, rtol=1e-12, atol=0)


def test_repeated_refits_of_a_solved_prompt_are_absorbed_in_one_answer_with_its_first_share_as_probability():
    # two equally good answers, n samples a step: the chain of k / n, exactly
    n, first = 6, 2
    k = torch.arange(n + 1).double()
    binomial = tensor([math.comb(n, i) for i in range(n + 1)])
    share = (k / n).unsqueeze(-1)
    chain = binomial * share**k * (1 - share) ** (n - k)
    assert chain.sum(-1).sub(1).abs().max() < 1e-14
    for steps in (1, 10, 300):
        after = torch.linalg.matrix_power(chain, steps)[first]
        assert (after * k / n).sum().item() == pytest.approx(first / n, abs=1e-12)
        differ = (after * 2 * (k / n) * (1 - k / n)).sum().item()
        assert differ == pytest.approx((1 - 1 / n) ** steps * 2 * first / n * (1 - first / n), rel=1e-9)
    assert after[n].item() == pytest.approx(first / n, abs=1e-12)
    assert after[0].item() == pytest.approx(1 - first / n, abs=1e-12)


def test_drift_stops_short_of_a_corner_where_the_sum_of_omega_squared_over_n_is_finite():
    # a solved prompt refitted with steps 1 / 2, 1 / 3, ...: the disagreement that is left, in expectation
    p = tensor([0.5, 0.5])
    groups, probability = all_groups(p, 2)
    left, steps = 1.0, 100
    for k in range(1, steps + 1):
        moved, _ = refit(p, groups, 1 / (k + 1))
        left *= float((probability * disagreement(moved)).sum() / disagreement(p))
    assert left == pytest.approx(math.prod(1 - 1 / (2 * (k + 1) ** 2) for k in range(1, steps + 1)), rel=1e-9)
    assert left * (1 - 1 / (2 * steps)) > 0.7  # whatever comes after


def test_simulated_groups_drift_although_no_step_has_a_bias():
    # 500 runs of 40 natural-gradient steps of js, through the package's advantages and loss
    generator = torch.Generator().manual_seed(0)
    runs, n = 500, 8
    p = tensor([0.2, 0.2, 0.2, 0.4]).expand(runs, 4)
    before = torch.full((runs,), 2 / 3, dtype=torch.float64)
    for _ in range(40):
        groups = torch.multinomial(p, n, replacement=True, generator=generator)
        p, _ = natural_step(p, groups, 0.4, "js", 0.5)
    h = p[:, :GOOD] / p[:, :GOOD].sum(-1, keepdim=True)
    mean, error = h.mean(0), h.std(0) / math.sqrt(runs)
    assert ((mean - 1 / 3).abs() < 5 * error).all()
    after = disagreement(h)
    assert before.mean() - after.mean() > 20 * after.std() / math.sqrt(runs)


# --- a target that stands still ---------------------------------------------------------------------------------------


def anchored_u(q: Tensor, base: Tensor, eta: float = ETA) -> Tensor:
    """s / eta - K, with mass one under q."""
    v = SCORES / eta - (q / base).log()
    return v - torch.log((q * v.exp()).sum())


@every_strictly_convex_f
def test_anchored_target_is_the_minimiser_from_every_pi_old_and_the_only_fixed_point(name, alpha):
    base = policy(5, 0)
    w = target(base, SCORES / ETA)
    for seed in range(10):
        q = policy(5, 10 + seed, scale=2.0)
        u = anchored_u(q, base)
        torch.testing.assert_close(target(q, u), w, rtol=1e-11, atol=0)
        assert logit_gradient(w, q, u, name, alpha).abs().max() < 1e-10
        assert logit_gradient(q, q, u, name, alpha).abs().max() > 1e-4
    assert logit_gradient(w, w, anchored_u(w, base), name, alpha).abs().max() < 1e-14


@given(problems(size=5), st.floats(0.05, 1.95))
def test_geometric_step_contracts_the_log_ratio_to_the_target_and_a_mixture_the_total_variation(problem, step):
    base, _, p = problem
    w = target(base, SCORES / ETA)
    error = (p / w).log()
    moved = (p.log() - step * error).softmax(0)
    torch.testing.assert_close(spread((moved / w).log()), abs(1 - step) * spread(error), rtol=1e-10, atol=1e-12)
    if step < 1:
        mixed = (1 - step) * p + step * w
        assert tv_distance(mixed, w) == pytest.approx((1 - step) * tv_distance(p, w), abs=1e-13)
        assert kl(w, mixed) <= (1 - step) * kl(w, p) + 1e-13


@given(problems(size=5))
def test_natural_gradient_step_of_kl_is_the_geometric_step(problem):
    base, _, p = problem
    w, step = target(base, SCORES / ETA), 0.3
    u = anchored_u(p, base)
    g = slope((-u).exp(), "kl", 0.5)  # at pi_theta = pi_old
    natural = (p.log() - step * g).softmax(0)
    torch.testing.assert_close(natural, target(p, -step * (p / w).log()), rtol=1e-11, atol=0)


@every_strictly_convex_f
@given(problem=problems(size=5))
def test_small_natural_gradient_steps_of_every_f_contract(name, alpha, problem):
    base, _, p = problem
    w, u = target(base, SCORES / ETA), anchored_u(p, base)
    d = torch.linspace(float(-u.max()), float(-u.min()), 200).double()
    slopes = slope(d.exp(), name, alpha).diff() / d.diff() if spread(d) > 1e-3 else tensor([1.0])
    step = 0.5 / float(slopes.max())
    moved = (p.log() - step * slope((-u).exp(), name, alpha)).softmax(0)
    assert spread((moved / w).log()) <= (1 - step * slopes.min()) * spread((p / w).log()) + 1e-9


@given(problems(size=5, spread=6.0), st.floats(0.05, 2.0))
def test_natural_gradient_step_of_js_contracts_for_every_size_up_to_two(problem, step):
    base, _, p = problem
    w, u = target(base, SCORES / ETA), anchored_u(p, base)
    error = spread((p / w).log())
    assume(error > 1e-3)
    moved = (p.log() - step * slope((-u).exp(), "js", 0.5)).softmax(0)
    assert spread((moved / w).log()) < error


# --- errors: accumulated, or forgotten --------------------------------------------------------------------------------


def test_noise_adds_up_without_an_anchor_and_is_forgotten_with_one():
    # every update sees scores with independent noise; the log-ratio of two equally good answers over 4000 runs
    generator = torch.Generator().manual_seed(1)
    runs, steps, sigma, damping = 4000, 60, 0.05, 0.5
    base = policy(5, 0)
    start = (base[0] / base[2]).log()
    plain = anchored = base.log().expand(runs, 5)
    w = target(base, SCORES / ETA).log()
    for _ in range(steps):
        error = sigma / ETA * torch.randn(runs, 5, generator=generator).double()
        plain = (plain + SCORES / ETA + error).log_softmax(-1)
        anchored = ((1 - damping) * anchored + damping * (w + error)).log_softmax(-1)
    one = 2 * (sigma / ETA) ** 2  # the variance of the difference of two errors
    relative_error = math.sqrt(2 / runs)  # of a variance of normal variables
    for log_p, variance in ((plain, steps * one), (anchored, damping / (2 - damping) * one)):
        ratio = log_p[:, 0] - log_p[:, 2]
        assert abs(ratio.mean() - start) < 5 * math.sqrt(variance / runs)
        assert ratio.var().item() == pytest.approx(variance, rel=5 * relative_error)


# --- groups of finitely many samples, anchored ------------------------------------------------------------------------


def pull(q: Tensor, base: Tensor, n: int, name: str, alpha: float) -> tuple[Tensor, Tensor]:
    """E[g of a sample | it is y] at pi_theta = pi_old over every group of n, and the largest |g| of any sample."""
    groups, probability = all_groups(q, n)
    K = (q / base).log()
    A = group_advantages(
        SCORES[groups].flatten(),
        group_ids(groups),
        LADConfig(eta=ETA, anchor="reference"),
        reference_log_ratio=K[groups].flatten(),
    )
    g = group_weights(groups, A, name, alpha, ETA)
    mean = torch.zeros(len(q), dtype=q.dtype)
    mean.scatter_add_(0, groups.flatten(), (probability.unsqueeze(-1) * g / n).flatten())
    return mean / q, g.abs().max()


@pytest.mark.parametrize("n", [2, 3])
@every_strictly_convex_f
def test_anchored_groups_of_any_size_pull_each_answer_towards_the_target(name, alpha, n):
    base = policy(5, 0)
    for seed in range(3):
        q = policy(5, 30 + seed)
        v = SCORES / ETA - (q / base).log()
        G, _ = pull(q, base, n, name, alpha)
        order = v.argsort()
        assert (G[order].diff() < 0).all()  # strictly decreasing in log w / q
        covariance = (q * G * v).sum() - (q * G).sum() * (q * v).sum()
        assert covariance < 0
        # so an expected natural-gradient step lowers KL(p || w)
        w = target(base, SCORES / ETA)
        step = 1e-3 / G.abs().max()
        moved = q * (1 - step * (G - (q * G).sum()))
        assert kl(moved, w) < kl(q, w)


@pytest.mark.parametrize("n", [1, 2, 3])
@every_strictly_convex_f
def test_at_the_anchored_target_no_sample_of_any_group_has_a_gradient(name, alpha, n):
    base = policy(5, 0)
    _, largest = pull(target(base, SCORES / ETA), base, n, name, alpha)
    assert largest < 1e-13


def test_a_group_of_one_never_moves_the_anchored_policy():
    _, largest = pull(policy(5, 30), policy(5, 0), 1, "js", 0.5)
    assert largest == 0


def test_division_by_the_standard_deviation_makes_the_anchored_target_repel():
    # pi_old uniform over 12 answers; the exact update with A = (s - eta K - mean) / std
    size, eta = 12, 0.125
    q = torch.full((size,), 1 / size, dtype=torch.float64)
    for scale in (0.01, 1.0, 3.0):
        e = scale * noise(size, 3)
        w = (q.log() - e).softmax(0)
        A = group_advantages(-eta * e, [0] * size, LADConfig(eta=eta), norm_by_std=True)
        moved = target(q, A / eta)
        before, after = (q / w).log().std(), (moved / w).log().std()
        assert after.item() == pytest.approx(abs(before.item() - 1 / eta), rel=1e-3)
        assert after > 1 / (2 * eta) > before


# --- the whole pipeline, simulated: not a proof -----------------------------------------------------------------------


def test_simulated_adam_on_shared_logits_loses_the_base_distribution_over_the_best_without_an_anchor():
    # 3 prompts with different best answers, logits a[y] + b[x, y], 24 independent runs side by side
    runs, prompts, answers, n, steps = 24, 3, 8, 8, 150
    generator = torch.Generator().manual_seed(2)
    base = noise(prompts * answers, 4).view(prompts, answers).log_softmax(-1)
    scores = torch.stack([torch.arange(answers).roll(3 * x) < 4 for x in range(prompts)]).double()
    good = scores.bool()

    def effective_best(log_p: Tensor) -> Tensor:
        """(runs,) exp entropy over the best answers, mean over prompts."""
        h = torch.where(good, log_p.exp(), 0.0)
        h = h / h.sum(-1, keepdim=True)
        return (-torch.special.xlogy(h, h)).sum(-1).exp().mean(-1)

    reached = {}
    for anchor in ("old", "reference"):
        settings = LADConfig(eta=ETA, anchor=anchor)
        shared = torch.zeros(runs, 1, answers, dtype=torch.float64, requires_grad=True)
        own = base.repeat(runs, 1, 1).requires_grad_()
        optimiser = torch.optim.Adam([shared, own], lr=0.05)
        for _ in range(steps):
            log_p = (shared + own).log_softmax(-1)
            old = log_p.detach()
            y = torch.multinomial(old.exp().view(-1, answers), n, replacement=True, generator=generator)
            y = y.view(runs, prompts, n)
            sampled_old = old.gather(-1, y)
            K = (sampled_old - base.expand_as(old).gather(-1, y)).flatten() if anchor == "reference" else None
            s = scores.expand_as(old).gather(-1, y).flatten()
            A = group_advantages(s, torch.arange(runs * prompts).repeat_interleave(n), settings, reference_log_ratio=K)
            log_prob = log_p.gather(-1, y).view(-1, 1)
            loss = lad_loss(log_prob, sampled_old.view(-1, 1), A, torch.ones_like(log_prob), settings)[0]
            optimiser.zero_grad()
            (loss.sum() / n).backward()
            optimiser.step()
        log_p = (shared + own).log_softmax(-1).detach()
        assert torch.where(good, log_p.exp(), 0.0).sum(-1).mean() > 0.9  # both have learned the task
        reached[anchor] = effective_best(log_p)
    first = effective_best(base.unsqueeze(0)).item()
    plain, anchored = reached["old"], reached["reference"]
    assert first - plain.mean() > 5 * plain.std() / math.sqrt(runs)
    assert anchored.mean() > 0.9 * first
    assert anchored.mean() - plain.mean() > 5 * (plain.std() + anchored.std()) / math.sqrt(runs)
