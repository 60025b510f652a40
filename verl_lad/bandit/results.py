"""The experiment's outcome as JSON, for machines, and as a table."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verl_lad.bandit.methods import Method
from verl_lad.bandit.problem import ARMS, CENTRES, HEIGHTS, WIDTH, landscape
from verl_lad.bandit.run import (
    BEHAVIOURS,
    EXPECTATIONS,
    LEARNING_RATE,
    MEASURES,
    REFRESH_EVERY,
    SAMPLES,
    BanditResult,
)
from verl_lad.version import __version__

DIGITS = 6
"""Significant digits in the JSON."""


def write_json(result: BanditResult, path: Path) -> None:
    """Write everything: settings, versions, hardware, seconds, targets, and each run's trace and final policy.

    Args:
        result: what came of the experiment.
        path: file to write; its directory must exist.
    """
    document = {
        "configuration": {
            **asdict(result.config),
            "arms": ARMS,
            "centres": CENTRES,
            "width": WIDTH,
            "heights": HEIGHTS,
            "initial_logits": "standard normal",
            "optimiser": "Adam",
            "learning_rate": LEARNING_RATE,
            "samples": SAMPLES,
            "refresh_every": REFRESH_EVERY,
            "methods": {method.name: _settings(method) for method in result.methods},
        },
        "versions": {"verl_lad": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {"processor": _processor(), "threads": 1},
        "seconds": round(result.seconds, 1),
        "scores": {name: _numbers(landscape(heights)) for name, heights in HEIGHTS.items()},
        "initial_policy": [_numbers(policy) for policy in result.initial],
        "target_policy": {
            name: [_numbers(policy) for policy in policies]
            for name, policies in zip(HEIGHTS, result.target, strict=True)
        },
        "trace_steps": result.steps,
        "runs": [
            {
                "method": method.name,
                "expectation": expectation,
                "heights": heights,
                "behaviour": behaviour,
                "seed": seed,
                "final_policy": _numbers(result.final[m, e, h, b, seed]),
                "trace": {
                    measure: _numbers(result.trace[:, i, m, e, h, b, seed]) for i, measure in enumerate(MEASURES)
                },
            }
            for m, method in enumerate(result.methods)
            for e, expectation in enumerate(EXPECTATIONS)
            for h, heights in enumerate(HEIGHTS)
            for b, behaviour in enumerate(BEHAVIOURS)
            for seed in range(result.config.seeds)
        ],
    }
    path.write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")


def _settings(method: Method) -> dict[str, Any]:
    settings = asdict(method)
    del settings["name"]
    return settings


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def _processor() -> str:
    """Its name where Linux tells it, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def format_table(result: BanditResult) -> str:
    """The last step as a plain-text table: a row for each method, settings side by side, a block for each landscape.

    Args:
        result: what came of the experiment.

    Returns:
        The table with its notes, lines separated by newlines, no trailing newline.
    """
    settings = [(behaviour, expectation) for behaviour in BEHAVIOURS for expectation in EXPECTATIONS]
    names = [method.name for method in result.methods]
    width = max(map(len, names))
    cell = 20
    blocks = []
    for heights, peaks in HEIGHTS.items():
        rows = [
            f"three modes of {heights} heights, {', '.join(f'{peak:g}' for peak in peaks)}",
            " " * width + "".join(f"{f'{b}, {e}':>{cell}}" for b, e in settings),
            " " * width + f"{'TV to target  modes':>{cell}}" * len(settings),
        ]
        rows.insert(1, "-" * len(rows[-1]))
        start = _cell(result, names[0], heights, *settings[0], point=0)
        rows.append(f"{'untrained':<{width}}" + f"{start:>{cell}}" * len(settings))
        for name in names:
            cells = (_cell(result, name, heights, behaviour, expectation, -1) for behaviour, expectation in settings)
            rows.append(f"{name:<{width}}" + "".join(f"{text:>{cell}}" for text in cells))
        blocks.append("\n".join(rows))
    return "\n\n".join([*blocks, _notes(result)])


def _cell(result: BanditResult, method: str, heights: str, behaviour: str, expectation: str, point: int) -> str:
    setting = (method, expectation, heights, behaviour)
    distance = result.values("total_variation", *setting)[point]
    modes = result.values("modes_recovered", *setting)[point]
    spread = f"{distance.std().item():.3f}" if len(distance) > 1 else "-"
    return f"{distance.mean().item():.3f} ± {spread:<5}  {modes.mean().item():.1f}"


def _notes(result: BanditResult) -> str:
    config = result.config
    return f"""\
target: pi* = pi_0 exp(s / eta) / Z; s the score, eta = {config.eta:g}, pi_0 the untrained policy.
TV: total-variation distance, mean ± standard deviation over {config.seeds} seeds.
modes: of 3, mean over the seeds. One is recovered if its basin (the arms of at least half of the peak's height) holds
    half of its mass under pi*, and has made half of the rise from pi_0 to it.
fixed: pi_old = pi_0 throughout, the paper's setting. refreshed: pi_old = the current policy, taken anew every
    {REFRESH_EVERY} steps, as in training.
exact: sum over the {ARMS} arms. sampled: {SAMPLES} arms a step, with advantages relative to their own group.
lad-tv: no unique optimum where Z > 1, as here; partition=group centres Z. lad-js-anchored: anchor=reference, ours.
{config.steps} steps, learning rate {LEARNING_RATE:g}. Adam, pi_0, s and eta are ours: the paper's are not known."""
