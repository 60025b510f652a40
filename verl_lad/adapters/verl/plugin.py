"""What verl loads: the entry point `lad` of group verl.plugins, imported inside `import verl` (verl/__init__.py:64).
Before verl 0.9.0: VERL_USE_EXTERNAL_MODULES=verl_lad.adapters.verl.plugin, or `verl-lad patch apply`.

In the driver and in every Ray worker, wherever this package is installed. verl logs an exception of a plugin at DEBUG
and goes on, and its user later reads "Unsupported loss mode: lad" in some worker. So this module catches what goes
wrong and warns, in the process where it happened, with the cause and the remedy.
"""

import logging
import os
import socket
import traceback
from types import FunctionType

from verl_lad.adapters.verl import MINIMUM_VERL, NAME

logger = logging.getLogger(__name__)

load_error: str | None = None
"""Why this process has no LAD; None if it has. For `verl-lad doctor`."""


def register() -> None:
    """Registers policy loss, advantage estimator and Hydra composition under the name `lad`, in this process.

    Raises:
        RuntimeError: if verl is too old, or another package already registered the name.
    """
    import verl
    from packaging.version import Version

    if Version(verl.__version__).release < Version(MINIMUM_VERL).release:
        raise RuntimeError(
            f"verl {verl.__version__} is too old: verl-lad needs verl >= {MINIMUM_VERL}, the oldest tested"
        )
    from verl.trainer.ppo import core_algos

    from verl_lad.adapters.verl import composition, settings  # noqa: F401 (settings: that it is there and loads)
    from verl_lad.adapters.verl.advantage import compute_lad_outcome_advantage
    from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad

    for registry, ours in (
        (core_algos.POLICY_LOSS_REGISTRY, compute_policy_loss_lad),
        (core_algos.ADV_ESTIMATOR_REGISTRY, compute_lad_outcome_advantage),
    ):
        taken = registry.get(NAME, ours)
        if taken is not ours:
            owner = f"{taken.__module__}.{taken.__qualname__}" if isinstance(taken, FunctionType) else repr(taken)
            raise RuntimeError(f"{owner} is already registered in verl as {NAME!r}")
    composition.register()  # first: if it fails, the names do not exist either
    core_algos.register_policy_loss(NAME)(compute_policy_loss_lad)
    core_algos.register_adv_est(NAME)(compute_lad_outcome_advantage)


try:
    register()
except Exception as error:  # verl would log it at DEBUG and go on; see above
    load_error = f"{type(error).__name__}: {error}"
    logger.warning(
        "verl-lad could not load in process %d on %s, so `algorithm.policy_loss=lad` and `algorithm.adv_estimator=lad` "
        "do not exist here. Cause: %s. Remedy: run `verl-lad doctor` in this environment; reinstall with `pip install "
        "--force-reinstall --no-deps verl-lad`, and use verl >= %s.\n%s",
        os.getpid(),
        socket.gethostname(),
        load_error,
        MINIMUM_VERL,
        traceback.format_exc(),
    )
