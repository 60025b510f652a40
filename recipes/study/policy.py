"""Make the study's policy, encode a task for it, and measure it by enumeration of all right answers."""

from dataclasses import dataclass
from typing import Any

import torch
from tasks import Task
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

# ChatML without the roles' names: with one token a byte, they would be most of a prompt.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


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
    """Make a Qwen2 of 0.3 M parameters with random weights.

    Its vocabulary has no surplus rows: vLLM masks those and the trainer does not, which would show as rollout KL.
    """
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


@dataclass(frozen=True)
class Encoded:
    """Prompts of a task with their answers, N rows padded on the right to L tokens.

    Attributes:
        ids: (N, L) int64.
        answer_mask: (N, L) bool, the answer's tokens and the end token.
        prompt: (N,) int64, the row's prompt.
        prompts: number of prompts.
    """

    ids: torch.Tensor
    answer_mask: torch.Tensor
    prompt: torch.Tensor
    prompts: int


def encode(answers: dict[str, tuple[str, ...]], tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Encode answers by prompt: a chat of one message, as verl's agent loop does, the answer and the end token."""
    rows, masks, prompt = [], [], []
    for index, (text, texts) in enumerate(answers.items()):
        chat = [{"role": "user", "content": text}]
        head = tokenizer.encode(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        for answer in texts:
            tail = [*tokenizer.encode(answer), tokenizer.eos_token_id]
            rows.append(torch.tensor(head + tail))
            masks.append(torch.tensor([False] * len(head) + [True] * len(tail)))
            prompt.append(index)
    return Encoded(
        pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(masks, batch_first=True),
        torch.tensor(prompt),
        len(answers),
    )


def encode_right(task: Task, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Encode all right answers, for `exact_statistics`."""
    return encode({prompt: answers.right for prompt, answers in task.items()}, tokenizer)


@torch.no_grad()
def exact_statistics(model: Any, encoded: Encoded, rows_at_once: int = 512) -> dict[str, list[float]]:
    """Measure the policy on each prompt at temperature 1, without sampling error.

    Returns:
        accuracy: probability of a right answer. entropy: of the right answers among themselves, in nats; its exp is the
        effective number of distinct solutions. collision: probability that two right answers are the same.
    """
    log_probs = []
    for rows, mask in zip(encoded.ids.split(rows_at_once), encoded.answer_mask.split(rows_at_once), strict=True):
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[:, :-1]
        token = torch.gather(logits.float().log_softmax(-1), 2, rows[:, 1:, None]).squeeze(-1)
        log_probs.append((token * mask[:, 1:]).sum(-1))
    log_prob = torch.cat(log_probs).double()

    def by_prompt(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(encoded.prompts, dtype=torch.float64).index_add_(0, encoded.prompt, values)

    accuracy = by_prompt(log_prob.exp())
    share = log_prob - accuracy.log()[encoded.prompt]
    return {
        "accuracy": accuracy.tolist(),
        "entropy": by_prompt(-share.exp() * share).tolist(),
        "collision": by_prompt((2 * share).exp()).tolist(),
    }
