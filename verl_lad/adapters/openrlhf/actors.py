"""The Ray actors. Each is a subclass of the class under OpenRLHF's `@ray.remote`, made remote by the launcher.

They stand here without the decorator, so that Ray sends them by name: the worker imports this module, and with it
OpenRLHF. An actor's process holds that actor alone; the module attributes set here are seen by nothing else.
"""

import os
from argparse import Namespace
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ray import ppo_actor

from verl_lad.adapters.openrlhf.arguments import lad_config, uses_lad
from verl_lad.adapters.openrlhf.experience_maker import LADExperienceMaker
from verl_lad.adapters.openrlhf.policy_loss import METRIC_NAMES, LADPolicyLoss
from verl_lad.version import __version__


def undecorated(actor: Any) -> Any:
    """The class that `ray.remote` made an actor of."""
    return actor.__ray_metadata__.modified_class.__ray_actor_class__


_PolicyModelActor: Any = undecorated(ppo_actor.PolicyModelActor)
_PPOTrainer: Any = undecorated(ppo_trainer.PPOTrainer)
_PPOTrainerAsync: Any = undecorated(ppo_trainer_async.PPOTrainerAsync)
_TrainingActor: Any = undecorated(ppo_trainer_async.TrainingActor)


class LADActorPPOTrainer(ppo_actor.ActorPPOTrainer):
    """OpenRLHF's training loop of the actor; differs in the policy loss, and logs its diagnostics."""

    actor_loss_fn: Any

    def __init__(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(strategy, *args, **kwargs)
        settings = lad_config(strategy.args)
        self.actor_loss_fn = LADPolicyLoss(self.actor_loss_fn, settings)
        print(f"[verl-lad {__version__}] policy loss lad in process {os.getpid()}: {settings}", flush=True)

    def training_step(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the parent's, with METRIC_NAMES among the metrics: means over micro-batches and ranks, by tokens."""
        status: dict[str, Any] = super().training_step(*args, **kwargs)
        values = self.actor_loss_fn.diagnostics.tolist()  # one transfer
        status["metrics"].update(zip(METRIC_NAMES, values, strict=True))
        status["weights"].update(dict.fromkeys(METRIC_NAMES, "token"))
        return status


class LADPolicyModelActor(_PolicyModelActor):
    """OpenRLHF's policy worker, with LADActorPPOTrainer if --actor.policy_loss_type is lad."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """As the parent's, which constructs the trainer by the name that is set here."""
        if uses_lad(strategy.args):
            ppo_actor.ActorPPOTrainer = LADActorPPOTrainer
        super().init_model_from_pretrained(strategy, *args, **kwargs)


def _make_experience_by_lad(args: Namespace) -> None:
    """For the constructor of OpenRLHF's BasePPOTrainer, in this process."""
    if uses_lad(args):
        ppo_trainer.RemoteExperienceMaker = LADExperienceMaker


class LADPPOTrainer(_PPOTrainer):
    """OpenRLHF's controller, with LADExperienceMaker if --actor.policy_loss_type is lad."""

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _make_experience_by_lad(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)


class LADTrainingActor(_TrainingActor):
    """The training half of OpenRLHF's asynchronous controller, with LADExperienceMaker likewise."""

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _make_experience_by_lad(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)

    def broadcast_to_vllm(self) -> None:
        """As the parent's. Ray sends inherited methods by value, with a copy of the class, and super() fails there."""
        super().broadcast_to_vllm()


class LADPPOTrainerAsync(_PPOTrainerAsync):
    """OpenRLHF's asynchronous controller, which starts LADTrainingActor for its training half."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        ppo_trainer_async.TrainingActor = ray.remote(LADTrainingActor)
        super().__init__(*args, **kwargs)
