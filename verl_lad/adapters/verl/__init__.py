"""LAD in verl (0.7.1 and newer), without a fork of verl.

plugin.py          registers all of the following; `import verl` imports it
policy_loss.py     the policy loss `lad`
advantage.py       the advantage estimator `lad`
composition.py     adds our keys to verl's own ppo_trainer, through Hydra
lad.yaml           those keys and their defaults
presets.py         what a preset, or the anchor, sets by itself
settings.py        the dataclasses that verl makes of the keys
checks.py          validates the whole configuration before workers start
cluster.py         asks every node of a Ray cluster whether it has LAD
doctor.py          the checks of `verl-lad doctor`
"""

NAME = "lad"
"""Name of the policy loss, of the advantage estimator and of the entry point."""

SECTION = "algorithm.lad"
"""Section of verl's configuration that holds the settings."""

ACTOR = "actor_rollout_ref.actor"
POLICY_LOSS = "algorithm.policy_loss"
LOSS_MODE = f"{ACTOR}.policy_loss.loss_mode"
"""Our key and verl's own, either of which names the policy loss."""

MINIMUM_VERL = "0.7.1"
"""Oldest release that tests/matrix passes with."""

DISCOVERING_VERL = "0.9.0"
"""First release that discovers plugins. Older ones need VERL_USE_EXTERNAL_MODULES, or a patch of patches/."""

load_error: str | None = None
"""Why this process has no LAD, or None. plugin.py sets it; checks.py, cluster.py and the doctor report it."""
