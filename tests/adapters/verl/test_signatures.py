"""What we use of verl and Hydra. A release that changes one of these fails here first, by name."""

import dataclasses
import inspect

import verl
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from packaging.version import Version
from verl.base_config import BaseConfig
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos, ray_trainer
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.metric import Metric
from verl.workers.config import ActorConfig, PolicyLossConfig
from verl.workers.utils import losses

from verl_lad.adapters.verl.checks import CLIP_KEYS
from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_verl_is_new_enough():
    assert Version(verl.__version__).release >= (0, 9, 0)


def test_registries():
    assert names(core_algos.register_policy_loss) == ["name"]
    assert names(core_algos.register_adv_est) == ["name_or_enum"]
    assert core_algos.POLICY_LOSS_REGISTRY["lad"] is core_algos.get_policy_loss_fn("lad")
    assert core_algos.ADV_ESTIMATOR_REGISTRY["lad"] is core_algos.get_adv_estimator_fn("lad")


def test_agg_loss():
    assert names(core_algos.agg_loss) == [
        "loss_mat",
        "loss_mask",
        "loss_agg_mode",
        "dp_size",
        "batch_num_tokens",
        "global_batch_size",
        "loss_scale_factor",
    ]


def test_ppo_loss_calls_a_policy_loss_with_the_keywords_that_ours_takes():
    assert names(losses.ppo_loss) == ["config", "model_output", "data", "dp_group"]
    vanilla = names(core_algos.get_policy_loss_fn("vanilla"))
    assert names(compute_policy_loss_lad) == vanilla
    source = inspect.getsource(losses.ppo_loss)
    call = source[source.index("policy_loss_fn(\n") :]
    passed = [line.split("=")[0].strip() for line in call[: call.index("\n    )")].splitlines()[1:]]
    assert sorted(passed) == sorted(vanilla)


def test_estimators_are_called_with_the_keywords_that_ours_takes():
    source = inspect.getsource(ray_trainer.compute_advantage)
    for key in ('"token_level_rewards"', '"response_mask"', '"config"', 'adv_kwargs["index"]'):
        assert key in source
    assert names(ray_trainer.apply_kl_penalty) == ["data", "kl_ctrl", "kl_penalty"]


def test_dataclasses():
    actor = {field.name: field for field in dataclasses.fields(ActorConfig)}
    assert {"policy_loss", "global_batch_info", "loss_agg_mode", "entropy_coeff", "use_kl_loss", *CLIP_KEYS} <= set(
        actor
    )
    assert "loss_mode" in {field.name for field in dataclasses.fields(PolicyLossConfig)}
    algorithm = {field.name for field in dataclasses.fields(AlgoConfig)}
    assert {"adv_estimator", "norm_adv_by_std_in_grpo", "use_kl_in_reward", "kl_penalty", "kl_ctrl"} <= algorithm
    assert {"policy_loss", "lad"}.isdisjoint(algorithm), "verl has our keys itself now"
    assert isinstance(BaseConfig._mutable_fields, set)
    assert "__post_init__" not in vars(PolicyLossConfig), "call it from ours"
    assert "__post_init__" not in vars(AlgoConfig), "call it from ours"


def test_the_driver_validates_before_it_starts_workers():
    from verl.trainer import main_ppo

    assert names(validate_config) == ["config", "use_reference_policy", "use_critic"]
    assert "omega_conf_to_dataclass(config.actor_rollout_ref.actor)" in inspect.getsource(validate_config)
    source = inspect.getsource(main_ppo)
    assert source.index("validate_config(\n") < source.index("run_ppo(config, task_runner_class=TaskRunnerV1)")
    assert names(omega_conf_to_dataclass) == ["config", "dataclass_type"]


def test_metric_takes_floats():
    assert Metric.from_dict({"a": 1.5}, aggregation="mean")["a"].aggregate() == 1.5


def test_hydra():
    assert names(Plugins.register) == ["self", "clazz"]
    assert {"scheme", "load_config", "available", "is_group", "is_config", "list"} == set(
        ConfigSource.__abstractmethods__
    )
    assert names(SearchPathPlugin.manipulate_search_path) == ["self", "search_path"]


def test_fsdp_workers_import_a_value_head_from_trl_where_there_is_one():
    """So verl and TRL >= 1.13 do not share an environment (docs/frameworks.md)."""
    from verl.models.transformers import monkey_patch

    source = inspect.getsource(monkey_patch.apply_monkey_patch)
    assert "if is_trl_available():" in source
    assert "from trl.experimental.ppo import AutoModelForCausalLMWithValueHead" in source


def test_ray_calls_what_is_to_follow_a_connection():
    """Where the driver looks into the nodes, before verl starts anything on one of them."""
    from ray._private import worker

    assert isinstance(worker._post_init_hooks, list)
    source = inspect.getsource(worker.init.__wrapped__)
    assert "for hook in _post_init_hooks:\n        hook()" in source
