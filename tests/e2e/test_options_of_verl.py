"""Whole runs with options of verl's that test_engine_worker.py takes one by one in its worker."""

import pytest
import torch

from .demo import TIME_LIMIT, run_demo
from .health import complaints, training_steps

ACTOR = "actor_rollout_ref.actor"
MODEL = "actor_rollout_ref.model"

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(TIME_LIMIT + 60)]

OPTIONS = (
    f"{ACTOR}.use_kl_loss=True",
    f"{ACTOR}.kl_loss_coef=0.01",
    f"{ACTOR}.ppo_epochs=2",
    f"{ACTOR}.use_dynamic_bsz=True",
    f"{ACTOR}.ppo_max_token_len_per_gpu=512",
)


def test_lad_trains_healthily_with_kl_loss_dynamic_batches_and_two_epochs(tmp_path):
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 3, *OPTIONS, N_GPUS="1")
    assert status == 0, log[-3000:]
    assert complaints(run_dir, log, steps=3, ranks=1) == []
    assert all(metrics["actor/kl_loss"] >= 0 for _, metrics in training_steps(run_dir))


LORA = (
    f"{MODEL}.lora_rank=8",
    f"{MODEL}.lora_alpha=16",
    f"{MODEL}.lora.merge=True",
    f"{ACTOR}.optim.lr=1e-3",
    f"{ACTOR}.checkpoint.save_contents=[model,optimizer,extra]",  # verl does not merge adapters in hf_model
)
BFLOAT16_ROLLOUT_KL = 1e-3
"""verl sends merged weights as bfloat16, whatever they are (FSDPEngine._merged_lora_per_tensor_param): 6e-5 here."""


def test_lad_trains_healthily_with_lora_merged_for_the_rollout_server(tmp_path):
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 3, *LORA, N_GPUS="1", SAVE_FREQ="3")
    assert status == 0, log[-3000:]
    assert complaints(run_dir, log, steps=3, ranks=1, max_rollout_kl=BFLOAT16_ROLLOUT_KL) == []
    saved = run_dir / "checkpoints" / "global_step_3" / "actor" / "model_world_size_1_rank_0.pt"
    weights = torch.load(saved, map_location="cpu", weights_only=False)
    learned = [weight for name, weight in weights.items() if "lora_B" in name]
    assert len(learned) == 2 * 7, "two layers of seven linear maps"
    assert all(weight.abs().max() > 0 for weight in learned), "B begins as zero"
