"""Group-relative advantages: verl's own, mass one and the anchored formula. test_balanced.py has the balanced ones."""

import itertools
import math
import os
import uuid
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from verl_lad import LADConfig, group_advantages

from .formulas import DIVERGENCES, IDS


@pytest.fixture(scope="module")
def verl_grpo():
    """(scores, uids, norm_by_std) -> verl's GRPO advantage per response. See test_ratio_levels.py for the import."""
    with pytest.MonkeyPatch.context() as patch:
        if "VERL_USE_EXTERNAL_PLUGINS" not in os.environ:
            patch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
        from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    def grpo(scores: torch.Tensor, uids: np.ndarray, norm_by_std: bool) -> torch.Tensor:
        mask = torch.ones(len(scores), 3, dtype=torch.int64)
        rewards = torch.zeros(len(scores), 3, dtype=scores.dtype)
        rewards[:, -1] = scores
        advantages, _ = compute_grpo_outcome_advantage(rewards, mask, uids, norm_adv_by_std_in_grpo=norm_by_std)
        return advantages[:, 0]

    return grpo


SIZES = [[1], [2], [64], [1, 1, 1], [8] * 5, [*range(1, 65)], [1, 64, 2, 16, 3]]


def shuffled_uids(sizes: list[int], seed: int) -> np.ndarray:
    """One id for each group, shuffled, as an object array of strings: verl's batch.non_tensor_batch["uid"]."""
    uids = np.array([f"{g}-{seed}" for g, n in enumerate(sizes) for _ in range(n)], dtype=object)
    np.random.default_rng(seed).shuffle(uids)
    return uids


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{len(s)}groups-max{max(s)}")
def test_equals_verls_grpo(verl_grpo, sizes, norm_by_std):
    for seed in range(3):
        uids = shuffled_uids(sizes, seed)
        generator = torch.Generator().manual_seed(seed)
        n = len(uids)
        continuous = torch.rand(n, generator=generator, dtype=torch.float64)
        binary = (torch.rand(n, generator=generator) < 0.4).double()
        for scores in (continuous, binary, 10 * continuous - 4):
            ours = group_advantages(scores, uids, norm_by_std=norm_by_std)
            # both in float64: the same number, except that verl adds 1e-6 to a group of one's std, 1, in float32
            theirs = verl_grpo(scores, uids, norm_by_std)
            single = torch.tensor([bool((uids == uid).sum() == 1) for uid in uids])
            torch.testing.assert_close(ours[~single], theirs[~single], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(ours[single], theirs[single], rtol=1e-7, atol=0)
            assert ours.dtype == torch.float64
        for scores in (binary.float(), (continuous * 16).floor().float() / 16):
            # 1e-6, as promised: verl's own arithmetic is float32 here
            ours = group_advantages(scores, uids, norm_by_std=norm_by_std)
            torch.testing.assert_close(ours, verl_grpo(scores, uids, norm_by_std), rtol=1e-6, atol=1e-6)
            assert ours.dtype == torch.float32


@pytest.mark.parametrize("partition", ["none", "group", "balanced"])
@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("score", [0.0, 1.0, 0.1, -0.3, 1e6, 1 / 3])
def test_groups_of_equal_scores_have_advantage_exactly_zero(score, norm_by_std, partition):
    # 0.1 summed in floating point is not 3 * 0.1: rounding noise divided by 1e-6 would be an advantage out of nothing
    for n, dtype in itertools.product((2, 3, 6, 7, 10, 64), (torch.float32, torch.float64)):
        scores = torch.full((n,), score, dtype=dtype)
        assert (group_advantages(scores, [0] * n, LADConfig(partition=partition), norm_by_std) == 0).all()


def test_a_group_of_one_has_its_score_as_advantage():
    scores = torch.tensor([0.7, -2.0, 0.0]).double()
    A = group_advantages(scores, ["a", "b", "c"])
    torch.testing.assert_close(A, scores / (1 + 1e-6), rtol=1e-15, atol=0)
    assert torch.equal(group_advantages(scores, ["a", "b", "c"], norm_by_std=False), scores)
    centred = group_advantages(scores, ["a", "b", "c"], LADConfig(partition="group"))
    assert centred.abs().max() < 1e-15


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("eta", [1e-3, 0.25, 100.0])
def test_partition_group_gives_every_groups_target_mass_one(eta, norm_by_std):
    uids = shuffled_uids([1, 2, 5, 16, 64], 0)
    scores = torch.rand(len(uids), generator=torch.Generator().manual_seed(1)).double() * 3
    A = group_advantages(scores, uids, LADConfig(eta=eta, partition="group"), norm_by_std)
    assert A.isfinite().all()
    plain = group_advantages(scores, uids, LADConfig(eta=eta), norm_by_std)
    for uid in set(uids):
        member = torch.from_numpy(uids == uid)
        # 1e-11: at eta = 1e-3, A / eta is up to 3000 and carries 3000 float64 roundings into the exponent
        assert (A[member] / eta).exp().mean().item() == pytest.approx(1.0, abs=1e-11)
        # only a constant per group is subtracted
        shift = (plain - A)[member]
        assert (shift - shift[0]).abs().max() < 1e-13 * (1 + shift[0].abs())


def test_partition_group_at_eta_1e_3_in_float32():
    scores = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.25])
    A = group_advantages(scores, [0, 0, 0, 1, 1, 1], LADConfig(eta=1e-3, partition="group"))
    assert A.dtype == torch.float32
    mass = (A.double() / 1e-3).exp().view(2, 3).mean(-1)
    # 1e-3: the float32 result is the rounded float64 one; 6e-8 relative of u = 2000 is 1e-4 in the exponent
    torch.testing.assert_close(mass, torch.ones(2).double(), rtol=1e-3, atol=0)


def anchored_by_loop(scores, uids, K, eta) -> list[float]:
    """A = (s - eta K) - eta log mean exp((s - eta K) / eta): section "Anchoring", without a tensor."""
    result = []
    for uid in uids:
        group = [float(s) - eta * float(k) for s, k, other in zip(scores, K, uids, strict=True) if other == uid]
        peak = max(group)
        log_mean = math.log(sum(math.exp((g - peak) / eta) for g in group) / len(group))
        result.append(-(peak + eta * log_mean))
    return [float(s) - eta * float(k) + r for s, k, r in zip(scores, K, result, strict=True)]


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("eta", [1e-3, 0.125, 1.0])
def test_anchored_advantages_are_the_formula(eta, norm_by_std):
    uids = shuffled_uids([1, 2, 5, 16], 3)
    generator = torch.Generator().manual_seed(2)
    scores = (torch.rand(len(uids), generator=generator) < 0.5).double()
    K = torch.randn(len(uids), generator=generator).double() * 5
    config = LADConfig(eta=eta, anchor="reference", partition="group")
    A = group_advantages(scores - eta * K, uids, config, norm_by_std)
    expected = torch.tensor(anchored_by_loop(scores, uids, K, eta), dtype=torch.float64)
    torch.testing.assert_close(A, expected, rtol=1e-12, atol=1e-13)
    for uid in set(uids):
        member = torch.from_numpy(uids == uid)
        assert (A[member] / eta).exp().mean().item() == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
@pytest.mark.parametrize("norm_by_std", [True, False])
def test_anchored_advantages_are_balanced_and_undivided_unless_told_otherwise(name, alpha, norm_by_std):
    uids = shuffled_uids([1, 2, 5, 16], 3)
    scores = torch.randn(len(uids), generator=torch.Generator().manual_seed(2)).double()
    anchored = LADConfig(divergence=name, alpha=alpha, anchor="reference")
    A = group_advantages(scores, uids, anchored, norm_by_std)
    for config in (replace(anchored, partition="balanced"), replace(anchored, anchor="old", partition="balanced")):
        assert torch.equal(A, group_advantages(scores, uids, config, norm_by_std=False))


def test_anchored_advantages_of_a_hand_computed_group():
    # eta = 1, s = (1, 0), K = (0, log 2): exp(u) is proportional to (e, 1/2), with mean one
    A = group_advantages(
        torch.tensor([1.0, 0.0 - math.log(2.0)], dtype=torch.float64),
        [7, 7],
        LADConfig(eta=1.0, anchor="reference", partition="group"),
    )
    expected = [2 * math.e / (math.e + 0.5), 1 / (math.e + 0.5)]
    assert A.exp().tolist() == pytest.approx(expected, rel=1e-14)


def test_anchored_equals_the_unanchored_partition_when_pi_old_is_the_reference():
    scores, uids = torch.rand(12).double(), [0] * 5 + [1] * 7
    anchored = group_advantages(scores, uids, LADConfig(anchor="reference", partition="group"))
    plain = group_advantages(scores, uids, LADConfig(partition="group"), norm_by_std=False)
    torch.testing.assert_close(anchored, plain, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("anchor", ["old", "reference"])
def test_group_ids_of_every_kind_give_the_same_advantages(anchor):
    numbers = [3, 1, 3, 2, 1, 3, 2, 9]
    scores, config = torch.rand(8).double(), LADConfig(anchor=anchor)
    expected = group_advantages(scores, torch.tensor(numbers), config)
    strings = [f"prompt-{n}" for n in numbers]
    for ids in (
        numbers,
        tuple(numbers),
        strings,
        np.array(numbers),
        np.array(strings, dtype=object),
        np.array(strings),
        torch.tensor(numbers, dtype=torch.int32),
        list(torch.tensor(numbers)),
        [(torch.tensor(1), torch.tensor(n)) for n in numbers],
        [uuid.UUID(int=n) for n in numbers],
        [("a", n) for n in numbers],
        ["1" if n == 1 else n for n in numbers],  # mixed types need not be comparable
    ):
        assert torch.equal(group_advantages(scores, ids, config), expected)


class ByIdentity:
    """Equal to no other object."""

    def __repr__(self) -> str:
        return "an object"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", None, "a"], r"group_ids\[1\]=None is not allowed"),
        (np.array([None, "a", "a"], dtype=object), r"group_ids\[0\]=None is not allowed"),
        ([("a", 1), ("a", None), ("a", 1)], r"group_ids\[1\]=None is not allowed"),
        ([1.0, 2.0, math.nan], r"group_ids\[2\]=nan is not allowed: NaN is equal to no other id"),
        (np.array([1.0, math.nan, math.nan]), r"group_ids\[1\]=.*nan.* is not allowed: NaN"),
        (torch.tensor([math.nan, 1.0, 1.0]), r"group_ids\[0\]=nan is not allowed: NaN"),
        (list(torch.tensor([1.0, math.nan, 1.0])), r"group_ids\[1\]=nan is not allowed: NaN"),
        ([("a", 1.0), ("a", math.nan), ("a", 1.0)], r"group_ids\[1\]=nan is not allowed: NaN"),
        ([ByIdentity()] * 3, r"group_ids\[0\]=an object is not allowed: a ByIdentity is not hashed by its value"),
        ([1, ("a", ByIdentity()), 1], r"group_ids\[1\]=an object is not allowed: a ByIdentity"),
        (list(torch.ones(3, 1)), r"group_ids\[0\]=tensor\(\[1\.\]\) is not allowed: a Tensor is not hashed"),
        ([1, [2], 1], r"group_ids\[1\]=\[2\] is not allowed: a list .*; allowed: numbers, strings, and tuples of them"),
        (np.ones((3, 2)), r"group_ids\[0\]=array\(.*\) is not allowed: a ndarray"),
    ],
)
def test_ids_without_a_value_to_compare_are_refused_by_row_and_name(ids, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.zeros(3), ids)


def test_integer_and_boolean_scores_are_float32_advantages():
    ids = [0, 0, 0, 1, 1]
    expected = group_advantages(torch.tensor([1.0, 0.0, 1.0, 3.0, 0.0]), ids)
    A = group_advantages(torch.tensor([1, 0, 1, 3, 0]), ids)
    assert A.dtype == torch.float32
    assert torch.equal(A, expected)
    flags = group_advantages(torch.tensor([True, False, True]), [0, 0, 0])
    assert torch.equal(flags, group_advantages(torch.tensor([1.0, 0.0, 1.0]), [0, 0, 0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_type_of_the_scores_is_kept_and_the_arithmetic_is_float64(dtype):
    scores = torch.tensor([0.5, 0.25, 1.0, 0.0]).to(dtype)
    A = group_advantages(scores, [0, 0, 0, 0])
    assert A.dtype == dtype
    assert torch.equal(A, group_advantages(scores.double(), [0, 0, 0, 0]).to(dtype))


def test_an_empty_batch_has_no_advantages():
    assert group_advantages(torch.zeros(0), []).shape == (0,)
    no_ids = torch.zeros(0, dtype=torch.long)
    assert group_advantages(torch.zeros(0), no_ids, LADConfig(partition="group")).shape == (0,)


def test_scores_are_not_modified_and_carry_no_gradient():
    scores = torch.rand(4, requires_grad=True)
    before = scores.detach().clone()
    A = group_advantages(scores, [0, 0, 1, 1], LADConfig(partition="group"))
    assert torch.equal(scores.detach(), before)
    assert not A.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), [0, 1]), r"scores must be \(B,\), got \(2, 3\)"),
        ((torch.zeros(()), [0]), r"scores must be \(B,\), got \(\)"),
        ((torch.zeros(3), [0, 1]), r"one entry for each of the 3 scores, got 2"),
        ((torch.zeros(3), np.array(["a"], dtype=object)), r"one entry for each of the 3 scores, got 1"),
        ((torch.zeros(3), torch.zeros(4)), r"shape of scores, \(3,\), got \(4,\)"),
        ((torch.zeros(3), torch.zeros(3, 1)), r"shape of scores, \(3,\), got \(3, 1\)"),
    ],
)
def test_errors_name_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(*arguments)


@st.composite
def batches(draw):
    n = draw(st.integers(1, 12))
    scores = draw(st.lists(st.floats(-10, 10, width=32), min_size=n, max_size=n))
    ids = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    return (torch.tensor(x, dtype=torch.float64) for x in (scores, ids)), draw(st.permutations(range(n)))


CONFIGS = [LADConfig(), LADConfig(partition="group"), LADConfig(anchor="reference")]


@pytest.mark.parametrize("config", CONFIGS, ids=["old", "old-centred", "reference"])
@pytest.mark.parametrize("norm_by_std", [True, False])
@settings(max_examples=60)
@given(batch=batches())
def test_permuting_the_responses_permutes_the_advantages(config, norm_by_std, batch):
    (scores, ids), order = batch

    def advantages(rows):
        return group_advantages(scores[rows], ids[rows].long(), config, norm_by_std)

    straight = advantages(list(range(len(scores))))
    # Sums in another order round differently: 1e-15 of the scores. Dividing by a std near 0 would amplify that up to
    # 1 / (std + 1e-6), hence 1e-8.
    tolerance = 1e-8 if norm_by_std and config.anchor == "old" else 1e-12
    torch.testing.assert_close(advantages(list(order)), straight[list(order)], rtol=tolerance, atol=tolerance)


@settings(max_examples=60)
@given(batch=batches())
def test_groups_do_not_see_each_other(batch):
    (scores, ids), _ = batch
    together = group_advantages(scores, ids.long())
    for group in ids.unique():
        alone = group_advantages(scores[ids == group], [0] * int((ids == group).sum()))
        torch.testing.assert_close(together[ids == group], alone, rtol=1e-8, atol=1e-8)


@settings(max_examples=60)
@given(batch=batches(), shift=st.floats(-100, 100))
def test_without_division_advantages_are_invariant_to_a_shift_of_the_scores_and_sum_to_zero(batch, shift):
    (scores, _), _ = batch
    ids = [0] * len(scores)
    if len(scores) > 1:
        A = group_advantages(scores, ids, norm_by_std=False)
        torch.testing.assert_close(group_advantages(scores + shift, ids, norm_by_std=False), A, rtol=0, atol=1e-12)
        assert abs(A.sum().item()) < 1e-12
