"""Register LAD in verl, in the driver and in every Ray worker where this package is installed.

`import verl` imports this module: it is the entry point `lad` of the group verl.plugins. verl before 0.9.0 has no
plugins and imports it for VERL_USE_EXTERNAL_MODULES=verl_lad.adapters.verl.plugin, or with a patch of patches/.

verl logs an exception of a plugin at DEBUG and goes on. Its user would later read "Unsupported loss mode: lad" in a
worker. So this module catches what goes wrong and warns where it happens, with the cause and the remedy.
"""

import inspect
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import verl_lad.adapters.verl as adapter

# Import nothing else of this package here: `register` does, so that a missing file is caught and named.

logger = logging.getLogger(__name__)


def register() -> None:
    """Register policy loss, advantage estimator and Hydra composition under the name `lad`, in this process.

    Raises:
        RuntimeError: if verl is too old, calls its losses or estimators with arguments that ours do not take, or if
            another package has registered the name.
    """
    import verl
    from packaging.version import Version

    if Version(verl.__version__).release < Version(adapter.MINIMUM_VERL).release:
        raise RuntimeError(
            f"verl {verl.__version__} is too old: verl-lad needs verl >= {adapter.MINIMUM_VERL}, the oldest tested"
        )
    # First, so that a run that asks for LAD reaches checks.py, which names the cause of what fails below.
    from verl_lad.adapters.verl import composition

    composition.register()

    from verl.trainer.ppo import core_algos

    from verl_lad.adapters.verl import settings  # noqa: F401 (verl imports it by name; a fault shows here)
    from verl_lad.adapters.verl.advantage import compute_lad_outcome_advantage
    from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad

    _refuse_taken_name(core_algos.POLICY_LOSS_REGISTRY, compute_policy_loss_lad)
    _refuse_taken_name(core_algos.ADV_ESTIMATOR_REGISTRY, compute_lad_outcome_advantage)
    _refuse_other_arguments(core_algos, compute_policy_loss_lad, compute_lad_outcome_advantage)
    core_algos.register_policy_loss(adapter.NAME)(compute_policy_loss_lad)
    core_algos.register_adv_est(adapter.NAME)(compute_lad_outcome_advantage)


def _refuse_taken_name(registry: Mapping[str, Callable[..., Any]], ours: Callable[..., Any]) -> None:
    owner = registry.get(adapter.NAME, ours)
    if owner is not ours:
        name = f"{owner.__module__}.{owner.__qualname__}" if inspect.isfunction(owner) else repr(owner)
        raise RuntimeError(f"{name} is already registered in verl as {adapter.NAME!r}")


def _refuse_other_arguments(
    core_algos: ModuleType, policy_loss: Callable[..., Any], estimator: Callable[..., Any]
) -> None:
    import verl

    losses = [loss for name, loss in core_algos.POLICY_LOSS_REGISTRY.items() if name != adapter.NAME]
    estimators = core_algos.ADV_ESTIMATOR_REGISTRY.values()
    for sentence, given, callee in (
        ("its policy losses take", _common_arguments(losses), policy_loss),
        ("its advantage estimators need", _common_arguments(estimators, required=True), estimator),
        ("ours hands agg_loss", {"loss_mat", "loss_mask", "loss_agg_mode"}, core_algos.agg_loss),
    ):
        unknown = given - set(inspect.signature(callee).parameters)
        if unknown:
            raise RuntimeError(
                f"verl {verl.__version__} is not the one that verl-lad was written for: {sentence} the arguments "
                f"{', '.join(sorted(unknown))}, which {callee.__module__}.{callee.__qualname__} does not know"
            )


def _common_arguments(functions: Iterable[Callable[..., Any]], required: bool = False) -> set[str]:
    """Return the names of the arguments that all functions have: verl calls any of them with the same keywords.

    Args:
        functions: the values of a registry.
        required: whether to count only arguments without a default.
    """
    names = [
        {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and not (required and parameter.default is not parameter.empty)
        }
        for function in functions
    ]
    return set.intersection(*names) if names else set()


try:
    register()
except Exception as error:  # verl would log it at DEBUG and go on: see the module's docstring
    adapter.load_error = f"{type(error).__name__}: {error}"
    logger.warning(
        "verl-lad could not load in process %d on %s, so `algorithm.policy_loss=lad` and `algorithm.adv_estimator=lad` "
        "do not exist here. Cause: %s. Remedy: run `verl-lad doctor` in this environment; reinstall with `pip install "
        "--force-reinstall --no-deps verl-lad`.\n%s",
        os.getpid(),
        socket.gethostname(),
        adapter.load_error,
        traceback.format_exc(),
    )
