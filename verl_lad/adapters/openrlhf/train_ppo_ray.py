"""The launcher: `python -m verl_lad.adapters.openrlhf.train_ppo_ray` runs openrlhf.cli.train_ppo_ray with the loss lad.

It takes OpenRLHF's arguments, and --actor.policy_loss_type lad with --actor.lad.*. Without that value it is OpenRLHF's
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

from verl_lad.adapters.openrlhf import TESTED_RELEASES
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
"""Parameters of PolicyLoss in TESTED_RELEASES. From 0.11.1 to 0.11.2 they changed, and its results with them."""


def check_release() -> None:
    """Refuse an OpenRLHF whose PolicyLoss has other parameters, and warn of an untested release.

    Raises:
        RuntimeError: naming the installed release and the allowed ones.
    """
    installed = version("openrlhf")
    parameters = tuple(inspect.signature(PolicyLoss).parameters)
    if parameters != PARAMETERS:
        raise RuntimeError(
            f"OpenRLHF {installed} is not supported: its PolicyLoss takes {', '.join(parameters)}; "
            f"allowed: {', '.join(TESTED_RELEASES)}, whose PolicyLoss takes {', '.join(PARAMETERS)}"
        )
    if installed not in TESTED_RELEASES:
        logger.warning(
            "verl-lad: OpenRLHF %s is untested; tested: %s. Its PolicyLoss has the same parameters",
            installed,
            ", ".join(TESTED_RELEASES),
        )


def main() -> None:
    """Replace OpenRLHF's Ray actors by verl-lad's, and run its program."""
    check_release()
    ppo_actor.PolicyModelActor = ray.remote(num_gpus=1)(LADPolicyModelActor)
    ppo_trainer.PPOTrainer = ray.remote(LADPPOTrainer)
    ppo_trainer_async.PPOTrainerAsync = ray.remote(LADPPOTrainerAsync)
    with lad_arguments():
        runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
