"""The section trainer.algorithm.lad on SkyRL's command line."""

import pytest
from omegaconf import OmegaConf
from skyrl.train.config import SkyRLTrainConfig, get_config_as_dict

from verl_lad import LADConfig
from verl_lad.adapters.skyrl.config import LADAlgorithmConfig, LADSkyRLTrainConfig

GROUPED = ("group", "balanced")
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
        ({"lad.eta": 0}, r"trainer\.algorithm\.lad\.eta=0 is not allowed"),
        ({"lad.etta": 1}, r"trainer\.algorithm\.lad\.etta=1 is unknown"),
        ({"lad.divergence": "jensen"}, r"trainer\.algorithm\.lad\.divergence='jensen'"),
        ({"policy_loss_type": "regular"}, r"trainer\.algorithm\.policy_loss_type='regular' \(allowed: 'lad'\)"),
        ({"advantage_batch_normalize": True}, r"advantage_batch_normalize=True \(allowed: False\)"),
        (
            {"lad.ratio": "sequence", "loss_reduction": "sequence_mean"},
            r"loss_reduction='sequence_mean' \(allowed: 'seq_mean_token_sum_norm', 'token_mean'\)",
        ),
        ({"lad.ratio": "geometric"}, r"loss_reduction='token_mean' \(allowed: 'sequence_mean'\)"),
        ({"lad.partition": "group"}, r"advantage_estimator='grpo' \(allowed: 'lad'\)"),
        ({"lad.partition": "balanced"}, r"advantage_estimator='grpo' \(allowed: 'lad'\)"),
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


def test_the_ratio_of_a_response_is_refused_where_each_turn_is_a_row_of_its_own():
    """SkyRL's issue 1278 says so of GSPO."""
    with pytest.raises(ValueError, match=r"step_wise_trajectories=True is not allowed with .*lad\.ratio='sequence'"):
        LADSkyRLTrainConfig.from_cli_overrides(
            ["generator.step_wise_trajectories=true", "trainer.algorithm.lad.ratio=sequence"]
        )


@pytest.mark.parametrize("keys", [ANCHORED, *({"lad.partition": p, "advantage_estimator": "lad"} for p in GROUPED)])
def test_one_response_a_prompt_is_refused_where_groups_are_needed(keys):
    overrides = {f"trainer.algorithm.{key}": value for key, value in keys.items()}
    with pytest.raises(ValueError, match=r"generator\.n_samples_per_prompt=1 is not allowed with .*: 2 or more"):
        LADSkyRLTrainConfig.from_cli_overrides({**overrides, "generator.n_samples_per_prompt": 1})
    assert LADSkyRLTrainConfig.from_cli_overrides({**overrides, "generator.n_samples_per_prompt": 2})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generator.n_samples_per_prompt=1"], ["generator.n_samples_per_prompt=1", "one response a prompt"]),
        (["trainer.algorithm.eps_clip_low=0.1"], ["trainer.algorithm.eps_clip_low", "no effect"]),
        (["trainer.algorithm.use_entropy_loss=true"], ["trainer.algorithm.entropy_loss_coef=0.01"]),
        (["trainer.algorithm.lad.divergence=tv"], ["trainer.algorithm.lad.divergence='tv'"]),
    ],
)
def test_warned_of(arguments, words, caplog):
    LADSkyRLTrainConfig.from_cli_overrides(arguments)
    (message,) = (record.getMessage() for record in caplog.records if record.name.startswith("verl_lad"))
    assert all(word in message for word in words), message


def test_not_warned_of_without_a_key(caplog):
    LADSkyRLTrainConfig.from_cli_overrides([])
    assert [record for record in caplog.records if record.name.startswith("verl_lad")] == []


def test_the_anchor_is_accepted_with_what_it_needs():
    assert algorithm(**ANCHORED).lad.anchor == "reference"
