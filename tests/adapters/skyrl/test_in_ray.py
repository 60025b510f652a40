"""What is registered in the driver reaches Ray workers (SkyRL's users: NovaSky-AI/SkyRL issue 116)."""

import sys

import pytest
import ray
import torch
from skyrl.backends.skyrl_train.utils.ppo_utils import (
    AdvantageEstimatorRegistry,
    PolicyLossRegistry,
    sync_registries,
)

from verl_lad.adapters.skyrl.policy_loss import register

from ..conftest import FRAMEWORKS
from . import use_typing_extensions
from .tiny_worker import MASK, batch, config


@pytest.fixture
def cluster():
    ray.cloudpickle.register_pickle_by_value(sys.modules[use_typing_extensions.__module__])
    register()
    try:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            runtime_env={
                "worker_process_setup_hook": use_typing_extensions, "env_vars": {"PYTHONPATH": str(FRAMEWORKS)},
            },
        )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        for registry in (PolicyLossRegistry, AdvantageEstimatorRegistry):
            registry.unregister("lad")


def in_a_worker(cfg, tensors):
    """As PolicyWorkerBase gets its loss: by name, in a process that has not imported verl_lad."""
    import os
    import sys

    from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, PolicyLossRegistry

    before = [name for name in sys.modules if name.startswith("verl_lad.adapters.skyrl.policy")]
    loss_fn = PolicyLossRegistry.get("lad")
    log_probs = tensors["log_prob"].clone().requires_grad_()
    advantages = torch.stack([tensors["advantages"], torch.ones_like(tensors["advantages"])], dim=-1)
    loss, _ = loss_fn(log_probs, tensors["action_log_probs"], advantages, config=cfg, loss_mask=tensors["mask"])
    loss.backward()
    return os.getpid(), before, AdvantageEstimatorRegistry.get("lad").__qualname__, log_probs.grad


def test_a_worker_in_another_process_finds_the_loss_and_the_estimator_by_name(cluster):
    import os

    sync_registries()  # as SkyRL's initialize_ray
    tensors = {**batch(torch.Generator().manual_seed(0)), "mask": MASK}
    cfg = config().trainer.algorithm
    here = in_a_worker(cfg, tensors)
    worker = ray.remote(num_cpus=1)(in_a_worker)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pid, before, estimator, gradient = ray.get(worker.remote(cfg, tensors), timeout=200)
    assert pid != os.getpid()
    assert before == []
    assert estimator == "compute_lad_outcome_advantage"
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, here[-1])
