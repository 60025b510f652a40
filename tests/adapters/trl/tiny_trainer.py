"""A trainer on a model of 3000 parameters, what it produced, and the training step by hand."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from verl_lad.adapters.trl import LADTrainer, LADTrainerConfig

WORDS = ["<pad>", "<eos>", "<unk>", *"0123456789+="]
TEMPERATURE = 0.8


def make_model(directory: Path) -> Qwen2ForCausalLM:
    """Make a model, save it and load it, since a reference model is loaded from where the model came from."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
            initializer_range=0.2,
        )
    )  # fmt: skip
    model.save_pretrained(directory / "model")
    return Qwen2ForCausalLM.from_pretrained(directory / "model")


def score(text: str) -> float:
    return float("1" in text) + 0.1 * text.count("2") - 0.05 * text.count("3")


def reward(completions: list[str], **_: Any) -> list[float]:
    return [score(text) for text in completions]


def make_trainer(directory, trainer=LADTrainer, config=LADTrainerConfig, reward_funcs=reward, model=None, **settings):
    words = {word: number for number, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    keys = {
        "output_dir": str(directory), "max_steps": 5, "per_device_train_batch_size": 4, "num_generations": 4,
        "max_completion_length": 6, "learning_rate": 0.3, "optim": "sgd", "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "temperature": TEMPERATURE, "logging_steps": 1, "report_to": [], "save_strategy": "no",
        "use_cpu": True, "bf16": False, "disable_tqdm": True, "seed": 0, "gradient_checkpointing": False,
    }  # fmt: skip
    named = {key: settings.pop(key) for key in ("peft_config", "eval_dataset") if key in settings}
    return trainer(
        make_model(Path(directory)) if model is None else model,
        reward_funcs,
        config(**(keys | settings)),
        train_dataset=Dataset.from_dict({"prompt": [f"{i}+1=" for i in range(10)]}),
        processing_class=tokenizer,
        **named,
    )


def log_prob(model, batch) -> torch.Tensor:
    """(B, T) log-probabilities of a batch's completions, by a plain forward pass."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=attention_mask).logits[:, batch["prompt_ids"].shape[1] - 1 : -1]
    return (logits / TEMPERATURE).log_softmax(-1).gather(2, batch["completion_ids"].unsqueeze(-1)).squeeze(-1)


class RecordingTrainer(LADTrainer):
    """Keeps each generated batch, with its raw scores and, by plain forward passes, the two log-probabilities.

    Attributes:
        produced: of each generation, the whole batch of this process.
        micro_batches: what each call of the loss got.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.produced: list[dict[str, torch.Tensor]] = []
        self.micro_batches: list[dict[str, torch.Tensor]] = []
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        self.micro_batches.append(inputs)
        return inputs

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        texts = self.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
        model = self.accelerator.unwrap_model(self.model)
        with torch.no_grad():
            old = log_prob(model, output)
            if self.ref_model is not None:
                reference = log_prob(self.ref_model, output)
            elif "ref" in getattr(model, "peft_config", {}):
                model.set_adapter("ref")
                reference = log_prob(model, output)
                model.set_adapter("default")
            elif hasattr(model, "disable_adapter"):
                with model.disable_adapter():
                    reference = log_prob(model, output)
            else:
                reference = old
        log_ratio = ((old - reference) * output["completion_mask"]).sum(-1)
        self.produced.append(
            {**output, "scores": torch.tensor([score(text) for text in texts]), "log_ratio": log_ratio, "old": old}
        )
        return output


def train_by_hand(model, batches, loss_of, learning_rate: float) -> None:
    """One step of plain gradient descent on loss_of(log_prob, old_log_prob, batch) for each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for batch in batches:
        current = log_prob(model, batch)
        optimizer.zero_grad()
        loss_of(current, batch.get("old_per_token_logps", current.detach()), batch).backward()
        optimizer.step()


def parameters(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
