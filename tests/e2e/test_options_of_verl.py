"""A whole run with options of verl's that test_engine_worker.py takes one by one in its worker."""

import pytest

from .demo import TIME_LIMIT, run_demo
from .health import complaints, training_steps

ACTOR = "actor_rollout_ref.actor"

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(TIME_LIMIT + 60)]

OPTIONS = (
    f"{ACTOR}.use_kl_loss=True",
    f"{ACTOR}.kl_loss_coef=0.01",
    f"{ACTOR}.ppo_epochs=2",
    f"{ACTOR}.use_dynamic_bsz=True",
    f"{ACTOR}.ppo_max_token_len_per_gpu=512",
    "algorithm.lad.compile=True",
)


def test_lad_trains_healthily_with_kl_loss_dynamic_batches_two_epochs_and_a_compiled_loss(tmp_path):
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 3, *OPTIONS, N_GPUS="1")
    assert status == 0, log[-3000:]
    assert complaints(run_dir, log, steps=3, ranks=1) == []
    assert all(metrics["actor/kl_loss"] >= 0 for _, metrics in training_steps(run_dir))
