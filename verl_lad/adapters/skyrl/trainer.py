"""A RayPPOTrainer that hands the policy loss advantages and weights apart."""

import torch
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch
from skyrl.train.trainer import RayPPOTrainer


class LADTrainer(RayPPOTrainer):
    """SkyRL's trainer, which differs in that the advantages stay as they are.

    SkyRL multiplies each advantage by its token's weight in loss_reduction, and sums the losses. That is right for
    losses linear in A. LAD has exp(A / eta), so here A keeps its value, and the weight goes along with it.
    """

    def _normalize_advantages(
        self,
        data: TrainingInputBatch,
        mini_batch_boundaries: list[tuple[int, int]],
        prompt_boundaries: list[tuple[int, int]] | None = None,
    ) -> TrainingInputBatch:
        advantages = data["advantages"]
        data["advantages"] = torch.ones_like(advantages)
        data = super()._normalize_advantages(data, mini_batch_boundaries, prompt_boundaries)
        data["advantages"] = torch.stack([advantages, data["advantages"]], dim=-1)
        return data
