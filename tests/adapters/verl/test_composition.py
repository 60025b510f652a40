import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass, validate_config

from verl_lad import LADConfig
from verl_lad.adapters.verl.composition import merged_ppo_trainer
from verl_lad.adapters.verl.presets import PRESETS, WHEN_ANCHORED
from verl_lad.adapters.verl.settings import LADAlgoConfig, LADPolicyLossConfig

from .conftest import CONFIG_DIRS

TESTS = Path(__file__).parents[2]
OURS = ("algorithm.policy_loss", "algorithm.lad.", "actor_rollout_ref.actor.policy_loss.lad.")
OUR_TARGETS = {
    "algorithm._target_": "verl_lad.adapters.verl.settings.LADAlgoConfig",
    "actor_rollout_ref.actor.policy_loss._target_": "verl_lad.adapters.verl.settings.LADPolicyLossConfig",
}
MICRO = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"


def flatten(node, prefix=""):
    if isinstance(node, dict) and node:
        return {key: value for name, child in node.items() for key, value in flatten(child, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): node}


@pytest.fixture(scope="module")
def stock():
    """verl's configurations as composed by a process in which no plugin was loaded."""
    result = subprocess.run(
        [sys.executable, "-m", "adapters.verl.stock_configs"],
        env={**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none", "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])},
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout[result.stdout.index("{") :])


@pytest.mark.parametrize("config_name", CONFIG_DIRS)
def test_without_our_keys_a_configuration_differs_from_stock_verl_in_our_neutral_keys_alone(
    config_name, compose_config, stock
):
    ours = flatten(
        json.loads(json.dumps(OmegaConf.to_container(compose_config(config_name=config_name), resolve=True)))
    )
    theirs = flatten(stock[config_name])
    assert [key for key in theirs if key not in ours] == []
    added = [key for key in ours if key not in theirs]
    assert [key for key in added if not key.startswith(OURS)] == []
    assert {key: ours[key] for key in theirs if ours[key] != theirs[key]} == OUR_TARGETS
    assert ours["algorithm.policy_loss"] == "vanilla"


@pytest.mark.parametrize("config_name", CONFIG_DIRS)
def test_every_trainer_takes_the_keys(config_name, compose_config):
    config = compose_config(
        "algorithm.policy_loss=lad", "algorithm.adv_estimator=lad", "algorithm.lad.eta=0.5", config_name=config_name
    )
    assert config.algorithm.adv_estimator == "lad"
    policy_loss = config.actor_rollout_ref.actor.policy_loss
    assert policy_loss.loss_mode == "lad"
    assert policy_loss.lad.eta == 0.5
    OmegaConf.resolve(config)
    assert config.actor_rollout_ref.actor.policy_loss.lad.eta == 0.5


def test_the_yaml_defaults_are_those_of_the_objective():
    keys = dict(merged_ppo_trainer().algorithm.lad)
    assert keys.pop("preset") == "none"
    assert LADConfig(**keys) == LADConfig()


def test_verl_makes_our_dataclasses_of_it_and_accepts_them(compose_config):
    config = compose_config(
        "algorithm.policy_loss=lad",
        "algorithm.adv_estimator=grpo",
        "algorithm.lad.divergence=hd",
        MICRO,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
    )
    validate_config(config, use_reference_policy=False, use_critic=False)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(actor.policy_loss, LADPolicyLossConfig)
    assert actor.policy_loss.lad == LADConfig(divergence="hd")
    algorithm = omega_conf_to_dataclass(config.algorithm)
    assert isinstance(algorithm, LADAlgoConfig)
    assert algorithm.lad == LADConfig(divergence="hd")


def test_the_workers_dataclass_survives_resolving_and_pickling(compose_config):
    """What verl's task runner does before it sends the configuration to a worker."""
    import cloudpickle

    config = compose_config("algorithm.policy_loss=lad", "algorithm.lad.eta=2", MICRO)
    OmegaConf.resolve(config)
    arrived = cloudpickle.loads(cloudpickle.dumps(config.actor_rollout_ref))
    actor = omega_conf_to_dataclass(arrived.actor)
    assert actor.policy_loss.lad.eta == 2
    assert cloudpickle.loads(cloudpickle.dumps(actor)).policy_loss.lad == actor.policy_loss.lad


def test_anchor_reference_alone_sets_in_reward_kl_and_unnormalised_advantages(compose_config):
    config = compose_config(
        "algorithm.policy_loss=lad",
        "algorithm.adv_estimator=lad",
        "algorithm.lad.anchor=reference",
        "algorithm.lad.eta=0.125",
        "actor_rollout_ref.rollout.n=4",
    )
    assert {key: OmegaConf.select(config, key) for key in WHEN_ANCHORED} == {
        "algorithm.use_kl_in_reward": True,
        "algorithm.norm_adv_by_std_in_grpo": False,
        "algorithm.kl_ctrl.kl_coef": 0.125,
    }
    from verl.trainer.ppo.utils import need_reference_policy

    assert need_reference_policy(config)


@pytest.mark.parametrize("setting", ["algorithm.lad.anchor=reference", "algorithm.lad.preset=diverse"])
def test_in_a_run_without_lad_neither_anchor_nor_preset_changes_a_key_of_verls(compose_config, setting):
    stock, config = (compose_config("algorithm.adv_estimator=grpo", *more) for more in ((), (setting,)))
    for key in (*WHEN_ANCHORED, "actor_rollout_ref.actor.ppo_epochs", "actor_rollout_ref.actor.loss_agg_mode"):
        assert OmegaConf.select(config, key) == OmegaConf.select(stock, key)


DIVERSE = ("algorithm.policy_loss=lad", "algorithm.adv_estimator=lad", "algorithm.lad.preset=diverse")


def test_a_preset_sets_its_keys_and_the_anchors_and_reaches_the_workers_dataclass(compose_config):
    config = compose_config(*DIVERSE, "actor_rollout_ref.rollout.n=4", MICRO)
    expected = {**PRESETS["diverse"], "algorithm.use_kl_in_reward": True, "algorithm.kl_ctrl.kl_coef": 0.125}
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    OmegaConf.resolve(config)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert (actor.ppo_epochs, actor.loss_agg_mode) == (4, "seq-mean-token-sum")
    assert actor.policy_loss.lad == LADConfig(eta=0.125, ratio="sequence", anchor="reference")


def test_what_the_user_sets_wins_over_a_preset(compose_config):
    config = compose_config(
        *DIVERSE,
        "algorithm.lad.eta=0.5",
        "actor_rollout_ref.actor.ppo_epochs=2",
        "actor_rollout_ref.rollout.n=4",
    )
    assert config.algorithm.kl_ctrl.kl_coef == config.algorithm.lad.eta == 0.5
    assert config.actor_rollout_ref.actor.ppo_epochs == 2
    assert config.algorithm.lad.ratio == "sequence"


def test_a_preset_that_is_not_there_is_refused_with_those_that_are(compose_config):
    with pytest.raises(Exception, match=r"algorithm\.lad\.preset='divers' is not allowed: one of none, diverse"):
        compose_config(*DIVERSE[:2], "algorithm.lad.preset=divers").algorithm._target_  # noqa: B018


def compose_in(directory: Path, config_name: str, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base=None):
        return compose(config_name, overrides=list(overrides))


def test_a_recipe_that_inherits_verls_config_by_search_path_gets_the_keys(tmp_path):
    (tmp_path / "my_trainer.yaml").write_text(
        "hydra:\n  searchpath:\n    - pkg://verl.trainer.config\n"
        "defaults:\n  - ppo_trainer\n  - _self_\nmy_key: 1\nalgorithm:\n  adv_estimator: grpo\n"
    )
    config = compose_in(tmp_path, "my_trainer", "algorithm.policy_loss=lad", "algorithm.lad.eta=0.5")
    assert config.actor_rollout_ref.actor.policy_loss.lad.eta == 0.5
    assert config.my_key == 1


def test_a_foreign_application_with_its_own_ppo_trainer_keeps_it(tmp_path):
    (tmp_path / "ppo_trainer.yaml").write_text("mine: true\n")
    assert compose_in(tmp_path, "ppo_trainer") == {"mine": True}


def test_a_foreign_application_without_verl_is_left_alone(tmp_path):
    (tmp_path / "app.yaml").write_text("a: 1\n")
    assert compose_in(tmp_path, "app", "a=2") == {"a": 2}
