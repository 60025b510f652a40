"""Every diagnostic on examples that can be computed by hand."""

import math

import pytest
import torch

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import DIAGNOSTICS, diagnostic_means

NAMES = [
    "ppo_kl",
    "divergence",
    "log_ratio_abs_max",
    "weight_pos",
    "weight_neg",
    "retracting_frac",
    "target_mass",
    "saturated_frac",
]


def diagnostics(log_prob, old, advantages, mask, config) -> dict[str, float]:
    _, sums_and_counts = lad_loss(log_prob, old, advantages, mask, config)
    assert list(sums_and_counts) == list(DIAGNOSTICS)
    return diagnostic_means(sums_and_counts)


def test_names_are_stable_and_each_is_explained():
    assert list(DIAGNOSTICS) == NAMES
    assert all(isinstance(meaning, str) and meaning for meaning in DIAGNOSTICS.values())


# Two responses, of two tokens and of one; kl, whose numbers can be written down: g = rho d, value = rho (d - 1).
# exp(l) is 2 and 4 in the first, 1/2 in the second; u = A / eta = log 8 and -log 8 with eta = 1.
LOG2 = math.log(2.0)
L = torch.tensor([[LOG2, 2 * LOG2, 9.0], [-LOG2, -7.0, 3.0]], dtype=torch.float64)
A = torch.tensor([3 * LOG2, -3 * LOG2], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def test_token_level_by_hand():
    # d = -2, -1 | +2 (times log 2); g = -4, -4 | +1 (times log 2); value = g - rho
    got = diagnostics(torch.zeros_like(L), -L, A, MASK, LADConfig(divergence="kl", eta=1.0))
    assert got == pytest.approx(
        {
            "ppo_kl": -(1 + 2 - 1) * LOG2 / 3,
            "divergence": ((-4 * LOG2 - 2) + (-4 * LOG2 - 4) + (LOG2 - 0.5)) / 3,
            "log_ratio_abs_max": 2 * LOG2,
            "weight_pos": -4 * LOG2,
            "weight_neg": LOG2,
            "retracting_frac": 0.0,
            "target_mass": (8 + 1 / 8) / 2,  # over responses, not tokens
            "saturated_frac": 0.0,
        },
        rel=1e-12,
    )


def test_sequence_level_by_hand():
    # l = 3 log 2 | -log 2: the first response is exactly at its target; the second, d = 2 log 2, rho = 1/2
    got = diagnostics(torch.zeros_like(L), -L, A, MASK, LADConfig(divergence="kl", eta=1.0, ratio="sequence"))
    assert got == pytest.approx(
        {
            "ppo_kl": -(1 + 2 - 1) * LOG2 / 3,  # per token at every level
            "divergence": (-8 + (LOG2 - 0.5)) / 2,
            "log_ratio_abs_max": 3 * LOG2,
            "weight_pos": 0.0,
            "weight_neg": LOG2,
            "retracting_frac": 0.0,
            "target_mass": (8 + 1 / 8) / 2,
            "saturated_frac": 0.0,
        },
        rel=1e-12,
        abs=1e-14,
    )


def test_geometric_level_by_hand():
    # l = 3/2 log 2 | -log 2; rho = 2 sqrt 2 | 1/2; d = -3/2 log 2 | 2 log 2
    got = diagnostics(torch.zeros_like(L), -L, A, MASK, LADConfig(divergence="kl", eta=1.0, ratio="geometric"))
    rho = 2 * math.sqrt(2)
    assert got == pytest.approx(
        {
            "ppo_kl": -(1 + 2 - 1) * LOG2 / 3,
            "divergence": (rho * (-1.5 * LOG2 - 1) + (LOG2 - 0.5)) / 2,
            "log_ratio_abs_max": 1.5 * LOG2,
            "weight_pos": -1.5 * LOG2 * rho,
            "weight_neg": LOG2,
            "retracting_frac": 0.0,
            "target_mass": (8 + 1 / 8) / 2,
            "saturated_frac": 0.0,
        },
        rel=1e-12,
    )


def test_retracting_frac_is_the_share_of_good_ones_that_are_past_their_target():
    # four tokens with A > 0 and target u = 1, one of them past it; one bad token with g > 0 does not count
    l = torch.tensor([[0.0, 0.5, 1.5, 0.9, 0.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    got = diagnostics(l, torch.zeros_like(l), advantages, torch.ones(1, 5), LADConfig(eta=1.0))
    assert got["retracting_frac"] == 0.25
    # at sequence level: two responses, one past its target
    l = torch.tensor([[0.7, 0.7], [0.1, 0.1]], dtype=torch.float64)
    config = LADConfig(eta=1.0, ratio="sequence")
    got = diagnostics(l, torch.zeros_like(l), torch.ones(2), torch.ones(2, 2), config)
    assert got["retracting_frac"] == 0.5


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("js", 1 / 4),  # only |l| = 25 is limited
        ("hellinger", 2 / 4),  # and u = 30
        ("alpha", 2 / 4),  # alpha = 1/2 likewise
    ],
)
def test_saturated_frac_and_the_limited_target_mass(divergence, expected):
    l = torch.tensor([[0.0], [25.0], [0.0], [0.0]], dtype=torch.float64)
    advantages = torch.tensor([1.0, 0.0, 30.0, -30.0], dtype=torch.float64)
    got = diagnostics(l, torch.zeros_like(l), advantages, torch.ones(4, 1), LADConfig(eta=1.0, divergence=divergence))
    assert got["saturated_frac"] == expected
    assert got["log_ratio_abs_max"] == 25.0
    # exp(u), with u limited to max_log_weight whatever the divergence
    mass = (math.e + 1 + math.exp(20) + math.exp(-30)) / 4
    assert got["target_mass"] == pytest.approx(mass, rel=1e-12)


def test_saturation_below_is_reported_too():
    l = torch.zeros(3, 1, dtype=torch.float64)
    advantages = torch.tensor([-30.0, 30.0, 0.0], dtype=torch.float64)
    config = LADConfig(eta=1.0, divergence="alpha", alpha=2.0)
    assert diagnostics(l, l, advantages, torch.ones(3, 1), config)["saturated_frac"] == pytest.approx(1 / 3)


def test_target_mass_is_one_for_centred_advantages():
    from verl_lad import group_advantages

    config = LADConfig(partition="group", eta=0.25)
    advantages = group_advantages(torch.rand(8).double(), [0] * 4 + [1] * 4, config)
    l = torch.zeros(8, 5, dtype=torch.float64)
    mask = torch.ones(8, 5)
    mask[2, 3:] = 0
    for ratio in ("token", "sequence", "geometric"):
        level = LADConfig(partition="group", eta=0.25, ratio=ratio)
        assert diagnostics(l, l, advantages, mask, level)["target_mass"] == pytest.approx(1.0, abs=1e-12)


def test_advantages_of_zero_are_neither_good_nor_bad():
    l = torch.full((2, 2), 0.3, dtype=torch.float64)
    got = diagnostics(l, torch.zeros_like(l), torch.zeros(2), torch.ones(2, 2), LADConfig())
    assert got["weight_pos"] == got["weight_neg"] == got["retracting_frac"] == 0.0
    assert got["target_mass"] == 1.0


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_empty_masks_and_batches_give_zeros(shape, ratio):
    config = LADConfig(ratio=ratio)
    junk = torch.full(shape, float("nan"))
    got = diagnostics(junk, junk, junk, torch.zeros(shape), config)
    assert got == dict.fromkeys(NAMES, 0.0)


@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("divergence", ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"])
def test_masked_junk_changes_no_diagnostic_and_extremes_stay_finite(divergence, ratio):
    config = LADConfig(ratio=ratio, divergence=divergence, eta=1e-3)
    l, old, advantages = (torch.randn(4, 5, generator=torch.Generator().manual_seed(s)) * 100 for s in range(3))
    mask = torch.ones(4, 5)
    mask[0, 2:] = 0
    mask[3] = 0
    clean = diagnostics(l, old, advantages, mask, config)
    assert all(math.isfinite(value) for value in clean.values())
    dirty = [x.masked_fill(mask == 0, float("nan")) for x in (l, old, advantages)]
    assert diagnostics(*dirty, mask, config) == clean


def test_diagnostics_carry_no_gradient_and_keep_the_type_of_the_loss():
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        l = torch.zeros(2, 2, dtype=dtype, requires_grad=True)
        _, values = lad_loss(l, torch.zeros(2, 2, dtype=dtype), torch.ones(2), torch.ones(2, 2))
        for scalar in (scalar for pair in values.values() for scalar in pair):
            assert scalar.dtype == expected
            assert not scalar.requires_grad
