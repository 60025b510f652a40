"""Tests that test_patch.py runs in a process of its own, in which `import openrlhf` gives the patched copy."""

from argparse import Namespace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import openrlhf
import pytest
import torch
from openrlhf.models import PolicyLoss
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

from verl_lad import LADConfig
from verl_lad.adapters.openrlhf.arguments import AGGREGATIONS, OUTCOME_ESTIMATORS, lad_config
from verl_lad.adapters.openrlhf.experience_maker import LADExperienceMaker
from verl_lad.adapters.openrlhf.policy_loss import LADPolicyLoss
from verl_lad.adapters.openrlhf.train_ppo_ray import check_release

from .conftest import program_arguments
from .test_arguments import ANCHORED, GROUP, LAD, NO_KL, REFUSED, SILENT, WARNED
from .test_experience_maker import advantages, results_are_handed_on  # noqa: F401
from .test_policy_loss import BATCH_INFO, CORRECTIONS, DIVERGENCES, batch  # noqa: F401
from .without_gpu import stand_in

stand_in()


@pytest.fixture
def parse(monkeypatch):
    """parse("--flag", ...): the arguments with which the patched program itself would start Ray."""
    return partial(program_arguments, monkeypatch)


def test_this_is_the_patched_copy():
    assert (Path(openrlhf.__file__).parent / "models/lad.py").exists()
    with pytest.raises(RuntimeError, match="by our patch"):
        check_release()


def value_and_gradient(loss, given):
    log_probs = given["log_probs"].detach().clone().requires_grad_()
    value, *rest = loss(**(given | {"log_probs": log_probs}), **BATCH_INFO)
    (gradient,) = torch.autograd.grad(value, log_probs)
    return value.detach(), gradient, rest


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize(("ratio", "mode"), [(ratio, mode) for ratio, modes in AGGREGATIONS.items() for mode in modes])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_loss_and_gradient_are_the_launchers(divergence, ratio, mode, correction, batch):  # noqa: F811
    for scale in (1.0, 40.0):  # the second beyond max_log_weight, and beyond max_log_ratio in a response
        settings = LADConfig(eta=0.5, divergence=divergence, ratio=ratio, max_log_ratio=3.0, max_log_weight=15.0)
        given = batch | {"advantages": batch["advantages"] * scale, "log_probs": batch["log_probs"] * (1 + scale / 40)}
        keywords = {"token_level_loss": mode == "token-mean", **CORRECTIONS[correction]}
        native = PolicyLoss(policy_loss_type="lad", lad=Namespace(**vars(settings)), **keywords)
        value, gradient, rest = value_and_gradient(native, given)
        expected, expected_gradient, expected_rest = value_and_gradient(
            LADPolicyLoss(PolicyLoss(**keywords), settings), given
        )
        assert expected_gradient.abs().max() > 1e-4
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rest, expected_rest, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.5, 0.5, 1.5, 2.0])
def test_each_alpha_is_the_launchers(alpha, batch):  # noqa: F811
    settings = LADConfig(divergence="alpha", alpha=alpha)
    native = PolicyLoss(policy_loss_type="lad", lad=Namespace(**vars(settings)))
    _, gradient, _ = value_and_gradient(native, batch)
    _, expected, _ = value_and_gradient(LADPolicyLoss(PolicyLoss(), settings), batch)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_trainer_makes_the_loss_of_the_flags(parse, batch, tmp_path):  # noqa: F811
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    args = parse(*LAD, *NO_KL, "--actor.lad.eta", "0.7", "--actor.lad.divergence", "kl")
    trainer = ActorPPOTrainer(SimpleNamespace(args=args), None, None, None, None)
    torch.distributed.destroy_process_group()
    _, gradient, _ = value_and_gradient(trainer.actor_loss_fn, batch)
    expected = LADPolicyLoss(PolicyLoss(), LADConfig(eta=0.7, divergence="kl"))
    torch.testing.assert_close(gradient, value_and_gradient(expected, batch)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", OUTCOME_ESTIMATORS)
def test_advantages_of_partition_group_are_the_launchers(estimator, parse):
    args = parse(*GROUP, "--actor.lad.eta", "0.5", "--algo.advantage.estimator", estimator)
    native, mask = advantages(RemoteExperienceMaker, args)
    args.actor.policy_loss_type = "ppo"  # the parent's own, before ours
    torch.testing.assert_close(native, advantages(LADExperienceMaker, args)[0], rtol=1e-5, atol=1e-6)
    assert (native - advantages(RemoteExperienceMaker, args)[0])[mask.bool()].abs().max() > 1e-3


def test_advantages_of_the_anchor_are_the_launchers(parse):
    args = parse(*ANCHORED, "--reward.clip_range", "-1", "0.6")
    native, mask = advantages(RemoteExperienceMaker, args)
    args.actor.policy_loss_type = "ppo"
    torch.testing.assert_close(native, advantages(LADExperienceMaker, args)[0], rtol=1e-5, atol=1e-5)
    assert (native - advantages(RemoteExperienceMaker, args)[0])[mask.bool()].abs().max() > 1e-3


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses_what_the_launcher_refuses(case, parse):
    flags, _ = REFUSED[case]
    if "lad" not in flags:
        pytest.skip("not looked at without lad")
    with pytest.raises((ValueError, SystemExit)):
        parse(*flags)


@pytest.mark.parametrize("case", [*SILENT, *WARNED])
def test_it_takes_what_the_launcher_takes(case, parse):
    flags = SILENT[case] if case in SILENT else WARNED[case][0]
    settings = lad_config(parse(*flags))
    given = {flags[i].split(".")[-1]: flags[i + 1] for i in range(len(flags)) if flags[i].startswith("--actor.lad.")}
    assert {name: str(getattr(settings, name)) for name in given} == given
    assert lad_config(parse()) == LADConfig()


def test_it_warns_of_kl_in_the_reward(parse, capsys):
    parse(*LAD)
    assert "[Warning] --algo.kl.init_coef 0.01" in capsys.readouterr().out
    parse(*LAD, *NO_KL)
    assert "init_coef" not in capsys.readouterr().out
