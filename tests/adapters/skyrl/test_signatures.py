"""What we use of SkyRL. A release that changes one of these fails here first, by name."""

import ast
import dataclasses
import importlib.util
import inspect

import pytest
from skyrl.backends.skyrl_train.utils import off_policy_correction_utils, ppo_utils
from skyrl.backends.skyrl_train.workers import worker
from skyrl.train.config import AlgorithmConfig, SkyRLTrainConfig, TrainerConfig
from skyrl.train.trainer import RayPPOTrainer

from verl_lad.adapters.skyrl.config import LOSS_REDUCTIONS
from verl_lad.adapters.skyrl.policy_loss import compute_lad_outcome_advantage, compute_policy_loss_lad
from verl_lad.adapters.skyrl.trainer import LADTrainer


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_registries():
    assert names(ppo_utils.PolicyLossRegistry.register) == ["name", "func"]
    assert names(ppo_utils.AdvantageEstimatorRegistry.register) == ["name", "func"]
    assert names(ppo_utils.sync_registries) == []


def test_a_policy_loss_takes_what_ours_takes():
    assert names(compute_policy_loss_lad) == names(ppo_utils.ppo_policy_loss)


@pytest.mark.parametrize("path", ["worker", "megatron.megatron_model_wrapper"])
def test_workers_call_a_policy_loss_as_ours_wants(path):
    found = importlib.util.find_spec(f"skyrl.backends.skyrl_train.workers.{path}")
    with open(found.origin) as file:
        tree = ast.parse(file.read())
    calls = [
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "current_loss_fn"
    ]  # fmt: skip
    assert calls
    for call in calls:
        assert [argument.id for argument in call.args][1:] == ["old_action_log_probs", "advantages"]
        assert [keyword.arg for keyword in call.keywords] == ["config", "loss_mask", "rollout_logprobs"]


def test_an_estimator_gets_what_ours_takes():
    passed = inspect.getsource(ppo_utils.compute_advantages_and_returns)
    for name in names(compute_lad_outcome_advantage)[:-1]:
        assert f"{name}={name}" in passed


def test_the_weights_are_put_into_the_advantages_by_one_method_only():
    assert names(RayPPOTrainer._normalize_advantages) == names(LADTrainer._normalize_advantages)
    assert "_normalize_advantages(data, boundaries, prompt_boundaries)" in inspect.getsource(
        RayPPOTrainer._execute_training_step
    )
    assert "apply_loss_reduction" not in inspect.getsource(worker).replace("`apply_loss_reduction", "")
    source = inspect.getsource(ppo_utils.apply_loss_reduction_to_advantages_minibatch)
    assert all(f'"{mode}"' in source for mode in LOSS_REDUCTIONS["token"])


def test_correction_and_reduction():
    assert names(off_policy_correction_utils.apply_off_policy_correction) == [
        "loss", "old_log_probs", "rollout_logprobs", "loss_mask", "off_policy_correction",
    ]  # fmt: skip
    assert names(ppo_utils.reduce_loss) == ["loss", "loss_mask"]


def test_dataclasses():
    fields = {field.name: field.default for field in dataclasses.fields(AlgorithmConfig)}
    assert fields["policy_loss_type"] == "regular"
    used = {"advantage_batch_normalize", "loss_reduction", "off_policy_correction", "kl_ctrl", "use_kl_in_reward"}
    assert used <= set(fields)
    assert "lad" not in fields, "SkyRL has our key itself now"
    assert "__post_init__" not in vars(AlgorithmConfig), "call it from ours"
    assert {"algorithm", "fully_async"} <= {field.name for field in dataclasses.fields(TrainerConfig)}
    assert names(SkyRLTrainConfig.from_cli_overrides) == ["args"]


def test_the_experiment_builds_its_trainer_by_keyword():
    found = importlib.util.find_spec("skyrl.train.entrypoints.main_base")  # importing it sets the start method
    with open(found.origin) as file:
        tree = ast.parse(file.read())
    calls = [
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self.get_trainer", "RayPPOTrainer")
    ]  # fmt: skip
    assert [call.args for call in calls] == [[], []]
    passed, taken = ({keyword.arg for keyword in call.keywords} for call in calls)
    assert passed == taken <= set(names(RayPPOTrainer.__init__))
