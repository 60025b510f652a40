"""LAD in verl (0.7.1 and newer), with no fork of verl.

plugin.py          what `import verl` loads: registers all of the following, and is loud when it cannot
policy_loss.py     the policy loss `lad`
advantage.py       the advantage estimator `lad`
composition.py     Hydra: verl's own ppo_trainer, with our keys in it
lad.yaml           those keys and their defaults
keys.py            the section algorithm.lad, checked key by key
settings.py        the dataclasses that verl makes of it
checks.py          what is refused or warned of before any worker exists
doctor.py          is all of it in place, here and in a Ray worker
"""

NAME = "lad"
"""Of the policy loss, the advantage estimator and the entry point."""

MINIMUM_VERL = "0.7.1"
"""The oldest release that tests/matrix passes with."""

DISCOVERING_VERL = "0.9.0"
"""The first release that discovers plugins. Older ones need VERL_USE_EXTERNAL_MODULES, or `verl-lad patch apply`."""
