"""What we use of OpenRLHF and Ray. A release that changes one of these fails here first, by name."""

import inspect
from importlib.metadata import version

import pytest
import ray
from openrlhf.cli import train_ppo_ray
from openrlhf.models import PolicyLoss, aggregate_loss
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ray import ppo_actor
from openrlhf.utils.config import hierarchize

from verl_lad.adapters.openrlhf import TESTED_RELEASES, actors
from verl_lad.adapters.openrlhf.actors import undecorated
from verl_lad.adapters.openrlhf.policy_loss import LADPolicyLoss
from verl_lad.adapters.openrlhf.train_ppo_ray import PARAMETERS


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_release_is_a_tested_one():
    assert version("openrlhf") in TESTED_RELEASES


def test_the_policy_loss():
    assert tuple(names(PolicyLoss)) == PARAMETERS
    forward = names(PolicyLoss.forward)
    assert forward[:6] == names(LADPolicyLoss.forward)[:6]
    assert forward[6:] == ["dp_size", "batch_num_tokens", "global_batch_size"]
    source = inspect.getsource(PolicyLoss.forward)
    assert "return loss, clip_ratio, ppo_kl, vllm_kl, is_filter_ratio\n" in source
    assert 'if self.policy_loss_type == "ppo":' in source
    assert names(aggregate_loss)[:3] == ["loss", "loss_mask", "token_level_loss"]


def test_the_actors_trainer_makes_the_loss_calls_it_and_returns_what_is_logged():
    trainer = ppo_actor.ActorPPOTrainer
    assert names(trainer.__init__)[:2] == ["self", "strategy"]
    assert "self.actor_loss_fn = PolicyLoss(" in inspect.getsource(trainer.__init__)
    source = inspect.getsource(trainer.training_step)
    call = source[source.index("self.actor_loss_fn(\n") :]
    passed = [line.strip() for line in call[: call.index("\n        )")].splitlines()[1:]]
    assert passed == [
        "action_log_probs,",
        "old_action_log_probs,",
        "advantages,",
        "action_mask=experience.action_mask,",
        "rollout_log_probs=experience.rollout_log_probs,",
        "**loss_batch_info,",
    ]
    assert '"metrics": metrics,' in source
    assert '"weights": weights,' in source
    logged = inspect.getsource(trainer.ppo_train)
    assert 'scale = n_tokens if weight == "token" else n_samples' in logged


def test_the_classes_that_we_replace_are_taken_from_where_we_put_ours():
    policy = undecorated(ppo_actor.PolicyModelActor).init_model_from_pretrained
    assert names(policy)[:2] == ["self", "strategy"]
    assert "self.trainer = ActorPPOTrainer(\n" in inspect.getsource(policy)
    assert "self.experience_maker = RemoteExperienceMaker(\n" in inspect.getsource(ppo_trainer.BasePPOTrainer.__init__)
    for controller in (ppo_trainer.PPOTrainer, ppo_trainer_async.TrainingActor):
        assert issubclass(undecorated(controller), ppo_trainer.BasePPOTrainer)
        assert names(undecorated(controller).__init__)[:3] == ["self", "pretrain", "strategy"]
    asynchronous = inspect.getsource(undecorated(ppo_trainer_async.PPOTrainerAsync).__init__)
    assert "TrainingActor.remote(\n" in asynchronous
    program = inspect.getsource(train_ppo_ray)
    assert "from openrlhf.trainer.ray.ppo_actor import PolicyModelActor\n" in program
    train = inspect.getsource(train_ppo_ray.train)
    assert "from openrlhf.trainer.ppo_trainer import PPOTrainer\n" in train
    assert "from openrlhf.trainer.ppo_trainer_async import PPOTrainerAsync as PPOTrainer\n" in train


def test_the_program_builds_its_parser_where_we_can_reach_it():
    program = inspect.getsource(train_ppo_ray)
    assert "parser = argparse.ArgumentParser()\n" in program
    assert (
        'parser.add_argument("--actor.policy_loss_type", type=str, default="ppo", choices=["ppo", "gspo"])' in program
    )
    assert program.index("args = parser.parse_args()") < program.index("    train(args)")
    assert names(hierarchize) == ["args"]


def test_the_experience_maker():
    assert names(RemoteExperienceMaker.compute_advantages_and_returns) == ["self", "experiences"]
    assert 'samples.info["logprobs_diff"] = logprobs_diff_mean' in inspect.getsource(RemoteExperienceMaker)
    assert {"index", "rewards", "advantages", "action_mask", "info"} <= set(Experience.__dataclass_fields__)


def test_ray_keeps_the_class_that_it_decorates():
    class Plain:
        pass

    assert undecorated(ray.remote(Plain)) is Plain
    assert undecorated(ray.remote(num_gpus=1)(Plain)) is Plain


@pytest.mark.parametrize("ours", [actors.LADPolicyModelActor, actors.LADPPOTrainer, actors.LADTrainingActor])
def test_methods_that_call_super_are_overridden_since_ray_sends_others_by_value(ours):
    theirs = ours.__mro__[1]
    calling = [
        name for name, method in vars(theirs).items()
        if inspect.isfunction(method) and "__class__" in method.__code__.co_freevars
    ]  # fmt: skip
    assert set(calling) <= set(vars(ours))
    assert inspect.getmodule(theirs) in (ppo_actor, ppo_trainer, ppo_trainer_async)
