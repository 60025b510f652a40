"""The flags in OpenRLHF's own program: what it starts Ray with, what is refused before, and what is warned of."""

import dataclasses
import logging
from argparse import ArgumentParser

import pytest

from verl_lad import LADConfig
from verl_lad.adapters.openrlhf.arguments import AGGREGATIONS, LOSS_TYPE, PREFIX, lad_arguments, lad_config
from verl_lad.objective.config import RATIOS

LAD = (LOSS_TYPE, "lad", "--algo.advantage.estimator", "dr_grpo", "--rollout.n_samples_per_prompt", "4")
NO_KL = ("--algo.kl.init_coef", "0")
ANCHORED = (*LAD, f"{PREFIX}anchor", "reference", f"{PREFIX}eta", "0.125", "--algo.kl.init_coef", "0.125")
GROUP = (*LAD, *NO_KL, f"{PREFIX}partition", "group")
SINGLE = ("--algo.advantage.estimator", "reinforce", "--rollout.n_samples_per_prompt", "1")

REFUSED = {
    "eta of zero": ((*LAD, f"{PREFIX}eta", "0"), ["--actor.lad.eta=0.0", "greater than 0"]),
    "eta not a number": ((*LAD, f"{PREFIX}eta", "nan"), ["--actor.lad.eta=nan", "greater than 0"]),
    "unknown divergence": ((*LAD, f"{PREFIX}divergence", "foo"), ["--actor.lad.divergence='foo'", "js", "hellinger"]),
    "alpha of one": (
        (*LAD, f"{PREFIX}divergence", "alpha", f"{PREFIX}alpha", "1"),
        ["--actor.lad.alpha=1.0", "'kl'"],
    ),
    "unknown ratio": ((*LAD, f"{PREFIX}ratio", "word"), ["--actor.lad.ratio='word'", "token, sequence, geometric"]),
    "unknown partition": ((*LAD, f"{PREFIX}partition", "all"), ["--actor.lad.partition='all'", "none, group"]),
    "unknown anchor": ((*LAD, f"{PREFIX}anchor", "ref"), ["--actor.lad.anchor='ref'", "old, reference"]),
    "max_log_ratio": ((*LAD, f"{PREFIX}max_log_ratio", "99"), ["--actor.lad.max_log_ratio=99.0", "21"]),
    "max_log_weight": ((*LAD, f"{PREFIX}max_log_weight", "0"), ["--actor.lad.max_log_weight=0.0", "0.001"]),
    "wrong settings without lad": ((f"{PREFIX}eta", "-1"), ["--actor.lad.eta=-1.0"]),
    "sequence by sequence means": (
        (*LAD, *NO_KL, f"{PREFIX}ratio", "sequence", "--actor.loss_agg_mode", "seq-mean-token-mean"),
        ["--actor.loss_agg_mode 'seq-mean-token-mean'", "--actor.lad.ratio sequence", "allowed is 'token-mean'"],
    ),
    "geometric by token means": (
        (*LAD, *NO_KL, f"{PREFIX}ratio", "geometric"),
        ["--actor.loss_agg_mode 'token-mean'", "--actor.lad.ratio geometric", "allowed is 'seq-mean-token-mean'"],
    ),
    "anchored with the default KL": (
        (*LAD, f"{PREFIX}anchor", "reference"),
        ["--algo.kl.init_coef 0.01", "--actor.lad.anchor reference", "allowed is 0.25"],
    ),
    "anchored with KL as a loss": ((*ANCHORED, "--algo.kl.use_loss"), ["--algo.kl.use_loss True", "allowed is False"]),
    "anchored with another estimate of KL": (
        (*ANCHORED, "--algo.kl.estimator", "k3"),
        ["--algo.kl.estimator 'k3'", "allowed is 'k1'"],
    ),
    "anchored with a moving coefficient": (
        (*ANCHORED, "--algo.kl.target", "6"),
        ["--algo.kl.target 6.0", "allowed is None"],
    ),
    "anchored and normalised": (
        (*ANCHORED, "--algo.advantage.estimator", "group_norm"),
        ["--algo.advantage.estimator 'group_norm'", "allowed is 'dr_grpo'"],
    ),
    "anchored without groups": (
        (*ANCHORED, "--rollout.n_samples_per_prompt", "1"),
        ["--rollout.n_samples_per_prompt 1", "2 or more"],
    ),
    "partition with a critic": (
        (*GROUP, "--algo.advantage.estimator", "gae"),
        ["--algo.advantage.estimator 'gae'", "--actor.lad.partition group", "'group_norm'"],
    ),
    "partition with KL in the reward": (
        (*GROUP, "--algo.kl.init_coef", "0.01"),
        ["--algo.kl.init_coef 0.01", "--actor.lad.partition group", "allowed is 0"],
    ),
    "partition of discounted returns": (
        (*GROUP, "--algo.advantage.estimator", "reinforce", "--algo.advantage.gamma", "0.9"),
        ["--algo.advantage.gamma 0.9", "allowed is 1"],
    ),
    "balanced without groups": (
        (*GROUP, f"{PREFIX}partition", "balanced", *SINGLE),
        ["--rollout.n_samples_per_prompt 1", "--actor.lad.partition balanced", "2 or more"],
    ),
    "balanced with a critic": (
        (*GROUP, f"{PREFIX}partition", "balanced", "--algo.advantage.estimator", "gae"),
        ["--algo.advantage.estimator 'gae'", "--actor.lad.partition balanced", "'group_norm'"],
    ),
    "partition without groups": (
        (*GROUP, "--algo.advantage.estimator", "reinforce", "--rollout.n_samples_per_prompt", "1"),
        ["--rollout.n_samples_per_prompt 1", "2 or more"],
    ),
}

WARNED = {
    "KL in the reward by default": (LAD, ["--algo.kl.init_coef 0.01", "--algo.kl.use_loss", "anchor reference"]),
    "a critic": (
        (*LAD, *NO_KL, "--algo.advantage.estimator", "gae"),
        ["--algo.advantage.estimator gae", "outcome advantages"],
    ),
    "discounted returns": (
        (*LAD, *NO_KL, "--algo.advantage.estimator", "reinforce", "--algo.advantage.gamma", "0.9"),
        ["--algo.advantage.estimator reinforce"],
    ),
    "one response a prompt": (
        (*LAD, *NO_KL, *SINGLE),
        ["--rollout.n_samples_per_prompt 1", "one response a prompt", "2 or more"],
    ),
    "clipping": ((*LAD, *NO_KL, "--actor.eps_clip", "0.3"), ["--actor.eps_clip", "no effect"]),
    "dual clipping": ((*LAD, *NO_KL, "--actor.dual_clip", "3"), ["--actor.dual_clip", "no effect"]),
    "entropy bonus": ((*LAD, *NO_KL, "--actor.entropy_coef", "0.01"), ["--actor.entropy_coef 0.01"]),
    "tv without partition": (
        (*LAD, *NO_KL, f"{PREFIX}divergence", "tv"),
        ["--actor.lad.divergence='tv'", "--actor.lad.partition='group'"],
    ),
    "weights of tokens for a ratio of sequences": (
        (*LAD, *NO_KL, f"{PREFIX}ratio", "sequence", "--algo.advantage.is_correction_level", "token"),
        ["--algo.advantage.is_correction_level token", "--actor.lad.ratio sequence"],
    ),
    "settings without lad": ((f"{PREFIX}eta", "0.5"), ["--actor.lad.*", "'ppo'", "no effect"]),
}

SILENT = {
    "stock": (),
    "lad": (*LAD, *NO_KL),
    "lad with KL as a loss": (*LAD, "--algo.kl.use_loss"),
    "anchored": ANCHORED,
    "partition": GROUP,
    "tv with partition": (*GROUP, f"{PREFIX}divergence", "tv"),
    "entropy logged": (*LAD, *NO_KL, "--actor.entropy_coef", "0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_before_ray_starts(case, parse):
    flags, words = REFUSED[case]
    with pytest.raises(ValueError, match=r"--\w+") as refused:
        parse(*flags)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("case", WARNED)
def test_warned_of(case, parse, caplog):
    flags, words = WARNED[case]
    parse(*flags)
    (record,) = (record for record in caplog.records if record.name.startswith("verl_lad"))
    assert record.levelno == logging.WARNING
    assert all(word in record.getMessage() for word in words), record.getMessage()


@pytest.mark.parametrize("case", SILENT)
def test_not_warned_of(case, parse, caplog):
    parse(*SILENT[case])
    assert [record for record in caplog.records if record.name.startswith("verl_lad")] == []


def test_every_setting_reaches_the_arguments_that_openrlhf_sends_to_its_workers(parse):
    settings = LADConfig(0.5, "alpha", 1.5, "geometric", "group", "old", 10.0, 5.0)
    flags = [text for name, value in vars(settings).items() for text in (f"{PREFIX}{name}", str(value))]
    args = parse(*LAD, *NO_KL, "--actor.loss_agg_mode", "seq-mean-token-mean", *flags)
    assert lad_config(args) == settings
    assert args.actor.policy_loss_type == "lad"


def test_the_defaults_are_the_objectives(parse):
    assert lad_config(parse()) == LADConfig()


def test_without_lad_the_arguments_are_openrlhfs_and_our_neutral_section(parse, monkeypatch):
    ours = parse()
    assert vars(ours.actor.lad) == dataclasses.asdict(LADConfig())
    del ours.actor.lad
    monkeypatch.setattr("verl_lad.adapters.openrlhf.arguments.LOSS_TYPE", "--no.such.flag")
    stock = parse()
    assert ours == stock


def test_ratios_have_their_aggregations():
    assert tuple(AGGREGATIONS) == RATIOS


@pytest.mark.parametrize("flag", ["--actor.policy_loss_type", "--actor.lad.eta"])
def test_what_argparse_refuses_stays_refused(flag, parse, capsys):
    with pytest.raises(SystemExit):
        parse(flag, "nonsense")
    assert flag in capsys.readouterr().err


def test_argparse_is_left_as_it_was(parse):
    methods = ArgumentParser.add_argument, ArgumentParser.parse_args
    parse()
    assert (ArgumentParser.add_argument, ArgumentParser.parse_args) == methods


def test_the_launcher_changes_no_other_parser():
    parser = ArgumentParser()
    parser.add_argument("--actor.lad.eta")
    with lad_arguments():
        assert vars(parser.parse_args(["--actor.lad.eta", "x"])) == {"actor.lad.eta": "x"}
