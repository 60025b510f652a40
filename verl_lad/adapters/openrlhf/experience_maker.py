"""Advantages that OpenRLHF's estimators do not give: partition=group and anchor=reference."""

import itertools

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from torch import Tensor

from verl_lad.adapters.openrlhf.arguments import lad_config
from verl_lad.objective import group_advantages


class LADExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker, with the advantages of LAD's target where they are not its own.

    partition=group: the estimator's advantages, one a response, shifted so that each group's target has mass one.

    anchor=reference: A = s - eta K, centred in its group, with partition=group, and the same in each token. s is the
    reward after OpenRLHF's length penalties, within --reward.clip_range. K is the sum over the response of
    log pi_old - log pi_ref. OpenRLHF's own way, KL in the reward, would give token t the group's reward minus
    eta times the part of K from t on: neither the whole K nor centred.
    """

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """As the parent's; changes `advantages` alone, which are 0 where masked then.

        Args:
            experiences: one a micro-batch, together whole groups; `index` has the place of each response in the batch.
        """
        experiences = super().compute_advantages_and_returns(experiences)
        settings = lad_config(self.args)
        if settings.anchor == "old" and settings.partition == "none":
            return experiences
        places = itertools.chain.from_iterable(experience.index for experience in experiences)
        groups = torch.tensor([place // self.args.rollout.n_samples_per_prompt for place in places])
        if settings.anchor == "reference":
            rewards = torch.cat([experience.rewards for experience in experiences])
            advantages = group_advantages(
                rewards.clamp(*self.args.reward.clip_range),
                groups,
                settings,
                reference_log_ratio=torch.cat([_reference_log_ratio(experience) for experience in experiences]),
            )
        else:
            outcomes = torch.cat([_outcome(experience) for experience in experiences])
            advantages = group_advantages(outcomes, groups, settings, norm_by_std=False)
        for experience, values in zip(
            experiences, advantages.split([len(experience.index) for experience in experiences]), strict=True
        ):
            experience.advantages = values.unsqueeze(-1) * experience.action_mask
        return experiences


def _reference_log_ratio(experience: Experience) -> Tensor:
    """(B,) sums of log pi_old - log pi_ref. OpenRLHF keeps their means; its `kl` is limited to +-10 a token."""
    length = experience.action_mask.sum(-1)
    return torch.where(length > 0, experience.info["logprobs_diff"] * length, 0.0)


def _outcome(experience: Experience) -> Tensor:
    """(B,) advantages at the first token of each response: without KL in the reward those of all its tokens."""
    first = experience.action_mask.long().argmax(-1, keepdim=True)
    return experience.advantages.gather(-1, first).squeeze(-1)
