"""What each of verl's trainers hands the loss as old_log_probs, by its own code: pi_old is the policy of those.

The trainers that sample and train at once need accelerators (their weights travel by NCCL): what they hand over is
looked at here, a run of theirs is not ("not run on a GPU by us").
"""

import inspect
import pickle
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.fully_async_policy.fully_async_trainer import FullyAsyncTrainer
from verl.experimental.one_step_off_policy.ray_trainer import OneStepOffRayTrainer
from verl.experimental.separation.ray_trainer import SeparateRayPPOTrainer
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass

from .conftest import compose_verl

LAD = [
    "algorithm.policy_loss=lad",
    "algorithm.adv_estimator=lad",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
]
V1_TRAINERS = [PPOTrainerSync, PPOTrainerColocateAsync, PPOTrainerSeparateAsync]
OFF_POLICY = ("fully_async_ppo_trainer", "one_step_off_ppo_trainer")


def test_both_off_policy_trainers_take_the_step_that_is_tested_below_after_their_workers_are_made():
    for trainer in (FullyAsyncTrainer.__ray_metadata__.modified_class, OneStepOffRayTrainer):
        assert trainer._fit_compute_log_prob.__qualname__ == "SeparateRayPPOTrainer._fit_compute_log_prob"
        assert "apply_bypass_mode" not in inspect.getsource(inspect.getmodule(trainer))
    assert inspect.getsource(inspect.getmodule(SeparateRayPPOTrainer)).count("apply_bypass_mode(") == 1


@pytest.mark.parametrize("config_name", OFF_POLICY)
def test_off_policy_trainers_hand_over_the_rollout_servers_log_probs_and_leave_the_workers_their_loss(config_name):
    """By their own defaults. pi_old is then the stale policy that sampled, and all of the staleness is in the ratio."""
    config = compose_verl(config_name, LAD)
    assert config.algorithm.rollout_correction.bypass_mode is True
    sent = pickle.dumps(config.actor_rollout_ref)  # as Ray sends it to a worker, when it makes the worker
    rollout_log_probs = -torch.rand(2, 3)
    batch = DataProto.from_dict({"rollout_log_probs": rollout_log_probs, "response_mask": torch.ones(2, 3)})
    trainer = SimpleNamespace(config=config, metrics={}, timing_raw={})
    batch = SeparateRayPPOTrainer._fit_compute_log_prob(trainer, batch)
    assert batch.batch["old_log_probs"] is rollout_log_probs
    # verl then writes a loss mode of its own into its driver's configuration (rollout_corr_helper.py:1144), too late
    # for the workers: so a run of the trainer before v1, which does the same, had LAD's metrics (on CPU, verl 0.9.1).
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "bypass_mode"
    assert omega_conf_to_dataclass(pickle.loads(sent).actor).policy_loss.loss_mode == "lad"


@pytest.mark.parametrize("trainer_class", V1_TRAINERS)
def test_v1_copies_the_rollout_servers_log_probs_in_bypass_mode_and_leaves_the_loss(trainer_class, monkeypatch):
    class Queue(SimpleNamespace):
        """TransferQueue's two calls, on one dictionary."""

        def kv_batch_get(self, keys, partition_id, select_fields):
            return {name: self.stored[name] for name in select_fields}

        def kv_batch_put(self, keys, partition_id, fields):
            self.stored |= fields

    rollout_log_probs = -torch.rand(2, 3)
    queue = Queue(stored={"rollout_log_probs": rollout_log_probs})
    monkeypatch.setattr(trainer_base, "tq", queue)
    config = compose_verl("ppo_trainer", [*LAD, "algorithm.rollout_correction.bypass_mode=true"])
    before = OmegaConf.to_container(config.actor_rollout_ref.actor.policy_loss, resolve=True)
    trainer = object.__new__(trainer_class)
    trainer.config = config
    trainer._compute_old_log_prob(SimpleNamespace(keys=["a", "b"], partition_id="train"), metrics={})
    assert queue.stored["old_log_probs"] is rollout_log_probs
    assert OmegaConf.to_container(config.actor_rollout_ref.actor.policy_loss, resolve=True) == before


def test_separate_async_takes_the_weights_of_the_first_step_since_a_sync_for_old_log_probs():
    """Outside bypass mode: pi_old stands still over trainer.v1.separate_async.parameter_sync_step steps."""
    calls = []

    class Workers:
        def __getattr__(self, name):
            return lambda version: calls.append((name, version))

    trainer = object.__new__(PPOTrainerSeparateAsync)
    trainer.config = compose_verl("ppo_trainer", LAD)
    trainer.actor_rollout_wg = Workers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainer_base.PPOTrainer, "_compute_old_log_prob", lambda self, batch, metrics: calls.append("computed")
        )
        for trainer.local_trigger_step in (0, 1):
            trainer._compute_old_log_prob(None, {})
    assert calls == [
        ("save_model_to_cpu", 0),
        "computed",
        ("save_model_to_cpu", 1),
        ("restore_model_from_cpu", 0),
        "computed",
        ("restore_model_from_cpu", 1),
        ("clear_cpu_model", 1),
    ]
