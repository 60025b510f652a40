import logging

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from verl.utils.config import omega_conf_to_dataclass

from verl_lad.adapters.verl import checks

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
    "anchored and a KL loss": (
        (*ANCHORED, "actor_rollout_ref.actor.use_kl_loss=true"),
        ["actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.use_kl_loss=False"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_key_value_and_what_is_allowed(case, compose_config):
    overrides, said = REFUSED[case]
    config = compose_config(*overrides, MICRO)
    with pytest.raises(Exception, match=r"not allowed|unknown|contradicts|needs") as error:
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)  # within validate_config, on the driver
    for words in said:
        assert words in str(error.value)
    with pytest.raises(InterpolationResolutionError) as error:
        OmegaConf.resolve(config)  # at the head of every task runner
    for words in said:
        assert words in str(error.value)


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
    "anchored under grpo": ((*ANCHORED, "algorithm.adv_estimator=grpo"), "mass one"),
}


@pytest.mark.parametrize("case", WARNED)
def test_warned_of_once(case, compose_config, caplog):
    overrides, said = WARNED[case]
    checks._warn_once.cache_clear()
    config = compose_config(*overrides, MICRO)
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
    ],
    ids=" ".join,
)
def test_accepted_without_a_warning(overrides, compose_config, caplog):
    checks._warn_once.cache_clear()
    config = compose_config(*overrides, MICRO)
    with caplog.at_level(logging.WARNING, logger="verl_lad"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("verl_lad")] == []
