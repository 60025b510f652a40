"""What we use of Trinity-RFT. A release that changes one of these fails here first, by name."""

import dataclasses
import inspect

from trinity.algorithm.algorithm import AlgorithmType, GRPOAlgorithm
from trinity.algorithm.policy_loss_fn.ppo_policy_loss import PPOPolicyLossFn
from trinity.algorithm.utils import aggregate_loss
from trinity.common.config import AlgorithmConfig
from trinity.common.config_validator import AlgorithmConfigValidator
from trinity.trainer.verl.losses import TrinityPolicyLoss
from trinity.utils.registry import Registry

from verl_lad.adapters.trinity.algorithm import LOSS_AGG_MODES, LADPolicyLossFn


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_a_policy_loss_is_built_and_called_as_ours():
    source = inspect.getsource(TrinityPolicyLoss)
    assert 'backend="verl", **algo_config.policy_loss_fn_args' in source
    assert "self.policy_loss_fn(logprob=log_prob, **model_inputs)" in source
    assert LADPolicyLossFn._select_keys == PPOPolicyLossFn._select_keys
    assert LADPolicyLossFn(loss_agg_mode="token-mean").select_keys == ["old_log_probs", "response_mask", "advantages"]


def test_dotted_names_are_imported():
    assert 'isinstance(module_key, str) and "." in module_key' in inspect.getsource(Registry.get)


def test_aggregation():
    assert names(aggregate_loss) == ["values", "mask", "loss_agg_mode", "normalizer"]
    source = inspect.getsource(aggregate_loss)
    assert all(f'loss_agg_mode == "{mode}"' in source for mode in LOSS_AGG_MODES["token"])


def test_an_algorithm_is_asked_for_its_checks_before_its_defaults():
    source = inspect.getsource(AlgorithmConfigValidator.validate)
    assert source.index("algorithm.check_config(config)") < source.index("algorithm.default_config()")
    assert 'policy_loss_fn_args["loss_agg_mode"] = config.algorithm.loss_agg_mode' in source
    assert issubclass(GRPOAlgorithm, AlgorithmType)
    assert GRPOAlgorithm.default_config()["policy_loss_fn"] == "ppo"
    fields = {field.name for field in dataclasses.fields(AlgorithmConfig)}
    assert {"algorithm_type", "policy_loss_fn", "policy_loss_fn_args", "loss_agg_mode"} <= fields
