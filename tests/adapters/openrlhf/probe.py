"""Policy workers with a look inside. Ray's workers import this module, so it imports no pytest."""

import os
from argparse import Namespace
from typing import Any

import torch
from deepspeed.utils import safe_get_full_grad
from openrlhf.trainer.ray import ppo_actor
from openrlhf.utils import get_strategy

from verl_lad.adapters.openrlhf.actors import LADPolicyModelActor, undecorated
from verl_lad.adapters.openrlhf.policy_loss import LADPolicyLoss

_PolicyModelActor: Any = undecorated(ppo_actor.PolicyModelActor)


class Probing:
    """Methods that tell what a worker is and what it computes."""

    init_model_from_pretrained: Any
    append: Any
    fit: Any
    strategy: Any
    trainer: Any
    actor: Any

    def start(self, args: Namespace) -> dict[str, Any]:
        """Makes the strategy and calls init_model_from_pretrained, as OpenRLHF's `train` does."""
        self.init_model_from_pretrained(get_strategy(args), args.actor.model_name_or_path, max_steps=10)
        loss = self.trainer.actor_loss_fn
        return {
            "pid": os.getpid(),
            "trainer": type(self.trainer).__name__,
            "loss": type(loss).__name__,
            "settings": loss.settings if isinstance(loss, LADPolicyLoss) else None,
        }

    def train(self, experience: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """OpenRLHF's append and fit.

        Returns:
            What fit returns, and for each backward pass the weights before it and the gradient of each, whole.
        """
        passes = []
        backward = self.strategy.backward

        def recorded(loss: torch.Tensor, model: Any, *args: Any, **kwargs: Any) -> None:
            weights = dict(model.model.module.named_parameters())
            before = {name: weight.detach().clone() for name, weight in weights.items()}
            backward(loss, model, *args, **kwargs)
            gradients = {name: safe_get_full_grad(weight).float() for name, weight in weights.items()}
            passes.append({"weights": before, "gradients": gradients})

        self.strategy.backward = recorded
        try:
            self.append(experience)
            return self.fit(0.0), passes
        finally:
            self.strategy.backward = backward

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's weights now."""
        return {name: weight.detach() for name, weight in self.actor.model.module.named_parameters()}


class Probe(Probing, LADPolicyModelActor):
    """The worker that the launcher starts."""


class PatchedProbe(Probing, _PolicyModelActor):
    """The worker that a patched OpenRLHF starts by itself."""
