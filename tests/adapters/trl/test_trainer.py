"""The TRL adapter against the real TRL."""

import math

import pytest
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from verl_lad import LADConfig, lad_loss_reference
from verl_lad.adapters.trl import LADTrainer, LADTrainerConfig
from verl_lad.adapters.trl.trainer import AGGREGATIONS
from verl_lad.objective import DIAGNOSTICS


def make_trainer(tmp_path, **settings):
    words = {t: i for i, t in enumerate(["<pad>", "<eos>", "<unk>", *"0123456789+="])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "model")  # beta > 0 loads the reference from where the model came from
    model = Qwen2ForCausalLM.from_pretrained(tmp_path / "model")
    keys = {
        "output_dir": str(tmp_path), "max_steps": 5, "per_device_train_batch_size": 4, "num_generations": 4,
        "max_completion_length": 6, "learning_rate": 1e-3, "logging_steps": 1, "report_to": [], "save_strategy": "no",
        "use_cpu": True, "bf16": False, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    return LADTrainer(
        model,
        lambda completions, **_: [float("1" in text) + 0.1 * text.count("2") for text in completions],
        args=LADTrainerConfig(**(keys | settings)),
        train_dataset=Dataset.from_dict({"prompt": [f"{i}+1=" for i in range(10)]}),
        processing_class=tokenizer,
    )


def losses(tmp_path, monkeypatch, ratio, divergence, loss_type, extra):
    """TRL's loss and its gradient, and the reference formula's, for the same (B, T) tensors."""
    trainer = make_trainer(tmp_path, lad_ratio=ratio, lad_divergence=divergence, loss_type=loss_type)
    trainer.current_gradient_accumulation_steps = 1
    gen = torch.Generator().manual_seed(1)
    old = -torch.rand(4, 6, generator=gen) - 0.5
    log_prob = (old + 0.3 * torch.randn(4, 6, generator=gen)).requires_grad_()
    advantages = torch.randn(4, generator=gen)
    mask = (torch.arange(6) < torch.tensor([[6], [4], [3], [5]])).long()
    weights = torch.rand(4, 6, generator=gen)
    seen = torch.where(mask.bool(), log_prob, torch.nan)
    inputs = {
        "prompt_ids": torch.ones(4, 2, dtype=torch.long), "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.ones(4, 6, dtype=torch.long), "completion_mask": mask, "advantages": advantages,
        "old_per_token_logps": torch.where(mask.bool(), old, torch.nan), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if extra == "vllm":
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        inputs["importance_sampling_ratio"] = torch.where(mask.bool(), weights, torch.nan)
    monkeypatch.setattr(
        "trl.GRPOTrainer._get_per_token_logps_and_entropies", lambda *_, **__: (seen, torch.full_like(seen, 0.5), None)
    )
    before = dict(inputs)
    loss = trainer._compute_loss(trainer.model, inputs)
    assert all(inputs[key] is before[key] for key in before)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    config = LADConfig(ratio=ratio, divergence=divergence)
    matrix = lad_loss_reference(log_prob, old, advantages[:, None].expand(4, 6), mask, config)
    if extra == "vllm":
        matrix = matrix * weights
    sums = (matrix * mask).sum(-1)
    total = {
        "grpo": (sums / mask.sum(-1)).mean(), "luspo": sums.mean(), "dr_grpo": sums.sum() / 24,
        "bnpo": sums.sum() / mask.sum(), "dapo": sums.sum() / mask.sum(),
    }[loss_type]  # fmt: skip
    (wanted,) = torch.autograd.grad(total, log_prob)
    return gradient, wanted


@pytest.mark.parametrize("extra", ["none", "vllm"])
@pytest.mark.parametrize("divergence", ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"])
@pytest.mark.parametrize(
    ("ratio", "loss_type"),
    [(r, a) for r, names in AGGREGATIONS.items() for a in names],
)  # fmt: skip
def test_gradient_is_the_references_with_nan_in_masked_slots(
    tmp_path, monkeypatch, ratio, loss_type, divergence, extra
):
    if extra == "vllm" and ratio != "token":
        pytest.skip("a weight per token has a per-token reference only")
    gradient, wanted = losses(tmp_path, monkeypatch, ratio, divergence, loss_type, extra)
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"num_iterations": 2}, {"beta": 0.1}, {"top_entropy_quantile": 0.5}])
def test_five_real_steps_train_and_log_the_diagnostics(tmp_path, settings):
    trainer = make_trainer(tmp_path, **settings)
    before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert trainer.state.global_step == 5
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    logged = trainer.state.log_history[0]
    assert all(math.isfinite(logged[f"lad/{name}"]) for name in DIAGNOSTICS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lad_eta": 0.0}, "eta"), ({"lad_ratio": "sequence"}, "loss_type"), ({"loss_type": "cispo"}, "cispo"),
        ({"delta": 2.0}, "delta"), ({"importance_sampling_level": "sequence"}, "importance_sampling_level"),
        ({"off_policy_mask_threshold": 0.1}, "off_policy"), ({"use_bias_correction_kl": True}, "bias_correction"),
        ({"lad_ratio": "word"}, "word"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_by_name(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        LADTrainerConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
