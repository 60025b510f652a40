"""What verl loads: the entry point `lad` of group verl.plugins, imported inside `import verl` (verl/__init__.py:64).
Before verl 0.9.0: VERL_USE_EXTERNAL_MODULES=verl_lad.adapters.verl.plugin, or `verl-lad patch apply`.

In the driver and in every Ray worker, wherever this package is installed. verl logs an exception of a plugin at DEBUG
and goes on, and its user later reads "Unsupported loss mode: lad" in some worker. So this module catches what goes
wrong and warns, in the process where it happened, with the cause and the remedy.

verl's registries are in a module that takes most of a second to import and that `import verl` does not import. So the
names are registered when somebody imports it, which whoever looks a name up must do first.
"""

import inspect
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any

# Nothing else here: whatever of this package is missing is found out in `register`, and said.

logger = logging.getLogger(__name__)

REGISTRIES = "verl.trainer.ppo.core_algos"
"""The module with POLICY_LOSS_REGISTRY and ADV_ESTIMATOR_REGISTRY."""

load_error: str | None = None
"""Why this process has no LAD; None if it has, or will have once REGISTRIES is imported. For `verl-lad doctor`."""


def register() -> None:
    """Registers policy loss, advantage estimator and Hydra composition under the name `lad`, in this process.

    Raises:
        RuntimeError: if verl is too old, calls its losses or estimators with arguments that ours do not take, or
            another package already registered the name.
    """
    import verl
    from packaging.version import Version

    from verl_lad.adapters.verl import MINIMUM_VERL, NAME

    if Version(verl.__version__).release < Version(MINIMUM_VERL).release:
        raise RuntimeError(
            f"verl {verl.__version__} is too old: verl-lad needs verl >= {MINIMUM_VERL}, the oldest tested"
        )
    from verl_lad.adapters.verl import composition
    from verl_lad.adapters.verl.advantage import compute_lad_outcome_advantage
    from verl_lad.adapters.verl.after_import import after_import
    from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad

    def refuse_taken_names(core_algos: ModuleType) -> None:
        for registry, ours in (
            (core_algos.POLICY_LOSS_REGISTRY, compute_policy_loss_lad),
            (core_algos.ADV_ESTIMATOR_REGISTRY, compute_lad_outcome_advantage),
        ):
            taken = registry.get(NAME, ours)
            if taken is not ours:
                owner = f"{taken.__module__}.{taken.__qualname__}" if isinstance(taken, FunctionType) else repr(taken)
                raise RuntimeError(f"{owner} is already registered in verl as {NAME!r}")

    def refuse_other_arguments(core_algos: ModuleType) -> None:
        others = {name: loss for name, loss in core_algos.POLICY_LOSS_REGISTRY.items() if name != NAME}
        for what, given, taken in (
            ("its policy losses take", _common_arguments(others.values()), compute_policy_loss_lad),
            (
                "its advantage estimators need",
                _common_arguments(core_algos.ADV_ESTIMATOR_REGISTRY.values(), required=True),
                compute_lad_outcome_advantage,
            ),
            ("ours hands agg_loss", {"loss_mat", "loss_mask", "loss_agg_mode"}, core_algos.agg_loss),
        ):
            unknown = given - set(inspect.signature(taken).parameters)
            if unknown:
                raise RuntimeError(
                    f"verl {verl.__version__} is not the one that verl-lad was written for: {what} the arguments "
                    f"{', '.join(sorted(unknown))}, which {taken.__module__}.{taken.__qualname__} does not know"
                )

    def register_names(core_algos: ModuleType) -> None:
        from verl_lad.adapters.verl import settings  # noqa: F401 (that it is there and loads)

        core_algos.register_policy_loss(NAME)(compute_policy_loss_lad)
        core_algos.register_adv_est(NAME)(compute_lad_outcome_advantage)

    def register_names_loudly(core_algos: ModuleType) -> None:
        try:
            refuse_taken_names(core_algos)  # by a verl that has a `lad` of its own
            refuse_other_arguments(core_algos)
            register_names(core_algos)
        except Exception as error:
            complain(error)

    core_algos = sys.modules.get(REGISTRIES)
    if core_algos is not None:
        refuse_taken_names(core_algos)
        refuse_other_arguments(core_algos)
    composition.register()  # first: if it fails, the names do not exist either
    if core_algos is not None:
        register_names(core_algos)
    else:
        after_import(REGISTRIES, register_names_loudly)


def _common_arguments(functions: Iterable[Callable[..., Any]], required: bool = False) -> set[str]:
    """Names that all the functions have as arguments: verl calls any of them with the same keywords.

    Args:
        functions: a registry's.
        required: only of arguments without default.
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


def complain(error: Exception) -> None:
    """Warns with the cause and the remedy, and keeps the cause for the doctor."""
    global load_error
    load_error = f"{type(error).__name__}: {error}"
    logger.warning(
        "verl-lad could not load in process %d on %s, so `algorithm.policy_loss=lad` and `algorithm.adv_estimator=lad` "
        "do not exist here. Cause: %s. Remedy: run `verl-lad doctor` in this environment; reinstall with `pip install "
        "--force-reinstall --no-deps verl-lad`.\n%s",
        os.getpid(),
        socket.gethostname(),
        load_error,
        traceback.format_exc(),
    )


try:
    register()
except Exception as error:  # verl would log it at DEBUG and go on; see above
    complain(error)
