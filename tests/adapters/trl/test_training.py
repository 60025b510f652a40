"""Whole trainings on a tiny model: their trajectories are those of a loop written by hand."""

import math

import pytest
import torch
from transformers import Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from verl.workers.config import FSDPActorConfig

from verl_lad import LADConfig
from verl_lad.adapters.verl.policy_loss import compute_policy_loss_lad
from verl_lad.adapters.verl.settings import LADPolicyLossConfig
from verl_lad.objective import DIAGNOSTICS

from .tiny_trainer import WORDS, RecordingTrainer, make_model, make_trainer, parameters, train_by_hand

ANCHORS = [{}, {"lad_partition": "group"}, {"lad_anchor": "reference", "lad_eta": 0.2}]


def moved(directory, trainer) -> float:
    return float((parameters(trainer.model) - parameters(make_model(directory))).abs().max())


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("anchor", ANCHORS, ids=str)
@pytest.mark.parametrize(
    ("ratio", "loss_type", "agg_mode"),
    [
        ("token", "bnpo", "token-mean"),
        ("token", "dapo", "token-mean"),
        ("token", "grpo", "seq-mean-token-mean"),
        ("sequence", "luspo", "seq-mean-token-sum"),
        ("geometric", "grpo", "seq-mean-token-mean"),
    ],
)
def test_iterations_and_mini_batches_are_epochs_of_verls_policy_loss(
    tmp_path, anchor, ratio, loss_type, agg_mode, fused
):
    learning_rate = 0.01 if loss_type == "luspo" else 0.05  # it sums: too large a step magnifies rounding
    trainer = make_trainer(
        tmp_path, RecordingTrainer, lad_ratio=ratio, loss_type=loss_type, per_device_train_batch_size=4,
        steps_per_generation=2, num_iterations=2, max_steps=8, learning_rate=learning_rate, lad_fused=fused, **anchor,
    )  # fmt: skip
    trainer.train()
    epochs = trainer.micro_batches
    assert len(trainer.produced) == 2
    for generation in (0, 4):
        for first, second in ((generation, generation + 2), (generation + 1, generation + 3)):
            assert all(epochs[first][key] is epochs[second][key] for key in epochs[first])

    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=4, ppo_micro_batch_size_per_gpu=4,
        policy_loss=LADPolicyLossConfig(loss_mode="lad", lad=trainer.args.lad_settings()),
    )  # fmt: skip

    def verl_loss(log_prob, old, batch):
        mask = batch["completion_mask"]
        tokens = batch["num_items_in_batch"] / 2 if loss_type == "dapo" else mask.sum()
        config.global_batch_info.update(dp_size=1, batch_num_tokens=tokens, global_batch_size=len(mask))
        loss, _ = compute_policy_loss_lad(
            old, log_prob, batch["advantages"][:, None].expand_as(mask), mask, agg_mode, config
        )
        return loss

    model = make_model(tmp_path)
    train_by_hand(model, epochs, verl_loss, learning_rate)
    torch.testing.assert_close(parameters(trainer.model), parameters(model), rtol=1e-4, atol=1e-5)
    assert moved(tmp_path, trainer) > 0.01


@pytest.mark.parametrize("anchor", ANCHORS, ids=str)
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_batch_may_be_accumulated_in_any_number_of_micro_batches(tmp_path, anchor, loss_type):
    ends = []
    for micro_batch_size in (8, 4, 2):
        trainer = make_trainer(
            tmp_path, per_device_train_batch_size=micro_batch_size, loss_type=loss_type, max_steps=3,
            gradient_accumulation_steps=8 // micro_batch_size, **anchor,
        )  # fmt: skip
        trainer.train()
        assert trainer.state.global_step == 3
        assert moved(tmp_path, trainer) > 0.05
        ends.append(parameters(trainer.model))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"num_iterations": 2}, {"beta": 0.1, "use_bias_correction_kl": True}, {"top_entropy_quantile": 0.5},
        {"off_policy_mask_threshold": 0.01, "num_iterations": 2}, {"lad_anchor": "reference", "num_iterations": 2},
        {"lad_partition": "group", "lad_divergence": "tv"}, {"mask_truncated_completions": True},
        {"entropy_coef": 0.01, "gradient_checkpointing": True}, {"lad_fused": True, "gradient_checkpointing": True},
        {"bf16": True}, {"bf16": True, "lad_fused": True}, {"bf16": True, "lad_anchor": "reference"},
    ],
    ids=str,
)  # fmt: skip
def test_five_real_steps_train_and_log_the_diagnostics(tmp_path, settings):
    trainer = make_trainer(tmp_path, **settings)
    trainer.train()
    assert trainer.state.global_step == 5
    assert parameters(trainer.model).isfinite().all()
    assert moved(tmp_path, trainer) > 1e-3
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 5
    assert all(math.isfinite(entry[f"lad/{name}"]) for entry in logs for name in DIAGNOSTICS)


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize(("ratio", "loss_type"), [("token", "dapo"), ("sequence", "luspo"), ("geometric", "grpo")])
def test_a_batch_whose_completions_are_all_truncated_and_masked_changes_nothing(tmp_path, fused, ratio, loss_type):
    trainer = make_trainer(
        tmp_path, mask_truncated_completions=True, max_completion_length=1, max_steps=1, seed=5, lad_ratio=ratio,
        loss_type=loss_type, lad_fused=fused,
    )  # fmt: skip
    trainer.generation_config.suppress_tokens = [1]  # never <eos>
    trainer.train()
    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert (entry["completions/clipped_ratio"], entry["loss"], entry["grad_norm"]) == (1.0, 0.0, 0.0)
    assert all(math.isfinite(entry[f"lad/{name}"]) for name in DIAGNOSTICS)
    assert moved(tmp_path, trainer) == 0.0


def make_mixture_of_experts(directory):
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=4, num_experts_per_tok=2,
            max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(directory / "experts")
    return Qwen3MoeForCausalLM.from_pretrained(directory / "experts")


def test_the_router_loss_of_a_mixture_of_experts_is_trained_on_and_logged(tmp_path):
    def trained(coefficient):
        trainer = make_trainer(
            tmp_path, model=make_mixture_of_experts(tmp_path), router_aux_loss_coef=coefficient, max_steps=2
        )
        trainer.train()
        return parameters(trainer.model), [entry for entry in trainer.state.log_history if "loss" in entry]

    without, logs = trained(0.0)
    assert not any("aux_loss" in entry for entry in logs)
    with_loss, logs = trained(5.0)
    assert all(entry["aux_loss"] > 0 for entry in logs)
    assert not torch.allclose(with_loss, without)


def test_the_router_loss_is_refused_beside_the_fused_loss(tmp_path):
    model = make_mixture_of_experts(tmp_path)
    with pytest.raises(ValueError, match=r"router_aux_loss_coef=0\.001 does not go with lad_fused=True: allowed is 0"):
        make_trainer(tmp_path, model=model, lad_fused=True)
    make_trainer(tmp_path, model=model, lad_fused=True, router_aux_loss_coef=0.0)


def test_a_checkpoint_is_lads_and_is_resumed_from(tmp_path):
    settings = {"lad_anchor": "reference", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = make_trainer(tmp_path, **settings)
    trainer.train()
    card = (tmp_path / "checkpoint-4" / ".." / "README.md").read_text()
    assert "2602.20132" in card
    assert "- lad" in card
    assert "grpo" not in card.lower()

    resumed = make_trainer(tmp_path, **settings)
    reference = parameters(resumed.ref_model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert torch.equal(parameters(resumed.ref_model), reference), "the reference is the base, not the checkpoint"
    saved = parameters(Qwen2ForCausalLM.from_pretrained(tmp_path / "checkpoint-2"))
    assert not torch.equal(saved, reference)
    assert resumed.args.lad_settings() == LADConfig(anchor="reference")
