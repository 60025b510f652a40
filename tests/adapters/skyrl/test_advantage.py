"""Our estimator where SkyRL calls it."""

import numpy as np
import pytest
import torch
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch
from skyrl.backends.skyrl_train.utils import ppo_utils

from verl_lad import LADConfig, group_advantages
from verl_lad.adapters.skyrl.policy_loss import register
from verl_lad.objective.config import PARTITIONS

from .test_config import ANCHORED
from .tiny_worker import MASK, B, config, trainer

INDEX = np.array(["a", "a", "a", "b", "b", "c"])


@pytest.fixture(autouse=True)
def registered():
    register()
    yield
    ppo_utils.PolicyLossRegistry.unregister("lad")
    ppo_utils.AdvantageEstimatorRegistry.unregister("lad")


def estimate(name, rewards, cfg):
    algorithm = cfg.trainer.algorithm
    advantages, returns = ppo_utils.compute_advantages_and_returns(
        rewards, MASK.float(), INDEX, name, algorithm, grpo_norm_by_std=algorithm.grpo_norm_by_std
    )
    assert torch.equal(advantages, returns)
    return advantages


def last_token_rewards():
    rewards = torch.zeros(MASK.shape)
    scores = torch.rand(B, generator=torch.Generator().manual_seed(0))
    rewards[torch.arange(B), MASK.sum(-1) - 1] = scores
    return rewards, scores


@pytest.mark.parametrize("by_std", [True, False])
def test_by_default_it_is_skyrls_grpo(by_std):
    rewards, _ = last_token_rewards()
    cfg = config(grpo_norm_by_std=by_std)
    torch.testing.assert_close(estimate("lad", rewards, cfg), estimate("grpo", rewards, cfg), rtol=1e-5, atol=1e-6)


def test_partition_group_gives_each_groups_target_mass_one():
    rewards, _ = last_token_rewards()
    advantages = estimate("lad", rewards, config(**{"lad.partition": "group", "advantage_estimator": "lad"}))
    for prompt in "abc":
        assert (advantages[prompt == INDEX, 0] / 0.25).exp().mean() == pytest.approx(1.0, rel=1e-5)


STEPS = [[0, 1], [2], [3, 4, 5]]
"""The turns of each trajectory, as rows of MASK."""


def test_step_by_step_all_turns_of_a_trajectory_have_its_advantage(monkeypatch):
    """SkyRL's issue 1492, through its own compute_advantages_and_returns."""
    cfg = config(**{"lad.partition": "group", "advantage_estimator": "lad"})
    cfg.generator.step_wise_trajectories = True
    rewards, scores = last_token_rewards()
    data = TrainingInputBatch({"rewards": rewards, "response_mask": MASK, "loss_mask": MASK, "values": None})
    data.metadata = {
        "is_last_step": [row in (steps[-1] for steps in STEPS) for row in range(B)],
        "uids": ["a", "a", "a", "b", "b", "b"],
        "avg_response_length": 1.0,
    }
    skyrl = trainer(cfg)
    skyrl.all_metrics = {}
    advantages = skyrl.compute_advantages_and_returns(data)["advantages"]
    last = torch.tensor([steps[-1] for steps in STEPS])
    wanted = group_advantages(scores[last], ["a", "a", "b"], LADConfig(partition="group"))
    for steps, value in zip(STEPS, wanted, strict=True):
        torch.testing.assert_close(advantages[steps], value * MASK[steps], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_anchored_with_skyrls_kl_in_the_reward_it_is_the_objectives_anchor(partition):
    cfg = config(**ANCHORED, **{"lad.partition": partition})
    rewards, scores = last_token_rewards()
    generator = torch.Generator().manual_seed(1)
    old, reference = (-torch.rand(MASK.shape, generator=generator) for _ in range(2))
    data = TrainingInputBatch(
        {"rewards": rewards, "loss_mask": MASK, "action_log_probs": old, "base_action_log_probs": reference}
    )
    data.metadata = {}
    skyrl = trainer(cfg)
    skyrl.reward_kl_controller = ppo_utils.get_kl_controller(cfg.trainer.algorithm)
    skyrl.all_metrics = {}
    data = skyrl.apply_reward_kl_penalty(data)
    log_ratio = ((old - reference) * MASK).sum(-1)
    settings = LADConfig(anchor="reference", partition=partition)
    wanted = group_advantages(scores - settings.eta * log_ratio, INDEX.tolist(), settings).unsqueeze(-1)
    torch.testing.assert_close(estimate("lad", data["rewards"], cfg), wanted * MASK, rtol=1e-4, atol=1e-5)
