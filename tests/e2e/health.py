"""What a healthy run of verl with LAD looks like, read from what the run left behind."""

import math
import re
from pathlib import Path

from verl_lad.adapters.verl.policy_loss import METRIC_NAMES
from verl_lad.evaluation import read_metrics

MAX_ROLLOUT_KL = 1e-6
"""Rollout server against trainer, both with the same float32 weights: 1e-8 when healthy, 0.07 without weight sync."""


def training_steps(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Each training step of a run, over all its starts, with verl's metrics."""
    return [(step, metrics) for step, metrics in read_metrics(run_dir) if "actor/grad_norm" in metrics]


def logged(run_dir: Path) -> bool:
    """Whether the metrics of a training step are written."""
    return any('"actor/grad_norm"' in file.read_text() for file in run_dir.glob("metrics*.jsonl"))


def complaints(run_dir: Path, log: str, steps: int, ranks: int, max_rollout_kl: float = MAX_ROLLOUT_KL) -> list[str]:
    """Everything that is wrong with a finished run, one line each; empty for a healthy one."""
    found = []
    trained = training_steps(run_dir)
    if len(trained) != steps:
        found.append(f"{len(trained)} training steps, not {steps}")
    for step, (_, metrics) in enumerate(trained, start=1):
        for name in METRIC_NAMES.values():
            if not math.isfinite(metrics.get(name, math.nan)):
                found.append(f"step {step}: metric {name} is {metrics.get(name, 'missing')}")
        if not 0 < metrics["actor/grad_norm"] < math.inf:
            found.append(f"step {step}: grad_norm is {metrics['actor/grad_norm']}")
        if not abs(metrics["rollout_corr/kl"]) < max_rollout_kl:
            found.append(f"step {step}: rollout KL is {metrics['rollout_corr/kl']}")
    speakers = set(re.findall(r"policy loss lad in process (\d+): LADConfig", log))
    if len(speakers) != ranks:
        found.append(f"{len(speakers)} workers used the registered loss, not {ranks}")
    return found
