"""Train on the demo's task in TRL's GRPOTrainer, with LAD or without, on one CPU core. See ../run_trl_demo.sh.

The program writes what verl would, validation/<step>.jsonl and metrics.jsonl, so that `verl-lad report` reads both
trainers alike. A step is one generation and its updates.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from verl_lad.adapters.trl import LADTrainer, LADTrainerConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "study"))
from policy import encode_right, exact_statistics
from tasks import compute_score, get_task

TRAINERS = {
    "lad": (LADTrainer, LADTrainerConfig),
    "lad_anchored": (LADTrainer, LADTrainerConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
}
TASK = "digits"
VERL_NAMES = {
    "reward": "critic/score/mean",
    "entropy": "actor/entropy",
    "grad_norm": "actor/grad_norm",
    "lad/ppo_kl": "actor/ppo_kl",
}


@dataclass
class Demo:
    """Arguments of this program, beside TRL's."""

    assets: str
    test_freq: int
    val_samples: int


class Record(TrainerCallback):
    """Validate before training and every test_freq steps, and keep the metrics."""

    def __init__(self, demo: Demo, config: GRPOConfig, tokenizer: PreTrainedTokenizerBase):
        self.demo, self.tokenizer = demo, tokenizer
        self.prompts, self.right = list(get_task(TASK)), encode_right(get_task(TASK), tokenizer)
        self.directory = Path(config.output_dir)
        self.updates = config.steps_per_generation * config.num_iterations

    def on_train_begin(self, args: Any, state: Any, control: Any, model: PreTrainedModel, **_: Any) -> None:
        self.validate(model, step=0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: PreTrainedModel, **_: Any) -> None:
        step, within = divmod(state.global_step, self.updates)
        if within == 0 and (step % self.demo.test_freq == 0 or state.global_step == state.max_steps):
            self.validate(model, step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            data = {VERL_NAMES.get(name, f"actor/{name}"): value for name, value in logs.items()}
            with (self.directory / "metrics.jsonl").open("a") as file:
                print(json.dumps({"step": state.global_step // self.updates, "data": data}), file=file)

    @torch.no_grad()
    def validate(self, model: PreTrainedModel, step: int) -> None:
        """Write samples of every prompt as verl dumps them, and print the policy's exact statistics."""
        model.eval()
        chats = [[{"role": "user", "content": prompt}] for prompt in self.prompts for _ in range(self.demo.val_samples)]
        asked = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        made = model.generate(**asked, do_sample=True, max_new_tokens=8, top_k=0)
        exact = {name: fmean(values) for name, values in exact_statistics(model, self.right).items()}
        print(f"step {step}, by enumeration: {json.dumps(exact)}", flush=True)
        model.train()
        texts = self.tokenizer.batch_decode(made[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        path = self.directory / "validation" / f"{step}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as file:
            for number, text in enumerate(texts):
                prompt = self.prompts[number // self.demo.val_samples]
                line = {"input": prompt, "output": text, "gts": prompt, "step": step}
                print(json.dumps(line | compute_score(TASK, text, prompt)), file=file)


def reward(completions: list[list[dict[str, str]]], ground_truth: list[str], **_: Any) -> list[float]:
    return [
        compute_score(TASK, completion[0]["content"], truth)["score"]
        for completion, truth in zip(completions, ground_truth, strict=True)
    ]


def main() -> None:
    """Train."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--algo", choices=TRAINERS, required=True)
    algo, others = first.parse_known_args()
    trainer_class, config_class = TRAINERS[algo.algo]
    demo, config = HfArgumentParser((Demo, config_class)).parse_args_into_dataclasses(others)

    torch.set_num_threads(1)  # the tensors are tiny: two threads wait for each other, badly so on a busy machine
    torch.set_flush_denormal(True)  # Adam's state of tokens that never occur decays into denormals, which are slow
    assets = Path(demo.assets)
    tokenizer = AutoTokenizer.from_pretrained(assets / "model", padding_side="left")
    rows = pd.read_parquet(assets / "train.parquet").itertuples()
    data = [{"prompt": list(row.prompt), "ground_truth": row.reward_model["ground_truth"]} for row in rows]
    trainer_class(
        str(assets / "model"),
        reward,
        config,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[Record(demo, config, tokenizer)],
    ).train()


if __name__ == "__main__":
    main()
