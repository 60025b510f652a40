"""Measure the checkpoints of a run by enumeration of all right answers, as the study does, without sampling error.

    python measure.py RUN_DIR --base BASE --task digits

BASE is what ../study/bases.py made. Writes RUN_DIR/exact.jsonl, a line for the base (step 0) and for each checkpoint
that holds a Hugging Face model, and prints the same as a table:

accuracy  probability of a right answer, mean over the prompts.
share     exp of the mean over the prompts of H - H_base: the effective number of distinct solutions, relative to the
          base's. H is the entropy of the right answers among themselves.
pass@16   probability that one of 16 answers is right, mean over the prompts.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "study"))
from curves import pass_at, solutions_kept
from policy import encode_right, exact_statistics
from tasks import MAKERS, get_task

K = 16
COLUMNS = ("step", "accuracy", "share", f"pass@{K}")


def summary(step: int, statistics: dict[str, list[float]], base: dict[str, list[float]]) -> dict[str, float]:
    """Return the columns of one policy from its statistics by prompt (policy.exact_statistics) and the base's."""
    share = float(solutions_kept(np.array(statistics["entropy"]), np.array(base["entropy"])))
    passed = float(pass_at(np.array(statistics["accuracy"]), K))
    return dict(zip(COLUMNS, (step, fmean(statistics["accuracy"]), share, passed), strict=True))


def main() -> None:
    """Measure a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--task", choices=list(MAKERS), required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    base = json.loads((arguments.base / "base.json").read_text())
    right = encode_right(get_task(arguments.task), AutoTokenizer.from_pretrained(arguments.base / "model"))
    lines = [summary(0, base, base)]
    saved = arguments.run_dir.glob("checkpoints/global_step_*/actor/huggingface/model.safetensors")
    models = {int(file.parents[2].name.removeprefix("global_step_")): file.parent for file in saved}
    for step in sorted(models):
        model, read = Qwen2ForCausalLM.from_pretrained(models[step], dtype=torch.float32, output_loading_info=True)
        if read["missing_keys"]:
            raise ValueError(f"{models[step]} is no whole Qwen2: {sorted(read['missing_keys'])[0]} is missing")
        lines.append(summary(step, exact_statistics(model.eval(), right), base))
    (arguments.run_dir / "exact.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(*(f"{name:>10}" for name in COLUMNS))
    for step, *values in (line.values() for line in lines):
        print(f"{step:>10}", *(f"{value:>10.3f}" for value in values))


if __name__ == "__main__":
    main()
