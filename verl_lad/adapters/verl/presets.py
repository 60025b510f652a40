"""What our keys set by themselves: a preset sets several at once, and the anchor sets three of verl's.

Each of these keys becomes `${verl_lad.default:KEY,DEFAULT}` in the composed configuration, so a value that a recipe or
command line gives wins over a preset's.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_lad.adapters.verl import NAME, SECTION
from verl_lad.objective import LADConfig

PRESET = f"{SECTION}.preset"
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "diverse": {
        f"{SECTION}.anchor": "reference",
        f"{SECTION}.eta": 0.125,
        f"{SECTION}.divergence": "alpha",
        f"{SECTION}.alpha": 0.8,
        f"{SECTION}.ratio": "sequence",
        "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum",
        "actor_rollout_ref.actor.ppo_epochs": 4,
    },
}
"""Name of a preset -> the keys that it sets. diverse: docs/anchoring.md says what it did, and where."""

WHEN_ANCHORED = {
    "algorithm.use_kl_in_reward": True,
    "algorithm.norm_adv_by_std_in_grpo": False,
    "algorithm.kl_ctrl.kl_coef": f"{SECTION}.eta",
}
"""verl's keys that algorithm.lad.anchor=reference sets, for the target pi_ref exp(s / eta) / Z by in-reward KL."""

LOSS_KEYS = ("algorithm.policy_loss", "actor_rollout_ref.actor.policy_loss.loss_mode")


def read_settings(section: Any, prefix: str = f"{SECTION}.") -> LADConfig:
    """Make the settings from a section of our keys.

    Args:
        section: a mapping, its interpolations resolved on access; None gives the defaults, a LADConfig itself.
        prefix: what stands in front of each key where the user writes it.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """
    if section is None or isinstance(section, LADConfig):
        return LADConfig.from_keys(section, prefix)
    keys = dict(section)
    preset = keys.pop("preset", "none")
    if preset not in PRESETS:
        raise ValueError(f"{prefix}preset={preset!r} is not allowed: one of {', '.join(PRESETS)}")
    return LADConfig.from_keys(keys, prefix)


def default(key: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    """Resolve verl_lad.default: the value that a preset or the anchor gives a key in a run with our policy loss.

    Args:
        key: the whole key.
        otherwise: its value in any other run.
    """
    if NAME not in (OmegaConf.select(_root_, name) for name in LOSS_KEYS):
        return otherwise
    if key not in WHEN_ANCHORED:
        return PRESETS.get(str(OmegaConf.select(_root_, PRESET)), {}).get(key, otherwise)
    if OmegaConf.select(_root_, f"{SECTION}.anchor") != "reference":
        return otherwise
    value = WHEN_ANCHORED[key]
    return read_settings(OmegaConf.select(_root_, SECTION)).eta if isinstance(value, str) else value
