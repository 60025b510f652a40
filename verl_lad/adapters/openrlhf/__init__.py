"""LAD in OpenRLHF (0.11.2), with no edit in it.

train_ppo_ray.py     launcher, `python -m verl_lad.adapters.openrlhf.train_ppo_ray`: OpenRLHF's program with our classes
arguments.py         the flags --actor.lad.*, and what is refused or warned of before Ray starts
policy_loss.py       the policy loss `lad`
experience_maker.py  advantages for partition=group and anchor=reference
actors.py            the Ray actors that carry both into OpenRLHF's worker processes

OpenRLHF has no registry of losses, and a class replaced in the driver is not replaced in a Ray worker. So the launcher
starts subclasses of OpenRLHF's actors; each worker imports this package to have them, and it must be installed there.
"""

NAME = "lad"
"""Value of --actor.policy_loss_type."""

TESTED_RELEASES = ("0.11.2",)
"""Of OpenRLHF. Others are refused if what we use of them differs, and warned of otherwise."""
