"""Compute from a run's records how accurate and how diverse its policy was, step by step.

Accuracies, entropies and collision probabilities are exact (policy.exact_statistics): a run's curve has no measurement
error. Seeds differ in base model, order of prompts and sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from plan import Run, base_name
from results import Records, is_of, read_packed

LAST = 5  # measurements, two steps apart, whose mean stands for a run's end, and over which the figures are smoothed
PROMPTS_A_STEP = 8  # run_study.sh, TRAIN_BATCH_SIZE


def solutions_kept(entropy: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return effective solutions as a share of the base's: exp of the mean of H - H_base over (..., P) and (P,)."""
    return np.exp((entropy - base).mean(-1))


def pass_at(accuracy: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that one of k samples is right, mean over prompts: (..., P)."""
    return (1 - (1 - accuracy) ** k).mean(-1)


class Crossing(NamedTuple):
    """A run where its accuracy first reaches a level."""

    samples: float
    share: float
    collision_share: float


@dataclass(frozen=True)
class Curve:
    """A finished run: S measurements, the first of them of the base, of P prompts.

    Attributes:
        run: the header.
        samples: (S,).
        accuracy, entropy, collision: (S, P), as in policy.exact_statistics.
        records: the S - 1 measurements after the base's.
        seconds: of the whole run.
        actor_peak_mb: most memory of the actor's process; None in older files.
    """

    run: dict[str, Any]
    samples: np.ndarray
    accuracy: np.ndarray
    entropy: np.ndarray
    collision: np.ndarray
    records: Records
    seconds: float
    actor_peak_mb: float | None = None

    @classmethod
    def read(cls, records: Records) -> "Curve":
        """Make a curve of a run's records."""
        header, *measured, last = records
        exact = {key: np.array([r["exact"][key] for r in measured]) for key in ("accuracy", "entropy", "collision")}
        samples = np.array([0, *(r["samples"] for r in measured[1:])], dtype=np.float64)
        return cls(header, samples, **exact, records=measured[1:], seconds=last["seconds"],
                   actor_peak_mb=last.get("actor_peak_mb"))  # fmt: skip

    @property
    def base(self) -> str:
        """Name of the base model."""
        return base_name(*(self.run[key] for key in ("task", "kind", "base_accuracy", "seed")))

    @property
    def mean_accuracy(self) -> np.ndarray:
        """(S,)."""
        return self.accuracy.mean(1)

    @property
    def share(self) -> np.ndarray:
        """(S,) effective solutions as a share of the base's."""
        return solutions_kept(self.entropy, self.entropy[0])

    @property
    def collision_share(self) -> np.ndarray:
        """(S,) the same from the collision probability, whose inverse is an effective number too."""
        return np.exp(np.log(self.collision[0] / self.collision).mean(1))

    def pass_at(self, k: int) -> np.ndarray:
        """Return (S,) the probability that one of k samples is right, mean over prompts."""
        return pass_at(self.accuracy, k)

    @property
    def response_entropy(self) -> np.ndarray:
        """(S - 1,) nats of a response, in samples of the policy that began the step.

        verl aggregates actor/entropy as the loss: summed over the response, or a mean over tokens, which the mean
        length turns into the mean sum.
        """
        summed = self.run["env"].get("RATIO") == "sequence"
        return np.array([r["entropy"] * (1.0 if summed else r["response_length"]) for r in self.records])

    def crossing(self, level: float) -> Crossing | None:
        """Return where the accuracy first reaches `level`, linear between measurements; None if it never does."""
        accuracy = self.mean_accuracy
        reached = np.flatnonzero(accuracy >= level)
        if not len(reached):
            return None
        after = int(reached[0])
        before = max(after - 1, 0)
        rise = accuracy[after] - accuracy[before]
        weight = (level - accuracy[before]) / rise if rise > 0 else 0.0
        values = (self.samples, self.share, self.collision_share)
        return Crossing(*(float(v[before] + weight * (v[after] - v[before])) for v in values))

    @property
    def largest_fall(self) -> float:
        """The most by which the accuracy was below its best so far."""
        return float((np.maximum.accumulate(self.mean_accuracy) - self.mean_accuracy).max())

    def step_seconds(self, phase: str) -> np.ndarray:
        """Return seconds a step of a phase of training, one for each measured stretch of steps."""
        until = np.array([0.0, *(r["seconds"].get(phase, 0.0) for r in self.records)])
        return np.diff(until) / np.diff([0, *(r["step"] for r in self.records)])

    def score_excess(self) -> tuple[float, float]:
        """Return the sum over measured steps of sampled score minus exact accuracy, and its sampling variance.

        A step's samples come from the policy after step - 1, whose accuracy is interpolated between two measurements.
        The score of n samples of b random prompts has the variance var(p) / b + mean(p (1 - p)) / n.
        """
        steps = np.array([0, *(r["step"] for r in self.records)])
        samples_a_step = int(self.samples[1] / steps[1])
        excess = variance = 0.0
        for i, record in enumerate(self.records, start=1):
            excess += record["score"] - float(np.interp(record["step"] - 1, steps, self.mean_accuracy))
            p = (self.accuracy[i - 1] + self.accuracy[i]) / 2
            variance += p.var() / PROMPTS_A_STEP + (p * (1 - p)).mean() / samples_a_step
        return excess, variance


Curves = dict[tuple[str, str, str, int], Curve]  # by group, task, method, seed


def read_curves(path: Path, plan: Sequence[Run]) -> tuple[Curves, list[str]]:
    """Return the plan's runs, and the names of packed runs that the plan does not have with their settings."""
    planned = {run.name: run for run in plan}
    curves: Curves = {}
    others = []
    for name, records in read_packed(path).items():
        run = planned.get(name)
        if run is None or not is_of(run, records):
            others.append(name)
        else:
            curves[run.group, run.task, run.method, run.seed] = Curve.read(records)
    return curves, others


def of_seeds(curves: Curves, group: str, task: str, method: str) -> list[Curve]:
    """Return the runs of a method on a task, by seed."""
    return [curve for (g, t, m, _), curve in sorted(curves.items()) if (g, t, m) == (group, task, method)]


def end(values: np.ndarray) -> float:
    """Return the mean of the last measurements."""
    return float(values[-LAST:].mean())


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean over LAST measurements, fewer at the beginning; the last value is `end`."""
    return np.array([values[max(0, i - LAST + 1) : i + 1].mean() for i in range(len(values))])
