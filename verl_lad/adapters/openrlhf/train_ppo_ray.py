"""`python -m verl_lad.adapters.openrlhf.train_ppo_ray ...`: openrlhf.cli.train_ppo_ray, with the policy loss lad.

Takes OpenRLHF's arguments, and --actor.policy_loss_type lad with --actor.lad.*. Without that value it is OpenRLHF's
program, unchanged.
"""

import inspect
import logging
import runpy
from importlib.metadata import version

import ray
from openrlhf.models import PolicyLoss
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ray import ppo_actor

from verl_lad.adapters.openrlhf import NAME, TESTED_RELEASES
from verl_lad.adapters.openrlhf.actors import LADPolicyModelActor, LADPPOTrainer, LADPPOTrainerAsync
from verl_lad.adapters.openrlhf.arguments import lad_arguments

logger = logging.getLogger(__name__)

PROGRAM = "openrlhf.cli.train_ppo_ray"
PARAMETERS = (
    "clip_eps_low",
    "clip_eps_high",
    "dual_clip",
    "token_level_loss",
    "policy_loss_type",
    "is_correction_level",
    "is_correction_mode",
    "is_correction_gating",
    "is_correction_threshold",
)
"""Of PolicyLoss in TESTED_RELEASES. They changed from 0.11.1 to 0.11.2, and with them what it computes and returns."""


def check_release() -> None:
    """Refuses an OpenRLHF whose PolicyLoss is another than the one we were made for; warns of an untested release.

    Raises:
        RuntimeError: saying what is installed and what is allowed.
    """
    installed = version("openrlhf")
    parameters = tuple(inspect.signature(PolicyLoss).parameters)
    if NAME in parameters:
        raise RuntimeError(
            f"the installed OpenRLHF {installed} has the policy loss {NAME} itself, by our patch: run "
            f"`python -m {PROGRAM}`, which takes the same flags, or `verl-lad patch revert` first"
        )
    if parameters != PARAMETERS:
        raise RuntimeError(
            f"OpenRLHF {installed} is not supported: its PolicyLoss takes {', '.join(parameters)}; "
            f"allowed: {', '.join(TESTED_RELEASES)}, whose PolicyLoss takes {', '.join(PARAMETERS)}"
        )
    if installed not in TESTED_RELEASES:
        logger.warning(
            "verl-lad: OpenRLHF %s is untested; tested: %s. Its PolicyLoss has the parameters that we know",
            installed,
            ", ".join(TESTED_RELEASES),
        )


def main() -> None:
    """Puts our classes where OpenRLHF's program will take them from, and runs it."""
    check_release()
    ppo_actor.PolicyModelActor = ray.remote(num_gpus=1)(LADPolicyModelActor)
    ppo_trainer.PPOTrainer = ray.remote(LADPPOTrainer)
    ppo_trainer_async.PPOTrainerAsync = ray.remote(LADPPOTrainerAsync)
    with lad_arguments():
        runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
