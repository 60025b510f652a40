"""Make a study's base models, of two kinds.

calibrated  says a right answer with probability ACCURACY, else a wrong one, all of a kind equally likely. It is like a
            model that learned from text with mistakes: RL has to choose among what it knows.
imprecise   trained on right answers alone until it is right with probability ACCURACY. It has not learned the task
            yet: RL has to teach it.

    python bases.py OUTPUT --task digits --kind calibrated --accuracy 0.4 --seed 0

Writes OUTPUT/model, OUTPUT/train.parquet, OUTPUT/val.parquet (verl's format) and OUTPUT/base.json, the base's exact
statistics. Deterministic on one kind of CPU; about a minute on one core. Does nothing if OUTPUT exists.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from policy import Encoded, encode, encode_right, exact_statistics, make_model, make_tokenizer
from tasks import MAKERS, Task, get_task

KINDS = ("calibrated", "imprecise")
LEARNING_RATE = 2e-3
BATCH_SIZE = 64
MAX_STEPS = 4000
STEPS_BETWEEN_CHECKS = 10
CALIBRATED_WITHIN = 0.05  # nats an answer, KL from the distribution that it is trained on
ROWS_PER_PROMPT = 512  # rows of the data set: an epoch is many steps


def next_token_targets(encoded: Encoded, weight: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the next token's distribution, (N, L - 1, V), if row n is said with probability weight[n], (N,)."""
    ids, mask = encoded.ids, encoded.answer_mask
    mass: dict[tuple[int, ...], torch.Tensor] = {}
    places = [(row, position) for row in range(len(ids)) for position in torch.nonzero(mask[row]).flatten().tolist()]
    for row, position in places:
        beginning = tuple(ids[row, :position].tolist())
        mass.setdefault(beginning, torch.zeros(vocabulary))[ids[row, position]] += weight[row]
    targets = torch.zeros(*ids[:, 1:].shape, vocabulary)
    for row, position in places:
        next_mass = mass[tuple(ids[row, :position].tolist())]
        targets[row, position - 1] = next_mass / next_mass.sum()
    return targets


def warm_start(model: Any, tokenizer: Any, task: Task, kind: str, accuracy: float) -> int:
    """Train with known next-token distributions, and return the number of steps.

    Raises:
        RuntimeError: if MAX_STEPS were not enough.
    """
    share_right = accuracy if kind == "calibrated" else 1.0
    right = encode_right(task, tokenizer)
    encoded = encode({prompt: (*answers.right, *answers.wrong) for prompt, answers in task.items()}, tokenizer)
    weight = torch.cat(
        [
            torch.tensor(
                [share_right / len(a.right)] * len(a.right) + [(1 - share_right) / len(a.wrong)] * len(a.wrong)
            )
            for a in task.values()
        ]
    )
    targets = next_token_targets(encoded, weight, model.config.vocab_size)
    entropy = -torch.special.xlogy(targets, targets).sum((1, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    recent = [float("inf")]
    for step in range(1, MAX_STEPS + 1):
        rows = torch.multinomial(weight, BATCH_SIZE, replacement=True)
        ids = encoded.ids[rows]
        log_prob = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.log_softmax(-1)
        cross_entropy = -(targets[rows] * log_prob[:, :-1]).sum((1, 2))
        optimizer.zero_grad()
        cross_entropy.mean().backward()
        optimizer.step()
        recent = [*recent[-(STEPS_BETWEEN_CHECKS - 1) :], float((cross_entropy.detach() - entropy[rows]).mean())]
        if step % STEPS_BETWEEN_CHECKS == 0:
            if kind == "calibrated":
                done = sum(recent) / len(recent) <= CALIBRATED_WITHIN
            else:
                reached = exact_statistics(model, right)["accuracy"]
                done = sum(reached) / len(reached) >= accuracy
            if done:
                return step
    raise RuntimeError(f"the warm start ({kind}, accuracy {accuracy}) was not done after {MAX_STEPS} steps")


def write_data(directory: Path, name: str, task: Task) -> None:
    """Write train.parquet and val.parquet in verl's format."""
    for split, times in (("train", ROWS_PER_PROMPT), ("val", 1)):
        pd.DataFrame(
            {
                "data_source": name,
                "prompt": [{"role": "user", "content": prompt}],
                "reward_model": {"style": "rule", "ground_truth": prompt},
                "extra_info": {"split": split, "index": index},
            }
            for index, prompt in enumerate(list(task) * times)
        ).to_parquet(directory / f"{split}.parquet")


def make(output: Path, name: str, kind: str, accuracy: float, seed: int) -> None:
    """Write the directory that the module's docstring describes, unless it exists."""
    if output.exists():
        return
    torch.set_num_threads(1)  # the tensors are tiny: two threads wait for each other, badly so on a busy machine
    torch.set_flush_denormal(True)  # Adam's state of tokens that never occur decays into denormals, which are slow
    torch.manual_seed(seed)
    task = get_task(name)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    steps = warm_start(model, tokenizer, task, kind, accuracy)
    statistics = exact_statistics(model, encode_right(task, tokenizer))
    output.parent.mkdir(parents=True, exist_ok=True)
    # Made elsewhere and moved into place at once: two runs can start together, and a broken one leaves nothing.
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=output.parent))
    try:
        model.save_pretrained(temporary / "model")
        tokenizer.save_pretrained(temporary / "model")
        write_data(temporary, name, task)
        (temporary / "base.json").write_text(json.dumps({"steps": steps, **statistics}) + "\n")
        os.rename(temporary, output)
    except OSError:
        if not output.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main() -> None:
    """Make one base model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", choices=list(MAKERS), required=True)
    parser.add_argument("--kind", choices=KINDS, default="calibrated")
    parser.add_argument("--accuracy", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.output, arguments.task, arguments.kind, arguments.accuracy, arguments.seed)


if __name__ == "__main__":
    main()
