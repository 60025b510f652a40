"""LADTrainerConfig: what is refused, what is warned of, and the command line."""

import logging
from dataclasses import fields

import pytest
from transformers import HfArgumentParser
from trl import GRPOConfig, TrlParser

from verl_lad import LADConfig
from verl_lad.adapters.trl import LADTrainer, LADTrainerConfig
from verl_lad.adapters.trl.config import AGGREGATIONS
from verl_lad.objective.config import FIELD_NAMES

from .tiny_trainer import make_trainer

ANCHORED = {"lad_anchor": "reference"}


def make_config(tmp_path, **settings):
    return LADTrainerConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lad_eta": 0.0}, "lad_eta=0.0 is not allowed"),
        ({"lad_divergence": "chi"}, "lad_divergence='chi' is unknown"),
        ({"lad_ratio": "word"}, "lad_ratio='word' is not allowed: one of token, sequence, geometric"),
        ({"lad_partition": "batch"}, "lad_partition='batch'"),
        ({"lad_anchor": "base"}, "lad_anchor='base'"),
        ({"lad_ratio": "sequence"}, "loss_type='dapo' does not go with .* allowed is 'luspo', 'dr_grpo'"),
        ({"lad_ratio": "geometric"}, "loss_type='dapo' does not go with .* allowed is 'grpo'"),
        ({"loss_type": "cispo"}, "loss_type='cispo'"),
        ({"delta": 2.0}, "delta=2.0"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence'"),
        ({"use_liger_kernel": True}, "use_liger_kernel=True"),
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy=True does not go with LAD: allowed is False"),
        ({"lad_eta": "a quarter"}, "lad_eta='a quarter'"),
        (ANCHORED | {"beta": 0.1}, "beta=0.1 does not go with .*reference.* allowed is 0.0, 0.25"),
        (ANCHORED | {"scale_rewards": "group"}, "scale_rewards='group' .* allowed is 'none', False"),
        (ANCHORED | {"scale_rewards": "batch"}, "scale_rewards='batch'"),
        (ANCHORED | {"scale_rewards": True}, "scale_rewards=True"),
        (ANCHORED | {"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation"),
        (ANCHORED | {"sync_ref_model": True}, "sync_ref_model=True"),
        ({"lad_fused": True, "beta": 0.1}, "beta=0.1 does not go with .*lad_fused=True: allowed is 0.0"),
        ({"lad_fused": True, "entropy_coef": 0.1}, "entropy_coef=0.1"),
        ({"lad_fused": True, "top_entropy_quantile": 0.5}, "top_entropy_quantile=0.5"),
        ({"lad_fused": True, "off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold=0.5"),
        ({"lad_fused": True, "cast_lm_head_to_fp32": True}, "cast_lm_head_to_fp32=True"),
    ],
)
def test_contradictions_are_refused_by_name(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        make_config(tmp_path, **settings)


def test_verls_preset_can_be_written_in_trls_keys(tmp_path):
    """As docs/frameworks.md has it."""
    preset = {"lad_eta": 0.125, "lad_ratio": "sequence", "loss_type": "luspo", "num_iterations": 4}
    config = make_config(tmp_path, **ANCHORED, **preset)
    assert (config.beta, config.scale_rewards) == (0.125, "none")


@pytest.mark.parametrize(
    "settings", [{"lad_partition": "group"}, {"lad_partition": "balanced"}, {"lad_anchor": "reference"}], ids=str
)
def test_one_response_a_prompt_is_refused_where_every_advantage_would_be_zero(tmp_path, settings):
    with pytest.raises(ValueError, match=r"num_generations=1 does not go with .*lad_partition.* allowed is 2 or more"):
        make_config(tmp_path, num_generations=1, **settings)


def test_one_response_a_prompt_is_warned_of_before_trl_refuses_it(tmp_path, caplog):
    with pytest.raises(ValueError, match="GRPO requires at least 2 generations"):
        make_config(tmp_path, num_generations=1)
    assert "num_generations=1: the advantage of a single response is 0" in caplog.text


def test_beta_is_eta_for_an_anchored_target_and_the_users_own_otherwise(tmp_path):
    assert make_config(tmp_path, lad_eta=0.125, **ANCHORED).beta == 0.125
    assert make_config(tmp_path, lad_eta=0.125, beta=0.125, **ANCHORED).beta == 0.125
    assert make_config(tmp_path, lad_eta=0.125, beta=0.1).beta == 0.1


def test_a_config_of_grpos_is_refused(tmp_path):
    with pytest.raises(TypeError, match="LADTrainerConfig, got GRPOConfig"):
        make_trainer(tmp_path, config=GRPOConfig)
    with pytest.raises(TypeError, match="LADTrainerConfig, got NoneType"):
        LADTrainer("a/model", lambda **_: [])


@pytest.mark.parametrize(("anchor", "scale"), [("old", "group"), ("reference", "none")])
def test_the_anchor_alone_decides_whether_rewards_are_scaled(tmp_path, anchor, scale):
    assert make_config(tmp_path, lad_anchor=anchor).scale_rewards == scale
    assert make_config(tmp_path, lad_anchor=anchor, scale_rewards=False).scale_rewards == "none"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epsilon": 0.3}, "epsilon: LAD does not clip"),
        ({"epsilon_high": 0.28}, "epsilon_high: LAD does not clip"),
        ({"entropy_coef": 0.01}, "entropy_coef=0.01"),
        ({"lad_divergence": "tv"}, "minimiser is not unique"),
        ({"num_generations_eval": 1}, "num_generations_eval=1: the advantage of a single response is 0"),
        ({}, None),
        ({"lad_divergence": "tv", "lad_partition": "group"}, None),
        ({"lad_divergence": "tv"} | ANCHORED, "minimiser is not unique"),
        ({"lad_divergence": "tv", "lad_partition": "group"} | ANCHORED, None),
    ],
)
def test_what_has_no_use_is_warned_of(tmp_path, caplog, settings, words):
    with caplog.at_level(logging.WARNING, logger="verl_lad"):
        make_config(tmp_path, **settings)
    if words is None:
        assert not caplog.records
    else:
        assert words in caplog.text


def test_defaults_are_the_objectives_and_otherwise_trls(tmp_path):
    assert make_config(tmp_path).lad_settings() == LADConfig()
    ours = {one.name: one.default for one in fields(LADTrainerConfig)}
    stock = {one.name: one.default for one in fields(GRPOConfig)}
    assert set(ours) - set(stock) == {f"lad_{name}" for name in FIELD_NAMES} | {"lad_fused"}
    assert {name for name in stock if ours[name] != stock[name]} == {"scale_rewards"}
    assert all(ours["loss_type"] in AGGREGATIONS[ratio] for ratio in ["token"])


@pytest.mark.parametrize("parser", [HfArgumentParser, TrlParser])
def test_every_setting_is_read_from_the_command_line(tmp_path, parser):
    line = {
        "lad_eta": 0.125, "lad_divergence": "alpha", "lad_alpha": 1.5, "lad_ratio": "sequence", "loss_type": "luspo",
        "lad_partition": "group", "lad_anchor": "reference", "lad_max_log_ratio": 10.0, "lad_max_log_weight": 12.0,
        "scale_rewards": "none", "beta": 0.125, "output_dir": str(tmp_path), "bf16": False, "lad_fused": True,
    }  # fmt: skip
    arguments = [part for key, value in line.items() for part in (f"--{key}", str(value))]
    made = parser(LADTrainerConfig)
    (config,) = made.parse_args_into_dataclasses([*arguments, "--use_cpu"])
    assert {key: getattr(config, key) for key in line} == line
    assert config.lad_settings() == LADConfig(0.125, "alpha", 1.5, "sequence", "group", "reference", 10.0, 12.0)
    help_text = made.format_help()
    assert all(f"--lad_{name}" in help_text for name in FIELD_NAMES)
    (plain,) = made.parse_args_into_dataclasses(["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False"])
    assert (plain.lad_settings(), plain.scale_rewards) == (LADConfig(), "group")
