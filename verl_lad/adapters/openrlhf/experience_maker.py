"""Advantages that OpenRLHF's estimators do not give: with a partition, and with anchor=reference."""

import itertools

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from torch import Tensor

from verl_lad.adapters.openrlhf.arguments import lad_config
from verl_lad.objective import group_advantages


class LADExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker, which differs in the advantages where LAD's target needs others.

    anchor=old with a partition: the estimator's advantages, one a response, minus the constant of each group.

    anchor=reference: group_advantages of s - eta K, the same in each token. s is the reward after OpenRLHF's length
    penalties, within --reward.clip_range. K is the sum over the response of log pi_old - log pi_ref. OpenRLHF's own
    way, KL in the reward, would give token t the group's reward minus eta times the part of K from t on: neither the
    whole K nor centred.
    """

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """Compute advantages and returns by OpenRLHF's estimator, and replace the advantages where LAD needs others.

        Args:
            experiences: one a micro-batch, together whole groups; `index` has the place of each response in the batch.

        Returns:
            The experiences. Replaced advantages are 0 where masked.
        """
        experiences = super().compute_advantages_and_returns(experiences)
        settings = lad_config(self.args)
        if settings.constant == "none":
            return experiences
        places = torch.tensor(list(itertools.chain.from_iterable(experience.index for experience in experiences)))
        lengths = torch.cat([experience.action_mask.sum(-1) for experience in experiences])
        # A response that truncation left without a token is not the policy's, so it is a group of its own.
        groups = torch.where(lengths.cpu() > 0, places // self.args.rollout.n_samples_per_prompt, -1 - places)
        if settings.anchor == "reference":
            rewards = torch.cat([experience.rewards for experience in experiences])
            K = torch.cat([_reference_log_ratio(experience) for experience in experiences])
            scores = rewards.clamp(*self.args.reward.clip_range) - settings.eta * K
        else:
            scores = torch.cat([_outcome(experience) for experience in experiences])
        advantages = group_advantages(scores, groups, settings, norm_by_std=False)
        sizes = [len(experience.index) for experience in experiences]
        for experience, values in zip(experiences, advantages.split(sizes), strict=True):
            experience.advantages = values.unsqueeze(-1) * experience.action_mask
        return experiences


def _reference_log_ratio(experience: Experience) -> Tensor:
    """Return the (B,) sums of log pi_old - log pi_ref, from the means: OpenRLHF limits `kl` to +-10 a token."""
    length = experience.action_mask.sum(-1)
    return torch.where(length > 0, experience.info["logprobs_diff"] * length, 0.0)


def _outcome(experience: Experience) -> Tensor:
    """Return the (B,) advantages at each response's first token. Without KL in the reward all its tokens have them."""
    first = experience.action_mask.long().argmax(-1, keepdim=True)
    return experience.advantages.gather(-1, first).squeeze(-1)
