"""The training loop of the actor with LAD's policy loss."""

import os
from typing import Any

from openrlhf.trainer.ray import ppo_actor

from verl_lad.adapters.openrlhf.arguments import lad_config
from verl_lad.adapters.openrlhf.policy_loss import LADPolicyLoss
from verl_lad.version import __version__


class LADActorPPOTrainer(ppo_actor.ActorPPOTrainer):
    """OpenRLHF's training loop of the actor, which differs in the policy loss and logs its diagnostics."""

    actor_loss_fn: Any

    def __init__(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(strategy, *args, **kwargs)
        settings = lad_config(strategy.args)
        self.actor_loss_fn = LADPolicyLoss(self.actor_loss_fn, settings)
        print(f"[verl-lad {__version__}] policy loss lad in process {os.getpid()}: {settings}", flush=True)

    def training_step(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Train on a micro-batch. Its metrics get METRIC_NAMES, which OpenRLHF averages over tokens and ranks."""
        status: dict[str, Any] = super().training_step(*args, **kwargs)
        metrics = self.actor_loss_fn.metrics()
        status["metrics"].update(metrics)
        status["weights"].update(dict.fromkeys(metrics, "token"))
        return status
