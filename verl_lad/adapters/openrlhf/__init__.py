"""LAD in OpenRLHF 0.11.2, unchanged.

train_ppo_ray.py     launcher, `python -m verl_lad.adapters.openrlhf.train_ppo_ray`
arguments.py         the flags --actor.lad.* and the checks before Ray starts
policy_loss.py       the policy loss `lad`
ppo_actor.py         the actor's training loop with that loss
experience_maker.py  advantages for partition=group and anchor=reference
actors.py            the Ray actors that carry both into OpenRLHF's worker processes

OpenRLHF has no registry of losses, and a class replaced in the driver is not replaced in a Ray worker. So the launcher
starts subclasses of OpenRLHF's actors. Each worker imports this package, so it must be installed on every node.
patches/openrlhf-0.11.2.patch calls the same functions and classes from OpenRLHF's own program.
"""

NAME = "lad"
"""Value of --actor.policy_loss_type."""

TESTED_RELEASES = ("0.11.2",)
"""Tested releases of OpenRLHF. Another is refused if its PolicyLoss differs, and warned of otherwise."""
