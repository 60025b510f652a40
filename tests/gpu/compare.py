"""`python3 compare.py RUN ...` reads the metrics of runs of train.sh: health, medians of step times, and ratios.

Writes a table to standard output; exit status 1 if a run is not healthy. The last run is the baseline of the ratios.
"""

import json
import math
import statistics
import sys
from pathlib import Path

TIMES = ("timing_s/step", "timing_s/update_actor", "timing_s/gen", "timing_s/update_weights", "timing_s/adv")
WARM_UP = 3
"""Steps left out of the medians."""
LARGEST_KL = 0.01
"""Of the rollout's log-probs against the trainer's. bfloat16 gives 1e-4 to 1e-3; stale weights give more than this."""


def steps_of(run: Path) -> list[dict[str, float]]:
    """Return the metrics of each training step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.strip()]
    return [row["data"] for row in rows if "actor/grad_norm" in row["data"]]


def complaints(run: Path, steps: list[dict[str, float]]) -> list[str]:
    """Return what makes the run unhealthy."""
    texts = [] if len(steps) > WARM_UP else [f"{len(steps)} training steps"]
    for number, step in enumerate(steps, 1):
        if not 0 < step["actor/grad_norm"] < math.inf:
            texts.append(f"step {number}: actor/grad_norm={step['actor/grad_norm']}")
        if not abs(step["rollout_corr/kl"]) < LARGEST_KL:
            texts.append(f"step {number}: rollout_corr/kl={step['rollout_corr/kl']}")
        if run.name.startswith("lad") and "actor/lad/divergence" not in step:
            texts.append(f"step {number}: no actor/lad/divergence")
    return texts


def main() -> int:
    runs = {run.name: steps_of(run) for run in map(Path, sys.argv[1:])}
    faults = [f"{name}: {text}" for name, steps in runs.items() for text in complaints(Path(name), steps)]
    medians = {
        name: {key: statistics.median(step[key] for step in steps[WARM_UP:]) for key in TIMES if key in steps[-1]}
        for name, steps in runs.items()
        if len(steps) > WARM_UP
    }
    baseline = medians.get(list(runs)[-1], {})
    print("| run | steps | reward, first and last 3 steps | rollout KL, largest | " + " | ".join(TIMES) + " |")
    print("|" + " --- |" * (4 + len(TIMES)))
    for name, steps in runs.items():
        rewards = [step["critic/score/mean"] for step in steps]
        ends = f"{statistics.mean(rewards[:3]):.3f}, {statistics.mean(rewards[-3:]):.3f}" if steps else "-"
        kl = max((abs(step["rollout_corr/kl"]) for step in steps), default=math.nan)
        cells = []
        for key in TIMES:
            value, other = medians.get(name, {}).get(key), baseline.get(key)
            cells.append("-" if value is None or not other else f"{value:.3f} s ({value / other:.3f})")
        print(f"| {name} | {len(steps)} | {ends} | {kl:.1e} | " + " | ".join(cells) + " |")
        last = steps[-1] if steps else {}
        print("  last step:", {key: round(value, 5) for key, value in last.items() if key.startswith("actor/lad/")})
    print("\n".join(faults) or "every run is healthy")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
