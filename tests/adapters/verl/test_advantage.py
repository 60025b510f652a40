"""Our estimator inside verl's real compute_advantage, as the task runner calls it."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.core_algos import FixedKLController, get_adv_estimator_fn
from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage

from verl_lad import LADConfig, group_advantages
from verl_lad.adapters.verl.advantage import compute_lad_outcome_advantage

B, T, GROUP = 12, 5, 4


def make_data() -> DataProto:
    generator = torch.Generator().manual_seed(3)
    response_mask = (torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=generator)).long()
    last = response_mask.sum(-1) - 1
    scores = torch.zeros(B, T)
    scores[torch.arange(B), last] = torch.rand(B, generator=generator)
    scores[:GROUP] = 0  # a group of equal scores
    uids = np.array([f"prompt-{i % (B // GROUP)}" for i in range(B)], dtype=object)
    return DataProto.from_dict(
        tensors={
            "response_mask": response_mask,
            "responses": torch.ones(B, T, dtype=torch.long),
            "token_level_scores": scores,
            "token_level_rewards": scores.clone(),
            "old_log_probs": -torch.rand(B, T, generator=generator),
            "ref_log_prob": -torch.rand(B, T, generator=generator),
        },
        non_tensors={"uid": uids},
    )


def algorithm(**keys):
    return OmegaConf.create({"norm_adv_by_std_in_grpo": True, "lad": {}, **keys})


def estimate(name, config, data=None):
    return compute_advantage(
        data or make_data(), adv_estimator=name, norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo, config=config
    ).batch


def test_it_is_what_verl_finds_under_the_name():
    assert get_adv_estimator_fn("lad") is compute_lad_outcome_advantage


@pytest.mark.parametrize("normalised", [True, False])
def test_by_default_it_is_verls_grpo(normalised):
    config = algorithm(norm_adv_by_std_in_grpo=normalised)
    ours, grpo = estimate("lad", config), estimate("grpo", config)
    torch.testing.assert_close(ours["advantages"], grpo["advantages"], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours["returns"], grpo["returns"], rtol=0, atol=1e-6)


def test_partition_group_gives_each_groups_target_mass_one():
    data = make_data()
    config = algorithm(lad={"eta": 0.3, "partition": "group"})
    advantages = estimate("lad", config, data)["advantages"][:, 0].double()
    for uid in set(data.non_tensor_batch["uid"]):
        group = torch.from_numpy(data.non_tensor_batch["uid"] == uid)
        assert float((advantages[group] / 0.3).exp().mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("partition", ["none", "group"])
def test_anchored_through_verls_in_reward_kl_is_the_objectives_formula(partition):
    """u = s / eta - K, centred: algorithm.lad.anchor=reference only has to set verl's own KL keys."""
    eta = 0.25
    data = make_data()
    mask = data.batch["response_mask"]
    K = ((data.batch["old_log_probs"] - data.batch["ref_log_prob"]) * mask).sum(-1)
    scores = data.batch["token_level_scores"].sum(-1)
    uids = data.non_tensor_batch["uid"].tolist()
    data, _ = apply_kl_penalty(data, kl_ctrl=FixedKLController(eta), kl_penalty="kl")
    config = algorithm(norm_adv_by_std_in_grpo=False, lad={"eta": eta, "anchor": "reference", "partition": partition})
    advantages = estimate("lad", config, data)["advantages"]
    settings = LADConfig(eta=eta, anchor="reference", partition=partition)
    expected = group_advantages(scores - eta * K, uids, settings)
    torch.testing.assert_close(advantages, expected.unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)


def test_an_estimator_call_without_uids_is_refused():
    with pytest.raises(ValueError, match="uid"):
        compute_lad_outcome_advantage(torch.ones(2, 3), torch.ones(2, 3), config=algorithm())


def test_bad_settings_are_refused_by_full_key():
    with pytest.raises(ValueError, match=r"algorithm\.lad\.eta=-1"):
        estimate("lad", algorithm(lad={"eta": -1}))


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_a_reward_that_is_not_finite_ends_the_run_and_names_the_response(value):
    data = make_data()
    data.batch["token_level_rewards"][[4, 7], 0] = value
    with pytest.raises(
        ValueError, match=rf"2 of 12 rewards are not finite; the first is {value} for response 4 of"
    ) as said:
        estimate("lad", algorithm(), data)
    assert "(uid prompt-1)" in str(said.value)
    assert estimate("grpo", algorithm(), data)["advantages"].isnan().any(), "verl's own goes on, and drops the update"
    assert "trainer.resume_mode" in str(said.value)
