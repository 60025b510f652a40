import logging

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils.config import omega_conf_to_dataclass

from verl_lad import LADConfig
from verl_lad.adapters.verl import checks

GROUP = "actor_rollout_ref.rollout.n=4"
ALONE = "actor_rollout_ref.rollout.n=1"
LAD = ("algorithm.policy_loss=lad", "algorithm.adv_estimator=lad")
ANCHORED = (*LAD, "algorithm.lad.anchor=reference", "algorithm.lad.eta=0.125")
MICRO = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"

REFUSED = {
    "eta of zero": ((*LAD, "algorithm.lad.eta=0"), ["algorithm.lad.eta=0", "greater than 0"]),
    "eta negative": ((*LAD, "algorithm.lad.eta=-0.5"), ["algorithm.lad.eta=-0.5", "greater than 0"]),
    "eta no number": ((*LAD, "algorithm.lad.eta=abc"), ["algorithm.lad.eta='abc'", "greater than 0"]),
    "eta infinite": ((*LAD, "algorithm.lad.eta=inf"), ["algorithm.lad.eta=inf", "finite"]),
    "eta null": ((*LAD, "algorithm.lad.eta=null"), ["algorithm.lad.eta=None", "finite"]),
    "unknown divergence": (
        (*LAD, "algorithm.lad.divergence=foo"),
        ["algorithm.lad.divergence='foo'", "js", "hellinger"],
    ),
    "unknown ratio": ((*LAD, "algorithm.lad.ratio=word"), ["algorithm.lad.ratio='word'", "token, sequence, geometric"]),
    "unknown partition": ((*LAD, "algorithm.lad.partition=all"), ["algorithm.lad.partition='all'", "none, group"]),
    "unknown anchor": ((*LAD, "algorithm.lad.anchor=ref"), ["algorithm.lad.anchor='ref'", "old, reference"]),
    "misspelt key": ((*LAD, "algorithm.lad.etta=1"), ["algorithm.lad.etta=1", "algorithm.lad.eta"]),
    "added key": ((*LAD, "+algorithm.lad.beta=1"), ["algorithm.lad.beta=1", "algorithm.lad.eta"]),
    "wrong keys without lad": (("algorithm.lad.eta=-1",), ["algorithm.lad.eta=-1"]),
    "two losses": (
        ("algorithm.policy_loss=lad", "actor_rollout_ref.actor.policy_loss.loss_mode=gspo"),
        ["algorithm.policy_loss='lad'", "loss_mode='gspo'"],
    ),
    "bypass in the legacy trainer": (
        (*LAD, "trainer.use_v1=false", "algorithm.rollout_correction.bypass_mode=true"),
        ["bypass_mode=True", "trainer.use_v1=True"],
    ),
    "partition without our estimator": (
        ("algorithm.policy_loss=lad", "algorithm.adv_estimator=grpo", "algorithm.lad.partition=group"),
        ["algorithm.lad.partition='group'", "algorithm.adv_estimator=lad", "'grpo'"],
    ),
    "anchored without our loss": (
        ("algorithm.adv_estimator=lad", "algorithm.lad.anchor=reference"),
        ["algorithm.lad.anchor='reference'", "algorithm.policy_loss=lad"],
    ),
    "anchored with a critic": (
        ("algorithm.policy_loss=lad", "algorithm.adv_estimator=gae", "algorithm.lad.anchor=reference"),
        ["algorithm.lad.anchor='reference'", "algorithm.adv_estimator='gae'"],
    ),
    "anchored without KL in the reward": (
        (*ANCHORED, "algorithm.use_kl_in_reward=false"),
        ["algorithm.use_kl_in_reward=False", "algorithm.use_kl_in_reward=True"],
    ),
    "anchored with another coefficient": (
        (*ANCHORED, "algorithm.kl_ctrl.kl_coef=0.001"),
        ["algorithm.kl_ctrl.kl_coef=0.001", "algorithm.kl_ctrl.kl_coef=0.125"],
    ),
    "anchored with an adaptive coefficient": (
        (*ANCHORED, "algorithm.kl_ctrl.type=adaptive"),
        ["algorithm.kl_ctrl.type='adaptive'", "'fixed'"],
    ),
    "anchored with another estimate of the KL": (
        (*ANCHORED, "algorithm.kl_penalty=low_var_kl"),
        ["algorithm.kl_penalty='low_var_kl'", "'kl'"],
    ),
    "anchored and normalised": (
        (*ANCHORED, "algorithm.norm_adv_by_std_in_grpo=true"),
        ["algorithm.norm_adv_by_std_in_grpo=True", "algorithm.norm_adv_by_std_in_grpo=False"],
    ),
    "partition of one response": (
        (*LAD, ALONE, "algorithm.lad.partition=group"),
        ["actor_rollout_ref.rollout.n=1", "algorithm.lad.partition='group'", "2 or more"],
    ),
    "balanced partition of one response": (
        (*LAD, ALONE, "algorithm.lad.partition=balanced"),
        ["actor_rollout_ref.rollout.n=1", "algorithm.lad.partition='balanced'", "2 or more"],
    ),
    "partition of one response without our loss": (
        ("algorithm.adv_estimator=lad", ALONE, "algorithm.lad.partition=group"),
        ["actor_rollout_ref.rollout.n=1", "algorithm.lad.partition='group'", "2 or more"],
    ),
    "anchored with one response": (
        (*ANCHORED, ALONE),
        ["actor_rollout_ref.rollout.n=1", "algorithm.lad.anchor='reference'", "2 or more"],
    ),
    "anchored with a number of responses that is text": (
        (*ANCHORED, "actor_rollout_ref.rollout.n='4'"),
        ["actor_rollout_ref.rollout.n='4'", "2 or more"],
    ),
    "balanced without our estimator": (
        ("algorithm.policy_loss=lad", "algorithm.adv_estimator=grpo", "algorithm.lad.partition=balanced"),
        ["algorithm.lad.partition='balanced'", "algorithm.adv_estimator=lad", "'grpo'"],
    ),
    "eta is text": ((*LAD, "algorithm.lad.eta='1/4'"), ["algorithm.lad.eta='1/4'", "text"]),
    "eta is empty text": ((*LAD, "algorithm.lad.eta="), ["algorithm.lad.eta=''", "text"]),
    "eta is text from the environment": ((*LAD, "algorithm.lad.eta=${oc.env:HOME}"), ["algorithm.lad.eta='", "text"]),
    "section is a number": ((*LAD, "algorithm.lad=0.5"), ["algorithm.lad=0.5", "it is a section"]),
    "the loss's copy of the settings": (
        (*LAD, "actor_rollout_ref.actor.policy_loss.lad={eta:0.5}"),
        ["actor_rollout_ref.actor.policy_loss.lad={'eta': 0.5}", "set the keys of algorithm.lad"],
    ),
    "the loss's copy of the settings, wrong": (
        (*LAD, "actor_rollout_ref.actor.policy_loss.lad={eta:-1}"),
        ["actor_rollout_ref.actor.policy_loss.lad.eta=-1 is not allowed"],
    ),
    "the loss's copy of the settings, deleted": (
        (*LAD, "algorithm.lad.eta=0.5", "~actor_rollout_ref.actor.policy_loss.lad"),
        ["actor_rollout_ref.actor.policy_loss.lad=None", "set the keys of algorithm.lad"],
    ),
    "anchored and a KL loss": (
        (*ANCHORED, "actor_rollout_ref.actor.use_kl_loss=true"),
        ["actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.use_kl_loss=False"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_key_value_and_what_is_allowed(case, compose_config):
    overrides, said = REFUSED[case]
    config = compose_config(GROUP, *overrides, MICRO)
    with pytest.raises(Exception, match=r"not allowed|unknown|contradicts|needs") as error:
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)  # within validate_config, on the driver
    for words in said:
        assert words in str(error.value)
    with pytest.raises(InterpolationResolutionError) as error:
        OmegaConf.resolve(config)  # at the head of every task runner
    for words in said:
        assert words in str(error.value)


def refusal(config) -> str:
    with pytest.raises(InterpolationResolutionError) as error:
        OmegaConf.resolve(config)
    return str(error.value)


@pytest.mark.parametrize("name", ["LAD", "lda", "null", "", "AdvantageEstimator.LAD", "[lad]"])
@pytest.mark.parametrize("key", [checks.POLICY_LOSS, checks.LOSS_MODE, checks.ESTIMATOR])
def test_a_name_that_verl_does_not_hold_is_refused_with_those_that_it_holds(key, name, compose_config):
    message = refusal(compose_config("algorithm.adv_estimator=grpo", f"{key}={name}"))
    value = {"null": "None", "[lad]": "['lad']"}.get(name, repr(name))
    assert f"{key}={value} is not allowed" in message
    registry = core_algos.ADV_ESTIMATOR_REGISTRY if key == checks.ESTIMATOR else core_algos.POLICY_LOSS_REGISTRY
    assert "lad" in registry
    assert f"verl holds {', '.join(sorted(registry))}." in message


@pytest.mark.parametrize("value", ["null", "lad"])
def test_a_value_in_place_of_the_policy_loss_section_is_refused(value, compose_config):
    message = refusal(compose_config(*LAD, f"actor_rollout_ref.actor.policy_loss={value}"))
    assert "actor_rollout_ref.actor.policy_loss=" in message
    assert "it is a section. To choose a loss, set algorithm.policy_loss" in message


def test_a_name_that_somebody_else_registers_in_verl_is_accepted(compose_config, monkeypatch):
    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "mine", core_algos.get_policy_loss_fn("vanilla"))
    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "mine", core_algos.get_adv_estimator_fn("grpo"))
    config = compose_config("algorithm.policy_loss=mine", "algorithm.adv_estimator=mine")
    OmegaConf.resolve(config)
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "mine"


def test_a_name_that_an_external_library_may_register_in_the_workers_is_warned_of(compose_config, caplog):
    checks._warn_once.cache_clear()
    config = compose_config("algorithm.policy_loss=mine", "actor_rollout_ref.model.external_lib=my_models")
    with caplog.at_level(logging.WARNING, logger="verl_lad"):
        OmegaConf.resolve(config)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("verl_lad")]
    assert "algorithm.policy_loss='mine'" in message
    assert "actor_rollout_ref.model.external_lib=my_models" in message


@pytest.mark.parametrize("key", [checks.LOSS_MODE, checks.ESTIMATOR])
def test_a_run_that_asks_nothing_of_us_may_register_its_names_later(key, compose_config, caplog):
    checks._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="verl_lad"):
        OmegaConf.resolve(compose_config("algorithm.adv_estimator=grpo", f"{key}=mine"))
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("verl_lad")]
    assert f"{key}='mine'" in message
    assert f"{key}='mine' is not allowed" in refusal(compose_config(*LAD, f"{key}=mine"))


def test_a_name_that_another_package_took_after_us_is_refused(compose_config, monkeypatch):
    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "lad", core_algos.get_policy_loss_fn("vanilla"))
    message = refusal(compose_config(*LAD))
    assert "another package has registered the name" in message
    assert "verl-lad doctor" in message


TYPED = {
    "quoted number": (["algorithm.lad.eta='0.5'"], LADConfig(eta=0.5)),
    "double-quoted number": (['algorithm.lad.eta="5e-1"'], LADConfig(eta=0.5)),
    "number from the environment": (["algorithm.lad.eta=${oc.env:LAD_TEST_ETA}"], LADConfig(eta=0.5)),
    "limits as text": (["algorithm.lad.max_log_ratio='10'"], LADConfig(max_log_ratio=10.0)),
    "no section": (["~algorithm.lad"], LADConfig()),
    "null section": (["algorithm.lad=null"], LADConfig()),
    "no eta": (["~algorithm.lad.eta"], LADConfig()),
    "section in one": (["algorithm.lad={eta:0.5,divergence:hd}"], LADConfig(eta=0.5, divergence="hd")),
    "anchored, quoted number": (
        ["algorithm.lad.anchor=reference", "algorithm.lad.eta='0.5'"],
        LADConfig(eta=0.5, anchor="reference"),
    ),
    "anchored, no eta": (["algorithm.lad.anchor=reference", "~algorithm.lad.eta"], LADConfig(anchor="reference")),
    "the loss's copy, equal": (["actor_rollout_ref.actor.policy_loss.lad={eta:0.25}"], LADConfig()),
}


@pytest.mark.parametrize("case", TYPED)
def test_loss_and_estimator_get_the_same_settings_however_they_are_typed(case, compose_config, monkeypatch):
    monkeypatch.setenv("LAD_TEST_ETA", "0.5")
    overrides, expected = TYPED[case]
    config = compose_config(*LAD, GROUP, MICRO, *overrides)
    OmegaConf.resolve(config)
    assert omega_conf_to_dataclass(config.actor_rollout_ref.actor).policy_loss.lad == expected
    assert omega_conf_to_dataclass(config.algorithm).lad == expected
    if expected.anchor == "reference":
        assert config.algorithm.kl_ctrl.kl_coef == expected.eta


def anchored_advantages(estimator: str, config) -> torch.Tensor:
    """Compute the advantages of four responses to one prompt and two to another, as verl's v1 trainer does."""
    data = DataProto.from_dict(
        tensors={"token_level_rewards": SCORES[:, None], "response_mask": torch.ones(6, 1)},
        non_tensors={"uid": np.array(UIDS, dtype=object)},
    )
    keys = [f"{uid}_{session}_0" for session, uid in enumerate(UIDS)]
    arguments = {
        "adv_estimator": estimator,
        "norm_adv_by_std_in_grpo": config.algorithm.norm_adv_by_std_in_grpo,
        "config": config.algorithm,
    }
    batch = compute_advantage_for_multi_trajectories(data, batch_keys=keys, **arguments).batch["advantages"]
    assert torch.equal(compute_advantage(data, **arguments).batch["advantages"], batch)  # the trainer before v1
    return batch.squeeze(-1)


SCORES = torch.tensor([1.0, 0.0, 0.25, 0.0, 3.0, -2.0])
UIDS = ["a", "a", "a", "a", "b", "b"]


@pytest.mark.parametrize("estimator", checks.ANCHORED_ESTIMATORS)
def test_an_estimator_allowed_with_the_anchor_subtracts_a_constant_from_each_group_alone(estimator, compose_config):
    config = compose_config(*ANCHORED, GROUP, f"algorithm.adv_estimator={estimator}")
    OmegaConf.resolve(config)
    subtracted = SCORES - anchored_advantages(estimator, config)
    for group in (subtracted[:4], subtracted[4:]):
        torch.testing.assert_close(group, group[:1].expand_as(group))
        assert group[0] != 0


def test_grpo_vectorized_divides_by_the_standard_deviation_whatever_the_flag_says(compose_config):
    """Observed in verl 0.9.1, which never hands it norm_adv_by_std_in_grpo; so it is not in ANCHORED_ESTIMATORS."""
    config = compose_config("algorithm.adv_estimator=grpo_vectorized", "algorithm.norm_adv_by_std_in_grpo=false")
    advantages = anchored_advantages("grpo_vectorized", config)
    assert not torch.isclose(advantages[4] - advantages[5], SCORES[4] - SCORES[5], rtol=0.1)


@pytest.mark.parametrize("estimator", sorted(set(core_algos.ADV_ESTIMATOR_REGISTRY) - set(checks.ANCHORED_ESTIMATORS)))
def test_every_other_estimator_of_verl_is_refused_with_the_anchor(estimator, compose_config):
    message = refusal(compose_config(*ANCHORED, GROUP, f"algorithm.adv_estimator={estimator}"))
    assert "algorithm.lad.anchor='reference' needs algorithm.adv_estimator=lad or grpo" in message
    assert f"algorithm.adv_estimator='{estimator}'" in message


WARNED = {
    "sequence under token-mean": ((*LAD, "algorithm.lad.ratio=sequence"), "loss_agg_mode='seq-mean-token-sum'"),
    "geometric under token-mean": ((*LAD, "algorithm.lad.ratio=geometric"), "loss_agg_mode='seq-mean-token-mean'"),
    "gae": (("algorithm.policy_loss=lad",), "algorithm.adv_estimator='gae'"),
    "clip": ((*LAD, "actor_rollout_ref.actor.clip_ratio_high=0.28"), "actor_rollout_ref.actor.clip_ratio_high"),
    "entropy": ((*LAD, "actor_rollout_ref.actor.entropy_coeff=0.001"), "actor_rollout_ref.actor.entropy_coeff=0.001"),
    "tv without partition": ((*LAD, "algorithm.lad.divergence=tv"), "algorithm.lad.partition='group'"),
    "no loss scale": (
        (*LAD, "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm"),
        "set actor_rollout_ref.actor.loss_scale_factor",
    ),
    "keys without effect": (("algorithm.adv_estimator=grpo", "algorithm.lad.eta=0.5"), "no effect"),
    "preset without effect": (("algorithm.adv_estimator=grpo", "algorithm.lad.preset=diverse"), "no effect"),
    "anchored under grpo": ((*ANCHORED, "algorithm.adv_estimator=grpo"), "'balanced' is not subtracted"),
    "tv with balanced partition": (
        (*LAD, "algorithm.lad.divergence=tv", "algorithm.lad.partition=balanced"),
        "algorithm.lad.partition='group'",
    ),
    "one response": ((*LAD, ALONE), "actor_rollout_ref.rollout.n=1: one response a prompt"),
    "one response under grpo": (
        ("algorithm.policy_loss=lad", "algorithm.adv_estimator=grpo", ALONE),
        "actor_rollout_ref.rollout.n=1: one response a prompt",
    ),
    "one response without our loss": (
        ("algorithm.adv_estimator=lad", ALONE),
        "actor_rollout_ref.rollout.n=1: one response a prompt",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_warned_of_once(case, compose_config, caplog):
    overrides, said = WARNED[case]
    checks._warn_once.cache_clear()
    config = compose_config(GROUP, *overrides, MICRO)
    with caplog.at_level(logging.WARNING, logger="verl_lad"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        OmegaConf.resolve(config)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("verl_lad")]
    assert len([message for message in messages if said in message]) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        LAD,
        ANCHORED,
        ("algorithm.policy_loss=lad", "algorithm.adv_estimator=grpo"),
        ("algorithm.adv_estimator=lad",),
        ("algorithm.adv_estimator=grpo",),
        (*LAD, "algorithm.lad.ratio=sequence", "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum"),
        (*LAD, "algorithm.lad.partition=group", "algorithm.lad.divergence=tv"),
        (
            *LAD,
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm",
            "actor_rollout_ref.actor.loss_scale_factor=16",
        ),
        (*LAD, "algorithm.rollout_correction.bypass_mode=true"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=lad", "algorithm.adv_estimator=lad", "algorithm.lad.eta=1"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=gspo", "algorithm.adv_estimator=grpo"),
        (*LAD, "algorithm.lad.partition=balanced"),
        ("algorithm.adv_estimator=grpo", ALONE),
        ("algorithm.adv_estimator=grpo_vectorized", "algorithm.policy_loss=lad"),
        ("~algorithm.policy_loss", "algorithm.adv_estimator=grpo"),
    ],
    ids=" ".join,
)
def test_accepted_without_a_warning(overrides, compose_config, caplog):
    checks._warn_once.cache_clear()
    config = compose_config(GROUP, *overrides, MICRO)
    with caplog.at_level(logging.WARNING, logger="verl_lad"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("verl_lad")] == []
