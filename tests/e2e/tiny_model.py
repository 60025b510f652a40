"""A small model that answers the fixtures' problems in the right format, and now and then rightly.

`python tiny_model.py OUTPUT DATA_DIR`: DATA_DIR as recipes/data/prepare_math.sh or prepare_code.sh writes it. A Qwen2
of 0.3 M parameters, taught right and wrong responses to each problem, so that rewards differ within a group.
"""

import json
import random
import sys
from pathlib import Path

import pandas as pd
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "recipes" / "study"))

from policy import make_model, make_tokenizer  # noqa: E402

STEPS = 250
BATCH_SIZE = 8
LEARNING_RATE = 3e-3
PROGRAMS = 3
"""So many, the shortest, are learned."""


def responses(row: pd.Series, programs: list[str]) -> list[str]:
    """What the model learns to say to a problem, in the format that the prompt asks for.

    An answer to a mathematics problem is right or wrong; a program is right for some other problem, if not for this.
    """
    if row["ability"] == "code":
        return [f"So:\n```python\n{program}\n```" for program in programs]
    return [f"We compute it.\nAnswer: {row['reward_model']['ground_truth']}", "We guess.\nAnswer: 123456"]


def main() -> None:
    output, data_dir = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    random_ = random.Random(0)
    solutions = json.loads((HERE.parent / "recipes" / "data" / "solutions.json").read_text())
    tokenizer = make_tokenizer()
    samples = []
    for file in sorted(data_dir.glob("train/*.parquet")):
        rows = pd.read_parquet(file)
        questions = [info["question"] for info in rows["extra_info"]]
        programs = sorted((solutions[one] for one in questions if one in solutions), key=len)[:PROGRAMS]
        for _, row in rows.iterrows():
            prompt = tokenizer.apply_chat_template(list(row["prompt"]), add_generation_prompt=True, tokenize=False)
            ids = tokenizer.encode(prompt)
            samples += [(ids, [*tokenizer.encode(one), tokenizer.eos_token_id]) for one in responses(row, programs)]
    model = make_model(tokenizer, max_position_embeddings=2048)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(STEPS):
        batch = random_.sample(samples, BATCH_SIZE)
        length = max(len(prompt) + len(answer) for prompt, answer in batch)
        ids = torch.full((BATCH_SIZE, length), tokenizer.pad_token_id)
        labels = torch.full((BATCH_SIZE, length), -100)
        for i, (prompt, answer) in enumerate(batch):
            ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        loss = model(input_ids=ids, attention_mask=ids != tokenizer.pad_token_id, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss of the last batch: {loss.item():.3f} nats a token")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
