"""lad_fused=True: the loss from hidden states is the one that TRL aggregates, with its masks and corrections."""

import copy

import pytest
import torch
from peft import LoraConfig

from verl_lad.objective import DIAGNOSTICS

from .tiny_trainer import RecordingTrainer, make_model, make_trainer

LOSSES = [
    ("token", "dapo"), ("token", "grpo"), ("token", "bnpo"), ("token", "dr_grpo"), ("token", "luspo"),
    ("sequence", "luspo"), ("sequence", "dr_grpo"), ("geometric", "grpo"),
]  # fmt: skip


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Generate a batch, and give it another old policy, a hole, an unscored response and one that does not count."""
    trainer = make_trainer(tmp_path_factory.mktemp("batch"), RecordingTrainer, max_steps=1)
    trainer.train()
    batch = {key: value for key, value in trainer.micro_batches[0].items() if torch.is_tensor(value)}
    mask = batch["completion_mask"]
    batch["tool_mask"] = torch.ones_like(mask)
    batch["tool_mask"][0, 1] = 0
    mask[3] = 0
    generator = torch.Generator().manual_seed(0)
    batch["old_per_token_logps"] = -2 + 0.3 * torch.randn(mask.shape, generator=generator)
    batch["importance_sampling_ratio"] = 0.5 + torch.rand(mask.shape, generator=generator)
    batch["advantages"] = torch.tensor([0.7, -0.4, torch.nan, 1.0])
    return batch


def gradient(trainer, batch, accumulation=3):
    trainer.current_gradient_accumulation_steps = accumulation
    trainer.model.train()
    trainer.model.zero_grad()
    before = dict(batch)
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    assert all(batch[key] is before[key] for key in before), "TRL uses the buffered batch again"
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def compare(directory, batch, prepare=lambda trainer: None, **settings):
    results = []
    for fused in (False, True):
        settings_of_its_own = copy.deepcopy(settings)
        trainer = make_trainer(directory, lad_fused=fused, steps_per_generation=2, **settings_of_its_own)
        prepare(trainer)
        results.append((gradient(trainer, batch), trainer._metrics["train"]))
    (wanted, metrics), (ours, our_metrics) = results
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()), msg=name)
    assert max(float(value.abs().max()) for value in wanted.values()) > 1e-3
    for name in DIAGNOSTICS:
        assert our_metrics[f"lad/{name}"] == pytest.approx(metrics[f"lad/{name}"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("ratio", "loss_type"), LOSSES)
def test_gradient_of_every_parameter_is_that_of_the_unfused_trainer(tmp_path, batch, ratio, loss_type):
    compare(tmp_path, batch, lad_ratio=ratio, loss_type=loss_type)


def test_an_on_policy_step_needs_no_old_log_probs(tmp_path, batch):
    compare(tmp_path, {key: value for key, value in batch.items() if key != "old_per_token_logps"})


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_vllms_importance_weights_multiply_the_loss(tmp_path, batch, level):
    def with_vllm(trainer):
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True

    weights = batch["importance_sampling_ratio"]
    compare(tmp_path, batch | {"importance_sampling_ratio": weights if level == "token" else weights[:, :1]}, with_vllm)


def test_with_peft_the_adapter_gets_the_same_gradient(tmp_path, batch):
    def moved(trainer):  # an adapter begins at zero, where half of its gradient is zero
        generator = torch.Generator().manual_seed(1)
        for name, parameter in trainer.model.named_parameters():
            if "lora" in name:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)

    compare(tmp_path, batch, moved, peft_config=LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))


@pytest.mark.parametrize(("key", "value"), [("logit_scale", 0.5), ("logits_scaling", 8.0)])
def test_a_model_that_scales_its_logits_is_refused(tmp_path, key, value):
    model = make_model(tmp_path)
    setattr(model.config, key, value)
    with pytest.raises(ValueError, match=rf"lad_fused=True does not go with a model that scales .* {key} is {value}"):
        make_trainer(tmp_path, model=model, lad_fused=True)


def test_pictures_are_refused(tmp_path, batch):
    trainer = make_trainer(tmp_path, lad_fused=True)
    with pytest.raises(ValueError, match="for text alone; the batch holds pixel_values"):
        trainer._compute_loss(trainer.model, batch | {"pixel_values": torch.zeros(4, 3, 8, 8)})
