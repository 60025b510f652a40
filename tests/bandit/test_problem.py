"""The bandit itself: scores, target, advantages, and what counts as a recovered mode."""

import pytest
import torch

from verl_lad import LADConfig, group_advantages
from verl_lad.bandit.problem import (
    ARMS,
    BASINS,
    CENTRES,
    HEIGHTS,
    SCORES,
    all_methods,
    modes_recovered,
    policy_losses,
    target_log_prob,
    weighted_advantages,
)

ETA = 0.25


def log_policy(seed: int = 0) -> torch.Tensor:
    return torch.randn(ARMS, generator=torch.Generator().manual_seed(seed)).double().log_softmax(-1)


@pytest.mark.parametrize("name", HEIGHTS)
def test_scores_have_three_peaks_of_the_named_heights_and_nothing_between_them(name):
    s = SCORES[name]
    peaks = [i for i in range(1, ARMS - 1) if s[i] > s[i - 1] and s[i] > s[i + 1]]
    assert peaks == list(CENTRES)
    assert s[peaks].tolist() == pytest.approx(HEIGHTS[name], abs=1e-9)
    assert s.min() >= 0
    assert s[[17, 18, 32, 33]].max() < 0.01


@pytest.mark.parametrize("name", HEIGHTS)
def test_basins_are_the_arms_within_half_of_their_peak(name):
    s = SCORES[name]
    for centre, height, basin in zip(CENTRES, HEIGHTS[name], BASINS, strict=True):
        near = (torch.arange(ARMS) - centre).abs() < 7
        assert torch.equal(basin, near & (s >= height / 2))
        assert basin.sum() == 5


@pytest.mark.parametrize("eta", [0.25, 2.0])
def test_target_is_normalised_and_the_maximiser_of_score_less_eta_kl(eta):
    initial, s = log_policy(), SCORES["unequal"]
    target = target_log_prob(initial, s, eta)
    assert target.exp().sum().item() == pytest.approx(1.0, abs=1e-12)

    def objective(log_prob):
        return (log_prob.exp() * (s - eta * (log_prob - initial))).sum(-1)

    generator = torch.Generator().manual_seed(1)
    for scale in (3.0, 0.3, 0.03):
        others = (target + scale * torch.randn(200, ARMS, generator=generator)).log_softmax(-1)
        assert (objective(others) < objective(target)).all()


# Not with tv and Z = 1, where the loss has a kink at the target: rounding decides which sign d has there.
LAD = [name for name, method in all_methods(ETA).items() if method.lad and name != "lad-tv-partition-group"]


@pytest.mark.parametrize("name", LAD)
def test_target_is_stationary_for_every_divergence_on_the_expected_advantages(name):
    initial, s = log_policy(), SCORES["unequal"]
    logits = target_log_prob(initial, s, ETA).requires_grad_()
    method = all_methods(ETA)[name]
    loss = policy_losses(method, logits.log_softmax(-1), initial, initial, s, initial.exp())
    (g,) = torch.autograd.grad(loss, logits)
    assert g.abs().max() < 1e-12


@pytest.mark.parametrize(
    "config", [LADConfig(ETA, partition="group"), LADConfig(ETA, partition="group", anchor="reference")]
)
def test_target_is_pi_old_exp_u_without_a_constant_where_the_partition_is_centred(config):
    initial, s = log_policy(), SCORES["unequal"]
    behaviour = log_policy(1) if config.anchor == "reference" else initial
    scores = s - ETA * (behaviour - initial)
    u = weighted_advantages(scores, behaviour.exp(), config) / ETA
    torch.testing.assert_close(behaviour + u, target_log_prob(initial, s, ETA), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [LADConfig(ETA), LADConfig(ETA, partition="group"), LADConfig(ETA, partition="group", anchor="reference")],
    ids=["plain", "partition", "anchored"],
)
def test_advantages_by_weights_are_those_of_a_group_with_as_many_of_each_arm(config):
    n = torch.randint(0, 30, (ARMS,), generator=torch.Generator().manual_seed(2))
    assert (n == 0).any()
    s = SCORES["unequal"]
    group = group_advantages(s.repeat_interleave(n), ["one"] * int(n.sum()), config, norm_by_std=False)
    by_weights = weighted_advantages(s, n.double() / n.sum(), config)
    torch.testing.assert_close(by_weights.repeat_interleave(n), group, rtol=1e-12, atol=1e-12)


def test_a_partition_that_the_bandit_does_not_have_is_refused_by_name():
    with pytest.raises(ValueError, match=r"partition='none', which means balanced, is not allowed: none or group"):
        weighted_advantages(SCORES["unequal"], log_policy().exp(), LADConfig(ETA, anchor="reference"))


def test_target_has_all_modes_the_untrained_policy_none_and_the_best_arm_alone_one():
    best = torch.nn.functional.one_hot(torch.tensor(CENTRES[1]), ARMS).double()
    for seed in range(5):
        initial = log_policy(seed)
        target = target_log_prob(initial, SCORES["unequal"], ETA).exp()
        policies = torch.stack([target, initial.exp(), best])
        assert modes_recovered(policies, initial.exp(), target).tolist() == [3, 0, 1]


def test_mode_is_recovered_from_half_of_its_rise_on():
    uniform = torch.full((ARMS,), 1 / ARMS, dtype=torch.float64)
    target = target_log_prob(uniform.log(), SCORES["equal"], ETA).exp()
    mixtures = torch.stack([(1 - share) * uniform + share * target for share in (0.0, 0.49, 0.51, 1.0)])
    assert modes_recovered(mixtures, uniform, target).tolist() == [0, 0, 3, 3]


def test_mode_that_the_target_lowers_needs_half_of_its_mass_under_the_target():
    basin = BASINS.double()
    initial = 0.9 * basin.sum(0) / 15 + 0.1 / ARMS
    target = 0.6 * basin[0] / 5 + 0.2 * basin[1] / 5 + 0.2 * basin[2] / 5  # modes 1 and 2 fall from above 0.3 to 0.2
    few = 0.8 * basin[0] / 5 + 0.11 * basin[1] / 5 + 0.09 * basin[2] / 5
    assert modes_recovered(torch.stack([target, few]), initial, target).tolist() == [3, 2]
