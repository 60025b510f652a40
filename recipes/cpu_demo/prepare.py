"""Make the demo's model, tokenizer and data: deterministic, offline, within a minute on one core.

The model is a Qwen2 of 0.3 M parameters. A warm start on right answers ends when it is right in --accuracy of its
samples and knows many answers to each prompt. Writes OUTPUT/model, OUTPUT/train.parquet and OUTPUT/val.parquet in
verl's format, and OUTPUT/base.json with the base's exact statistics, by enumeration.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import torch
from task import DATA_SOURCE, DIGITS, SUMS, prompt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

# ChatML without the roles' names: with one token a byte, they would be most of a prompt.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
MAX_STEPS = 6000
STEPS_BETWEEN_CHECKS = 25
ANSWERS = [f"{n:0{DIGITS}d}" for n in range(10**DIGITS)]
SUM_OF_ANSWER = torch.tensor([sum(map(int, answer)) for answer in ANSWERS])


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make a byte-level tokenizer with ChatML's special tokens. verl's agent loop needs a newline to be one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast, max_position_embeddings: int = 512) -> Qwen2ForCausalLM:
    """Make a Qwen2. Its vocabulary has no surplus rows: vLLM masks those and the trainer does not, a rollout KL."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


class Encoder:
    """Prompts and answers as token ids; all prompts have one length, and so have all answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        chats = [[{"role": "user", "content": prompt(total)}] for total in SUMS]
        self.prompts = torch.tensor(
            [
                tokenizer.encode(tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False))
                for c in chats
            ]
        )
        self.answers = torch.tensor([[*tokenizer.encode(answer), tokenizer.eos_token_id] for answer in ANSWERS])

    def log_prob(self, model: Qwen2ForCausalLM, totals: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities of the next token along answers, given by index, (B, DIGITS + 1, V)."""
        ids = torch.cat([self.prompts[totals], self.answers[answers]], dim=1)
        return model(input_ids=ids, logits_to_keep=DIGITS + 2).logits[:, :-1].log_softmax(-1)

    def answer_log_prob(self, model: Qwen2ForCausalLM, totals: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities of whole answers, end token included, (B,)."""
        log_prob = self.log_prob(model, totals, answers)
        return torch.gather(log_prob, 2, self.answers[answers].unsqueeze(-1)).squeeze(-1).sum(-1)


@torch.no_grad()
def exact_statistics(model: Qwen2ForCausalLM, encoder: Encoder) -> dict[str, float]:
    """Return accuracy and effective number of distinct right answers, means over the prompts, by enumeration.

    Each answer is right for exactly one prompt, so one pass over all answers, each after its own prompt, sees them all.
    """
    p = encoder.answer_log_prob(model, SUM_OF_ANSWER, torch.arange(len(ANSWERS))).double().exp()
    accuracy = torch.zeros(len(SUMS), dtype=torch.float64).index_add_(0, SUM_OF_ANSWER, p)
    p = p / accuracy[SUM_OF_ANSWER]
    entropy = torch.zeros_like(accuracy).index_add_(0, SUM_OF_ANSWER, -p * p.log())
    collision = torch.zeros_like(accuracy).index_add_(0, SUM_OF_ANSWER, p.square())
    return {
        "accuracy": float(accuracy.mean()),
        "effective_solutions_entropy": math.exp(entropy.mean()),
        "effective_solutions_collision": 1 / float(collision.mean()),
    }


def warm_start(model: Qwen2ForCausalLM, encoder: Encoder, accuracy: float) -> int:
    """Train on right answers, all equally likely, until the model is right in `accuracy` of its samples.

    The target of each token is its whole distribution, which is known, not one sample of it.

    Returns:
        The number of steps.

    Raises:
        RuntimeError: if MAX_STEPS were not enough.
    """
    right = torch.zeros(len(SUMS), len(ANSWERS)).index_put_((SUM_OF_ANSWER, torch.arange(len(ANSWERS))), torch.ones(()))
    digit_ids = encoder.answers[[int("1" * DIGITS) * digit for digit in range(10)], 0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    rows = torch.arange(BATCH_SIZE)
    for step in range(1, MAX_STEPS + 1):
        totals = torch.randint(len(SUMS), (BATCH_SIZE,))
        answers = torch.multinomial(right[totals], 1).squeeze(-1)
        log_prob = encoder.log_prob(model, totals, answers)
        loss = -log_prob[:, DIGITS, encoder.answers[0, DIGITS]].mean()
        remaining = right[totals].view(BATCH_SIZE, *[10] * DIGITS)
        for position in range(DIGITS):
            weight = remaining.flatten(2).sum(-1) if remaining.dim() > 2 else remaining
            loss = loss - (weight / weight.sum(-1, keepdim=True) * log_prob[:, position, digit_ids]).sum(-1).mean()
            remaining = remaining[rows, answers // 10 ** (DIGITS - 1 - position) % 10]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % STEPS_BETWEEN_CHECKS == 0 and exact_statistics(model, encoder)["accuracy"] >= accuracy:
            return step
    raise RuntimeError(f"the warm start did not reach an accuracy of {accuracy} within {MAX_STEPS} steps")


def write_data(directory: Path, repeat: int) -> None:
    """Write train.parquet, with every prompt `repeat` times so that an epoch is long, and val.parquet."""

    def rows(split: str, times: int) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "data_source": DATA_SOURCE,
                "prompt": [{"role": "user", "content": prompt(total)}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": str(total)},
                "extra_info": {"split": split, "index": index},
            }
            for index, total in enumerate(list(SUMS) * times)
        )

    rows("train", repeat).to_parquet(directory / "train.parquet")
    rows("val", 1).to_parquet(directory / "val.parquet")


def main() -> None:
    """Make everything that the module's docstring names, unless the directory exists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="directory to make; if it exists, nothing is done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accuracy", type=float, default=0.4, help="where the warm start ends")
    arguments = parser.parse_args()
    if arguments.output.exists():
        print(f"{arguments.output} exists, using it")
        return

    torch.set_num_threads(1)  # the tensors are tiny: two threads wait for each other, badly so on a busy machine
    torch.manual_seed(arguments.seed)
    torch.set_flush_denormal(True)  # Adam's state of tokens that never occur decays into denormals, which are slow
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    encoder = Encoder(tokenizer)
    steps = warm_start(model, encoder, arguments.accuracy)
    base = exact_statistics(model, encoder)

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # Made elsewhere and moved into place at once: two runs can start together, and a broken one leaves nothing.
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=arguments.output.parent))
    try:
        model.save_pretrained(temporary / "model")
        tokenizer.save_pretrained(temporary / "model")
        write_data(temporary, repeat=16)
        (temporary / "base.json").write_text(json.dumps(base, indent=1) + "\n")
        os.rename(temporary, arguments.output)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not arguments.output.exists():
            raise
    parameters = sum(p.numel() for p in model.parameters())
    print(f"made {arguments.output}: {parameters} parameters, {steps} supervised steps")
    print(f"the base, by enumeration: {json.dumps(base)}")


if __name__ == "__main__":
    main()
