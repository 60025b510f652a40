"""The section trainer.algorithm.lad on SkyRL's command line."""

import pytest
from omegaconf import OmegaConf
from skyrl.train.config import SkyRLTrainConfig, get_config_as_dict

from verl_lad import LADConfig
from verl_lad.adapters.skyrl.config import LADAlgorithmConfig, LADSkyRLTrainConfig

ANCHORED = {
    "lad.anchor": "reference", "advantage_estimator": "lad", "use_kl_in_reward": True, "use_kl_loss": False,
    "kl_estimator_type": "k1", "kl_loss_coef": 0.25, "grpo_norm_by_std": False,
}  # fmt: skip


def algorithm(**keys) -> LADAlgorithmConfig:
    arguments = [f"trainer.algorithm.{key}={value}" for key, value in keys.items()]
    return LADSkyRLTrainConfig.from_cli_overrides(arguments).trainer.algorithm


def test_with_no_key_it_is_skyrls_own_configuration_with_the_loss_lad():
    ours = get_config_as_dict(LADSkyRLTrainConfig.from_cli_overrides([]))
    stock = get_config_as_dict(SkyRLTrainConfig.from_cli_overrides([]))
    assert ours["trainer"]["algorithm"].pop("lad") == get_config_as_dict(algorithm())["lad"]
    assert ours["trainer"]["algorithm"].pop("policy_loss_type") == "lad"
    assert stock["trainer"]["algorithm"].pop("policy_loss_type") == "regular"
    assert ours == stock


def test_the_command_line_sets_the_settings_and_they_survive_the_workers_overrides():
    made = algorithm(**{"lad.eta": 0.5, "lad.divergence": "kl", "lad.max_log_ratio": 10})
    assert made.lad == LADConfig(eta=0.5, divergence="kl", max_log_ratio=10)
    # what a worker does with loss_fn_config
    again = type(made).from_dict_config(OmegaConf.create(get_config_as_dict(made)))
    assert again == made


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lad.eta": 0}, "eta=0"),
        ({"lad.etta": 1}, "etta"),
        ({"lad.divergence": "jensen"}, "divergence='jensen'"),
        ({"policy_loss_type": "regular"}, r"trainer\.algorithm\.policy_loss_type='regular' \(allowed: 'lad'\)"),
        ({"advantage_batch_normalize": True}, r"advantage_batch_normalize=True \(allowed: False\)"),
        (
            {"lad.ratio": "sequence", "loss_reduction": "sequence_mean"},
            r"loss_reduction='sequence_mean' \(allowed: 'seq_mean_token_sum_norm', 'token_mean'\)",
        ),
        ({"lad.ratio": "geometric"}, r"loss_reduction='token_mean' \(allowed: 'sequence_mean'\)"),
        ({"lad.partition": "group"}, r"advantage_estimator='grpo' \(allowed: 'lad'\)"),
        *(
            ({key: value for key, value in ANCHORED.items() if key != left_out}, left_out)
            for left_out in ANCHORED
            if left_out != "lad.anchor"
        ),
        ({**ANCHORED, "lad.eta": 0.5}, r"kl_loss_coef=0\.25 \(allowed: 0\.5\)"),
        ({**ANCHORED, "kl_ctrl.type": "adaptive"}, r"kl_ctrl\.type='adaptive'"),
    ],
)
def test_contradictions_are_refused_by_name(keys, words):
    with pytest.raises(ValueError, match=words):
        algorithm(**keys)


def test_trainers_for_which_it_is_not_made_are_refused():
    with pytest.raises(ValueError, match=r"trainer\.fully_async\.enabled=True is not allowed"):
        LADSkyRLTrainConfig.from_cli_overrides(["trainer.fully_async.enabled=true"])
    anchored = {f"trainer.algorithm.{key}": value for key, value in ANCHORED.items()}
    with pytest.raises(ValueError, match=r"generator\.step_wise_trajectories=True is not allowed"):
        LADSkyRLTrainConfig.from_cli_overrides({**anchored, "generator.step_wise_trajectories": True})
    assert LADSkyRLTrainConfig.from_cli_overrides(["generator.step_wise_trajectories=true"])


def test_the_anchor_is_accepted_with_what_it_needs():
    assert algorithm(**ANCHORED).lad.anchor == "reference"
