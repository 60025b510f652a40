"""Validate the whole configuration before workers start: raise on contradictions, warn about settings without effect.

composition.py has verl run `check` wherever it reads the name of one of our two dataclasses: main_ppo on the driver,
within validate_config; the other trainers at the head of their task runner, within OmegaConf.resolve.
"""

import dataclasses
import logging
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

import verl_lad.adapters.verl as adapter
from verl_lad.adapters.verl import ACTOR, DISCOVERING_VERL, LOSS_MODE, NAME, POLICY_LOSS, SECTION
from verl_lad.adapters.verl.cluster import require_lad_on_every_node
from verl_lad.adapters.verl.presets import PRESET, anchored_values, read_settings
from verl_lad.objective import LADConfig

logger = logging.getLogger(__name__)

ESTIMATOR = "algorithm.adv_estimator"
ROLLOUT_N = "actor_rollout_ref.rollout.n"
EXTERNAL_LIB = "actor_rollout_ref.model.external_lib"

MATCHING_AGG_MODE = {"sequence": "seq-mean-token-sum", "geometric": "seq-mean-token-mean"}
ANCHORED_ESTIMATORS = (NAME, "grpo")
"""Estimators whose advantages are right under anchor=reference, by a test through verl's own compute_advantage."""
CLIP_KEYS = ("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c")


@cache
def _warn_once(message: str) -> None:
    logger.warning("verl-lad: %s", message)


def check(root: DictConfig) -> None:
    """Validate the configuration of a verl trainer.

    Args:
        root: the whole configuration. A part that was cut off from its root, so without a section `algorithm`, passes.

    Raises:
        ValueError: naming key, value and what is allowed.
        RuntimeError: if this process or a node of the Ray cluster lacks LAD.
    """
    if "algorithm" not in root:
        return
    section = OmegaConf.select(root, SECTION)
    if not isinstance(section, DictConfig | None):
        raise ValueError(f"{SECTION}={section!r} is not allowed: it is a section, set {SECTION}.eta and its other keys")
    settings = read_settings(section)
    _check_policy_loss_section(root, settings)
    policy_loss, loss_mode, estimator = (
        OmegaConf.select(root, key, default=default)
        for key, default in ((POLICY_LOSS, "vanilla"), (LOSS_MODE, "vanilla"), (ESTIMATOR, "gae"))
    )
    if NAME in (policy_loss, loss_mode, estimator):
        _require_lad_here()
    _check_names(root, {POLICY_LOSS: policy_loss, LOSS_MODE: loss_mode, ESTIMATOR: estimator})
    if policy_loss not in ("vanilla", loss_mode):
        raise ValueError(
            f"{POLICY_LOSS}={policy_loss!r} contradicts {LOSS_MODE}={loss_mode!r}; "
            f"allowed: one of the two, or both equal. Remove {LOSS_MODE} from your command line or recipe"
        )
    if NAME not in (loss_mode, estimator):
        if settings != LADConfig() or _get(root, PRESET, "none") != "none":
            _warn_once(f"{SECTION}.* is set, but neither {POLICY_LOSS} nor {ESTIMATOR} is {NAME!r}: no effect")
        return
    if loss_mode == NAME:
        require_lad_on_every_node()
        _check_trainer(root)
    if settings.partition != "none" and estimator != NAME:
        raise ValueError(
            f"{SECTION}.partition={settings.partition!r} needs {ESTIMATOR}={NAME}, which computes it; "
            f"got {ESTIMATOR}={estimator!r}"
        )
    if settings.anchor == "reference":
        _check_anchor(root, settings, estimator, loss_mode)
    _check_group_size(root, settings)
    if loss_mode == NAME:
        _warn_of_loss_settings(root, settings, estimator)


def _get(root: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(root, key)
    return default if value is None else value


def _check_policy_loss_section(root: DictConfig, settings: LADConfig) -> None:
    key = f"{ACTOR}.policy_loss"
    section = OmegaConf.select(root, key)
    if not isinstance(section, DictConfig):
        raise ValueError(f"{key}={section!r} is not allowed: it is a section. To choose a loss, set {POLICY_LOSS}")
    if read_settings(section.get("lad"), f"{key}.lad.") != settings:
        raise ValueError(
            f"{key}.lad={section.get('lad')!r} contradicts {SECTION}, whose copy it is: the advantage estimator would "
            f"have other settings than the loss. Allowed: leave {key}.lad alone, and set the keys of {SECTION}"
        )


def _require_lad_here() -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    from verl_lad.adapters.verl.advantage import compute_lad_outcome_advantage
    from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad

    if (POLICY_LOSS_REGISTRY.get(NAME), ADV_ESTIMATOR_REGISTRY.get(NAME)) != (
        compute_policy_loss_lad,
        compute_lad_outcome_advantage,
    ):
        cause = adapter.load_error or "another package has registered the name after verl-lad did"
        raise RuntimeError(f"{NAME!r} is not verl-lad's in verl: {cause}. Run `verl-lad doctor` in this environment")


def _is_lad_misspelt(name: Any) -> bool:
    """Say whether a name has the letters of `lad`, in any case and order; "AdvantageEstimator.LAD" has them too."""
    letters = [letter for letter in str(name).rpartition(".")[2].lower() if letter.isalpha()]
    return name != NAME and sorted(letters) == sorted(NAME)


def _check_names(root: DictConfig, names: dict[str, Any]) -> None:
    """Refuse a loss or estimator that verl does not know; it would look the name up only after the first rollout.

    Only warn where the name may be registered later: by model.external_lib, or in a run that asks nothing of verl-lad.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    external_lib = _get(root, EXTERNAL_LIB)
    asks_for_lad = names[POLICY_LOSS] != "vanilla" or any(n == NAME or _is_lad_misspelt(n) for n in names.values())
    for key, name in names.items():
        registry = ADV_ESTIMATOR_REGISTRY if key == ESTIMATOR else POLICY_LOSS_REGISTRY
        if (isinstance(name, str) and name in registry) or (key == LOSS_MODE and name == names[POLICY_LOSS]):
            continue
        message = (
            f"{key}={name!r} is not allowed: verl holds {', '.join(sorted(registry))}. For a name of your own, have "
            "the module that registers it imported with verl: list it in VERL_USE_EXTERNAL_MODULES"
        )
        if not name or (asks_for_lad and not external_lib):
            raise ValueError(message)
        registrar = f"{EXTERNAL_LIB}={external_lib}" if external_lib else "this trainer"
        _warn_once(f"{message}. Workers start all the same, since {registrar} may register it later")


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


def _check_anchor(root: DictConfig, settings: LADConfig, estimator: str, loss_mode: str) -> None:
    anchor = f"{SECTION}.anchor='reference'"
    if loss_mode != NAME:
        raise ValueError(f"{anchor} needs {POLICY_LOSS}={NAME}; got {loss_mode!r}")
    if estimator not in ANCHORED_ESTIMATORS:
        raise ValueError(
            f"{anchor} needs {ESTIMATOR}={' or '.join(ANCHORED_ESTIMATORS)}: advantages relative to the group, and "
            f"not divided by its standard deviation; got {ESTIMATOR}={estimator!r}"
        )
    required = {
        **anchored_values(settings),
        "algorithm.kl_penalty": "kl",
        "algorithm.kl_ctrl.type": "fixed",
        f"{ACTOR}.use_kl_loss": False,
    }
    for key, needed in required.items():
        value = _get(root, key)
        if value != needed:
            raise ValueError(
                f"{key}={value!r} contradicts {anchor}, whose target needs {key}={needed!r}; "
                f"leave the key out of your command line or recipe, or set it to that"
            )
    if estimator != NAME:
        _warn_once(
            f"{anchor} with {ESTIMATOR}={estimator}: the advantages are centred at their mean, and the constant "
            f"{settings.constant!r} is not subtracted from them; {ESTIMATOR}={NAME} does both"
        )


def _check_group_size(root: DictConfig, settings: LADConfig) -> None:
    n = OmegaConf.select(root, ROLLOUT_N)
    if isinstance(n, int) and n >= 2:
        return
    for key, value, neutral in (("partition", settings.partition, "none"), ("anchor", settings.anchor, "old")):
        if value != neutral:
            raise ValueError(
                f"{ROLLOUT_N}={n!r} is not allowed with {SECTION}.{key}={value!r}, which compares the responses to one "
                f"prompt: alone, each has advantage 0. Allowed: {ROLLOUT_N} of 2 or more"
            )
    _warn_once(
        f"{ROLLOUT_N}={n!r}: one response a prompt, so no advantage is relative to a group, as LAD's are; the "
        f"estimators {NAME} and grpo then return the raw reward. Set {ROLLOUT_N} to 2 or more"
    )


def _warn_of_loss_settings(root: DictConfig, settings: LADConfig, estimator: str) -> None:
    from verl.workers.config import ActorConfig

    agg_mode = _get(root, f"{ACTOR}.loss_agg_mode", "token-mean")
    matching = MATCHING_AGG_MODE.get(settings.ratio)
    if matching not in (None, agg_mode):
        _warn_once(
            f"{SECTION}.ratio={settings.ratio!r} is the exact gradient of its objective under "
            f"{ACTOR}.loss_agg_mode={matching!r}; with {agg_mode!r} the weight of a response, or the size of the whole "
            "step, depends on the number of tokens"
        )
    use_v1 = _get(root, "trainer.use_v1", False)  # the trainer before it pads all micro-batches alike
    if agg_mode == "seq-mean-token-sum-norm" and use_v1 and _get(root, f"{ACTOR}.loss_scale_factor") is None:
        _warn_once(
            f"{ACTOR}.loss_agg_mode={agg_mode!r} without {ACTOR}.loss_scale_factor: verl's v1 trainer divides the loss "
            "of each micro-batch by the length of its own longest response, so the gradient depends on the split; "
            f"set {ACTOR}.loss_scale_factor, for example to data.max_response_length"
        )
    if estimator == "gae":
        _warn_once(
            f"{ESTIMATOR}='gae' (verl's default) gives an advantage to each token and trains a critic; LAD "
            f"is defined for outcome advantages relative to a group: {ESTIMATOR}={NAME} or grpo"
        )
    stock = {field.name: field.default for field in dataclasses.fields(ActorConfig)}
    changed = [f"{ACTOR}.{key}" for key in CLIP_KEYS if _get(root, f"{ACTOR}.{key}", stock[key]) != stock[key]]
    entropy_coeff = _get(root, f"{ACTOR}.entropy_coeff", 0)
    entropy = f"{ACTOR}.entropy_coeff={entropy_coeff}" if entropy_coeff else None
    for remark in settings.remarks(f"{SECTION}.", changed, entropy):
        _warn_once(remark)
