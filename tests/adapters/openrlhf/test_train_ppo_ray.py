"""The launcher, up to where OpenRLHF's program takes over, and which OpenRLHF it accepts."""

import logging
import runpy

import pytest
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ray import ppo_actor

from verl_lad.adapters.openrlhf import TESTED_RELEASES, actors, train_ppo_ray
from verl_lad.adapters.openrlhf.actors import undecorated
from verl_lad.objective.config import FIELD_NAMES

REPLACED = {
    (ppo_actor, "PolicyModelActor"): actors.LADPolicyModelActor,
    (ppo_trainer, "PPOTrainer"): actors.LADPPOTrainer,
    (ppo_trainer_async, "PPOTrainerAsync"): actors.LADPPOTrainerAsync,
}


@pytest.fixture
def launch(monkeypatch):
    """launch("--flag", ...) runs the launcher as `python -m` does; what it replaced is put back after the test."""
    for module, name in REPLACED:
        monkeypatch.setattr(module, name, getattr(module, name))

    def run(*flags: str) -> None:
        monkeypatch.setattr("sys.argv", [train_ppo_ray.__name__, *flags])
        runpy.run_module("verl_lad.adapters.openrlhf.train_ppo_ray", run_name="__main__")

    return run


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_help_names_every_flag(launch, capsys):
    with pytest.raises(SystemExit) as ended:
        launch("--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "{ppo,gspo,lad}" in printed
    assert all(f"--actor.lad.{name} " in printed for name in FIELD_NAMES)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_openrlhfs_program_takes_our_actors(launch):
    with pytest.raises(SystemExit):
        launch("--help")
    for (module, name), ours in REPLACED.items():
        assert undecorated(getattr(module, name)) is ours
        assert issubclass(ours, getattr(actors, f"_{name}"))
    assert ppo_actor.PolicyModelActor.__ray_metadata__.num_gpus == 1


def test_the_tested_release_is_the_installed_one_and_is_accepted_in_silence(caplog):
    assert train_ppo_ray.version("openrlhf") in TESTED_RELEASES
    train_ppo_ray.check_release()
    assert caplog.records == []


def test_another_release_with_the_same_loss_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(train_ppo_ray, "version", lambda name: "0.99.0")
    train_ppo_ray.check_release()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "OpenRLHF 0.99.0 is untested; tested: 0.11.2" in record.getMessage()


def test_a_release_with_another_loss_is_refused(monkeypatch):
    def of_0_11_1(
        clip_eps_low, clip_eps_high, dual_clip, token_level_loss, policy_loss_type,
        enable_vllm_is_correction, vllm_is_truncated_threshold, vllm_is_correction_type,
    ): ...  # fmt: skip

    monkeypatch.setattr(train_ppo_ray, "PolicyLoss", of_0_11_1)
    monkeypatch.setattr(train_ppo_ray, "version", lambda name: "0.11.1")
    with pytest.raises(RuntimeError, match=r"OpenRLHF 0\.11\.1 is not supported: .*vllm_is_correction_type.*0\.11\.2"):
        train_ppo_ray.check_release()
