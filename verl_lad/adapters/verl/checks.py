"""What is refused, and what is warned of, with the whole configuration in view and before any worker exists.

Runs whenever `actor_rollout_ref.actor.policy_loss.lad` is resolved: in verl's main_ppo within validate_config, on the
driver, which looks into the nodes once it has connected to Ray; in the other trainers within OmegaConf.resolve, at the
head of their task runner.
"""

import dataclasses
import logging
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_lad.adapters.verl import DISCOVERING_VERL, NAME
from verl_lad.adapters.verl.cluster import require_lad_on_every_node
from verl_lad.adapters.verl.keys import SECTION, lad_config
from verl_lad.objective import LADConfig

logger = logging.getLogger(__name__)

LOSS_MODE = "actor_rollout_ref.actor.policy_loss.loss_mode"
MATCHING_AGG_MODE = {"sequence": "seq-mean-token-sum", "geometric": "seq-mean-token-mean"}
GROUP_ESTIMATORS = (NAME, "grpo", "grpo_vectorized")
CLIP_KEYS = ("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c")


@cache
def _warn_once(message: str) -> None:
    logger.warning("verl-lad: %s", message)


def checked_settings(root: DictConfig) -> dict[str, Any]:
    """The section algorithm.lad, after every check that needs to see the rest of the run.

    Args:
        root: the whole configuration of a verl trainer.

    Returns:
        The section as a plain dict.

    Raises:
        ValueError: naming key, value and what is allowed.
        RuntimeError: if this process or a node of the Ray cluster lacks LAD.
    """
    section = OmegaConf.select(root, SECTION)
    if section is None:  # a part of a configuration, cut off from its root
        return dataclasses.asdict(LADConfig())
    if not isinstance(section, DictConfig):
        raise ValueError(f"{SECTION}={section!r} is not allowed: it is a section, set {SECTION}.eta and its other keys")
    settings = lad_config({str(key): value for key, value in section.items()})
    policy_loss = _get(root, "algorithm.policy_loss", "vanilla")
    loss_mode = _get(root, LOSS_MODE, policy_loss)
    estimator = str(_get(root, "algorithm.adv_estimator", ""))
    if policy_loss not in ("vanilla", loss_mode):
        raise ValueError(
            f"algorithm.policy_loss={policy_loss!r} contradicts {LOSS_MODE}={loss_mode!r}; "
            f"allowed: one of the two, or both equal. Remove {LOSS_MODE} from your command line or recipe"
        )
    if NAME in (loss_mode, estimator):
        _require_lad_here()
    if loss_mode == NAME:
        require_lad_on_every_node()
        _check_trainer(root)
        _warn_of_loss_settings(root, settings, estimator)
    if NAME in (loss_mode, estimator):
        _check_advantages(root, settings, estimator, loss_mode)
    elif settings != LADConfig():
        _warn_once(
            f"{SECTION}.* is set, but neither algorithm.policy_loss nor algorithm.adv_estimator is {NAME!r}: no effect"
        )
    return dataclasses.asdict(settings)


def _get(root: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(root, key)
    return default if value is None else value


def _require_lad_here() -> None:
    """Registered as soon as somebody imports verl's registries; a failure then was a warning in this process's log."""
    import verl.trainer.ppo.core_algos  # noqa: F401

    from verl_lad.adapters.verl import plugin

    if plugin.load_error is not None:
        raise RuntimeError(
            f"{NAME!r} is not registered in verl: {plugin.load_error}. Run `verl-lad doctor` in this environment"
        )


def _check_trainer(root: DictConfig) -> None:
    bypass = "algorithm.rollout_correction.bypass_mode"
    use_v1 = _get(root, "trainer.use_v1", False)  # verl < 0.9.0 has neither the key nor that trainer
    if not use_v1 and _get(root, bypass, False):
        raise ValueError(
            f"{bypass}=True is not allowed with trainer.use_v1=False and policy loss {NAME}: that trainer, the only "
            f"one before verl {DISCOVERING_VERL}, then writes a policy loss of its own into the configuration, and "
            f"whether it reaches the workers depends on the release. Allowed: {bypass}=False, "
            f"or trainer.use_v1=True"
        )


def _check_advantages(root: DictConfig, settings: LADConfig, estimator: str, loss_mode: str) -> None:
    if settings.partition == "group" and estimator != NAME:
        raise ValueError(
            f"{SECTION}.partition='group' needs algorithm.adv_estimator={NAME}, which computes it; "
            f"got algorithm.adv_estimator={estimator!r}"
        )
    if settings.anchor != "reference":
        return
    anchor = f"{SECTION}.anchor='reference'"
    if loss_mode != NAME:
        raise ValueError(f"{anchor} needs algorithm.policy_loss={NAME}; got {loss_mode!r}")
    if estimator not in GROUP_ESTIMATORS:
        raise ValueError(
            f"{anchor} needs advantages relative to the group: algorithm.adv_estimator={NAME} "
            f"(or {', '.join(GROUP_ESTIMATORS[1:])}); got algorithm.adv_estimator={estimator!r}"
        )
    required = {
        "algorithm.use_kl_in_reward": True,
        "algorithm.kl_penalty": "kl",
        "algorithm.kl_ctrl.type": "fixed",
        "algorithm.kl_ctrl.kl_coef": settings.eta,
        "algorithm.norm_adv_by_std_in_grpo": False,
        "actor_rollout_ref.actor.use_kl_loss": False,
    }
    for key, wanted in required.items():
        value = _get(root, key)
        if value != wanted:
            raise ValueError(
                f"{key}={value!r} contradicts {anchor}, whose target needs {key}={wanted!r}; "
                f"leave the key out of your command line or recipe, or set it to that"
            )
    if estimator != NAME:
        _warn_once(
            f"{anchor} with algorithm.adv_estimator={estimator}: the advantages are centred, but the group's target "
            f"does not have mass one; algorithm.adv_estimator={NAME} does both"
        )


def _warn_of_loss_settings(root: DictConfig, settings: LADConfig, estimator: str) -> None:
    from verl.workers.config import ActorConfig

    actor = "actor_rollout_ref.actor"
    agg_mode = _get(root, f"{actor}.loss_agg_mode", "token-mean")
    matching = MATCHING_AGG_MODE.get(settings.ratio)
    if matching not in (None, agg_mode):
        _warn_once(
            f"{SECTION}.ratio={settings.ratio!r} is the exact gradient of its objective under "
            f"{actor}.loss_agg_mode={matching!r}; with {agg_mode!r} the weight of a response, or the size of the whole "
            "step, depends on the number of tokens"
        )
    use_v1 = _get(root, "trainer.use_v1", False)  # the trainer before it pads all micro-batches alike
    if agg_mode == "seq-mean-token-sum-norm" and use_v1 and _get(root, f"{actor}.loss_scale_factor") is None:
        _warn_once(
            f"{actor}.loss_agg_mode={agg_mode!r} without {actor}.loss_scale_factor: verl's v1 trainer divides the loss "
            "of each micro-batch by the length of its own longest response, so the gradient depends on the split; "
            f"set {actor}.loss_scale_factor, for example to data.max_response_length"
        )
    if estimator == "gae":
        _warn_once(
            "algorithm.adv_estimator='gae' (verl's default) gives an advantage to each token and trains a critic; LAD "
            f"is defined for outcome advantages relative to a group: algorithm.adv_estimator={NAME} or grpo"
        )
    stock = {field.name: field.default for field in dataclasses.fields(ActorConfig)}
    changed = [key for key in CLIP_KEYS if _get(root, f"{actor}.{key}", stock[key]) != stock[key]]
    if changed:
        _warn_once(f"{', '.join(f'{actor}.{key}' for key in changed)}: LAD does not clip; no effect")
    if _get(root, f"{actor}.entropy_coeff", 0):
        _warn_once(
            f"{actor}.entropy_coeff={_get(root, f'{actor}.entropy_coeff')}: LAD's target keeps the spread by itself; "
            "the bonus is added all the same and moves the optimum away from the target"
        )
    if settings.divergence.lower() == "tv" and settings.partition == "none" and settings.anchor == "old":
        _warn_once(
            f"{SECTION}.divergence='tv' is not strictly convex: without {SECTION}.partition='group' (and "
            f"algorithm.adv_estimator={NAME}) its minimiser is not unique"
        )
