"""Set several keys by one: what a preset sets, and which keys of verl's the anchor sets.

Each of these keys becomes `${verl_lad.default:KEY,DEFAULT}` in the composed configuration, so a value that a recipe or
command line gives wins over a preset's.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_lad.adapters.verl import ACTOR, LOSS_MODE, NAME, POLICY_LOSS, SECTION
from verl_lad.objective import LADConfig

PRESET = f"{SECTION}.preset"
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "diverse": {
        f"{SECTION}.anchor": "reference",
        f"{SECTION}.eta": 0.125,
        f"{SECTION}.ratio": "sequence",
        f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum",
        f"{ACTOR}.ppo_epochs": 4,
    },
}
"""Name of a preset -> the keys that it sets. diverse: docs/anchoring.md says what it did, and where."""


def anchored_values(settings: LADConfig) -> dict[str, Any]:
    """Return the keys of verl's that algorithm.lad.anchor=reference sets: its target needs in-reward KL."""
    return {
        "algorithm.use_kl_in_reward": True,
        "algorithm.kl_ctrl.kl_coef": settings.eta,
        "algorithm.norm_adv_by_std_in_grpo": False,
    }


WHEN_ANCHORED = tuple(anchored_values(LADConfig()))
"""verl's keys that algorithm.lad.anchor=reference sets."""


def read_settings(section: Any, prefix: str = f"{SECTION}.") -> LADConfig:
    """Make the settings from a section of our keys.

    Args:
        section: a mapping, its interpolations resolved on access; None gives the defaults, a LADConfig itself.
        prefix: what stands in front of each key where the user writes it.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """
    if isinstance(section, LADConfig):
        return section
    keys = dict(section or {})
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
    if NAME not in (OmegaConf.select(_root_, POLICY_LOSS), OmegaConf.select(_root_, LOSS_MODE)):
        return otherwise
    if key not in WHEN_ANCHORED:
        return PRESETS.get(str(OmegaConf.select(_root_, PRESET)), {}).get(key, otherwise)
    if OmegaConf.select(_root_, f"{SECTION}.anchor") != "reference":
        return otherwise
    return anchored_values(read_settings(OmegaConf.select(_root_, SECTION)))[key]
