"""The Ray actors of the launcher. Each is a subclass of the class under OpenRLHF's `@ray.remote`.

The classes have no decorator, so that Ray sends them by name: the worker imports this module, and with it OpenRLHF. An
actor's process holds that actor alone, so nothing else sees the module attributes that the actor sets.
"""

from argparse import Namespace
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ray import ppo_actor

from verl_lad.adapters.openrlhf.arguments import uses_lad
from verl_lad.adapters.openrlhf.experience_maker import LADExperienceMaker
from verl_lad.adapters.openrlhf.ppo_actor import LADActorPPOTrainer


def undecorated(actor: Any) -> Any:
    """Return the class that `ray.remote` made an actor of."""
    return actor.__ray_metadata__.modified_class.__ray_actor_class__


_PolicyModelActor: Any = undecorated(ppo_actor.PolicyModelActor)
_PPOTrainer: Any = undecorated(ppo_trainer.PPOTrainer)
_PPOTrainerAsync: Any = undecorated(ppo_trainer_async.PPOTrainerAsync)
_TrainingActor: Any = undecorated(ppo_trainer_async.TrainingActor)


class LADPolicyModelActor(_PolicyModelActor):
    """OpenRLHF's policy worker, with LADActorPPOTrainer if --actor.policy_loss_type is lad."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Load the model and construct the trainer, which OpenRLHF does by the name that is set here."""
        if uses_lad(strategy.args):
            ppo_actor.ActorPPOTrainer = LADActorPPOTrainer
        super().init_model_from_pretrained(strategy, *args, **kwargs)


def _replace_experience_maker(args: Namespace) -> None:
    """Replace the class that the constructor of OpenRLHF's BasePPOTrainer takes, in this process."""
    if uses_lad(args):
        ppo_trainer.RemoteExperienceMaker = LADExperienceMaker


class LADPPOTrainer(_PPOTrainer):
    """OpenRLHF's controller, with LADExperienceMaker if --actor.policy_loss_type is lad."""

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _replace_experience_maker(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)


class LADTrainingActor(_TrainingActor):
    """The training half of OpenRLHF's asynchronous controller, with LADExperienceMaker if the loss is lad."""

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _replace_experience_maker(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)

    def broadcast_to_vllm(self) -> None:
        """Send the weights to vLLM. Ray sends inherited methods by value, with a copy of the class; super() fails."""
        super().broadcast_to_vllm()


class LADPPOTrainerAsync(_PPOTrainerAsync):
    """OpenRLHF's asynchronous controller, which starts LADTrainingActor for its training half."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        ppo_trainer_async.TrainingActor = ray.remote(LADTrainingActor)
        super().__init__(*args, **kwargs)
