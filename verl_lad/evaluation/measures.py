"""Define the measures of the report, and estimate each over problems and runs, with its interval.

Entropies and collision probabilities are averaged over problems, and only their means turned into effective numbers:
exp(mean H) and 1 / mean(probability), the within-group diversities of Jost, "Partitioning diversity into independent
alpha and beta components", Ecology 88:2427-2439, 2007. The mean of exp(H) or of 1 / probability would add a bias that
grows with the noise of a problem, and hence with the lack of correct samples. Over 30 equally likely solutions and N =
16 the mean of exp is 38.9, the exp of the mean 33.3.

Two validations of different accuracy leave out different problems. A share of the base is over the problems that count
in both: training brings in problems that the base hardly ever solved, and the ratio of two separate means would mix
their diversity into the comparison.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verl_lad.evaluation.accuracy import avg_at_k, pass_at_k
from verl_lad.evaluation.bootstrap import percentiles, resampled_means
from verl_lad.evaluation.runs import Run
from verl_lad.evaluation.validation import Problem

Values = Mapping[str, tuple[float, ...]]
"""What a measure averages, for each problem of one run where it is defined: one number, or that now and at step 0."""

MIN_PROBLEMS_TOLD_APART = 10
"""Shared problems below which no algorithm is called better than another, as a bootstrap of fewer is too narrow."""


@dataclass(frozen=True)
class Measure:
    """A measure of a validation. The page's template says what each is.

    Attributes:
        key: its name in `summary.json`.
        title: its name on the page.
        value: its value on a problem; None where it is undefined. Values are averaged over problems.
        link: turns the mean into what is shown, also for arrays; with `against_base` it also takes the mean at step 0.
        against_base: whether it compares with step 0 of the same run, over problems where both values are defined.
        compared: whether more is better; if not, no algorithm is called the best.
        percent: whether it is shown in percent.
        decimals: digits shown after the point.
    """

    key: str
    title: str
    value: Callable[[Problem], float | None]
    link: Callable[..., Any] = lambda mean: mean
    against_base: bool = False
    compared: bool = True
    percent: bool = False
    decimals: int = 2

    @property
    def heading(self) -> str:
        """Its title with its unit."""
        return f"{self.title}, %" if self.percent else self.title

    def values(self, run: Run, benchmark: str, step: int | None) -> Values:
        """Evaluate it on every problem of a validation where it is defined; empty without the validation."""

        def values_at(step: int | None) -> dict[str, float]:
            values = {key: self.value(problem) for key, problem in run.problems(benchmark, step).items()}
            return {key: value for key, value in values.items() if value is not None}

        if not self.against_base:
            return {key: (value,) for key, value in values_at(step).items()}
        base = values_at(0)
        return {key: (value, base[key]) for key, value in values_at(step).items() if key in base}

    def show(self, value: float | None, undefined: str = "–", unbounded: str = "∞") -> str:
        """Format a shown value."""
        if value is None:
            return undefined
        return unbounded if math.isinf(value) else f"{100 * value if self.percent else value:.{self.decimals}f}"


@dataclass(frozen=True)
class Estimate:
    """A measure's mean over problems, runs and benchmarks.

    Attributes:
        value: as shown, see `Measure.link`; inf where no two samples agree.
        low: lower end of the 95 % interval; None for a single problem.
        high: upper end.
        problems: number of problems in it.
        runs: number of runs in it.
    """

    value: float
    low: float | None
    high: float | None
    problems: int
    runs: int


def estimate(measure: Measure, benchmarks: Sequence[Sequence[Values]], resamples: int = 10_000) -> Estimate | None:
    """Average a measure over problems and runs, and then over benchmarks.

    Args:
        measure: the measure.
        benchmarks: for each benchmark, the measure's values in each run of one algorithm. Values on problems that all
            runs share count. If the runs share none, as when each seed has its own problems, all count, and runs are
            not resampled. Benchmarks are resampled independently of each other.
        resamples: number of bootstrap resamples; 0 for no interval.

    Returns:
        Mean and interval; None if a benchmark has no value, or the value is undefined.
    """
    matrices = [_matrix(runs) for runs in benchmarks]
    if any(matrix.size == 0 for matrix in matrices):
        return None
    value = math.fsum(float(measure.link(*matrix.mean((0, 1)))) for matrix in matrices) / len(matrices)
    if math.isnan(value):
        return None
    low = high = None
    if resamples and min(matrix.shape[1] for matrix in matrices) > 1:
        rng = np.random.default_rng(0)
        means = [resampled_means([matrix], rng, resamples)[0] for matrix in matrices]
        statistics = np.mean([measure.link(*mean.T) for mean in means], axis=0)
        if not np.isnan(statistics).any():
            low, high = percentiles(statistics)
    problems = sum(matrix.shape[1] for matrix in matrices)
    return Estimate(value, low, high, problems, runs=max(map(len, benchmarks)))


def is_better(measure: Measure, a: Sequence[Sequence[Values]], b: Sequence[Sequence[Values]]) -> bool:
    """Return whether the paired 95 % interval of a - b is above zero, for two algorithms as in `estimate`.

    Problems that all runs of both share count, at least `MIN_PROBLEMS_TOLD_APART` on each benchmark.
    """
    rng = np.random.default_rng(0)
    differences = []
    for runs_a, runs_b in zip(a, b, strict=True):
        shared = sorted(set.intersection(*(set(run) for run in (*runs_a, *runs_b))))
        if len(shared) < MIN_PROBLEMS_TOLD_APART:
            return False
        sides = [np.array([[run[key] for key in shared] for run in runs]) for runs in (runs_a, runs_b)]
        mean_a, mean_b = (measure.link(*mean.T) for mean in resampled_means(sides, rng, 10_000))
        differences.append(mean_a - mean_b)
    statistics = np.mean(differences, axis=0)
    return not np.isnan(statistics).any() and percentiles(statistics)[0] > 0


def _matrix(runs: Sequence[Values]) -> np.ndarray:
    """Return (R, P, V) on the shared problems, or (1, all, V) if there are none."""
    shared = sorted(set.intersection(*map(set, runs)))
    if shared:
        return np.array([[run[key] for key in shared] for run in runs])
    return np.array([[value for run in runs for value in run.values()]])


def _inverse(probability: Any) -> Any:
    with np.errstate(divide="ignore"):
        return 1.0 / np.float64(probability)


def _inverse_ratio(now: Any, base: Any) -> Any:
    """Return (1 / now) / (1 / base); NaN where the base's own number has no bound, as nothing is a share of that."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.float64(base) > 0.0, base / np.float64(now), np.nan)


def _entropy(problem: Problem) -> float | None:
    return None if problem.solutions.entropy is None else math.log(problem.solutions.entropy)


def _collision(problem: Problem) -> float | None:
    return None if problem.solutions.collision is None else 1.0 / problem.solutions.collision


def pass_measure(k: int) -> Measure:
    """Make Pass@k; it is undefined on a problem with fewer than k samples."""

    def value(problem: Problem) -> float | None:
        return float(pass_at_k([problem.correct], [problem.total], k)[0]) if problem.total >= k else None

    return Measure(f"pass@{k}", f"Pass@{k}", value, percent=True, decimals=1)


def dist_measure(n: int) -> Measure:
    """Make dist-n, for n from 1 to 4."""
    return Measure(
        f"dist_{n}", f"Dist-{n}", lambda problem: problem.text.dist[n - 1] if problem.text else None, decimals=3
    )


AVG = Measure(
    "avg", "Avg@n", lambda problem: float(avg_at_k([problem.correct], [problem.total])[0]), percent=True, decimals=1
)
EFFECTIVE = Measure("effective_solutions", "Effective correct", _entropy, np.exp)
SHARE = Measure(
    "share_of_base",
    "Share of base",
    _entropy,
    lambda now, base: np.exp(now - base),
    against_base=True,
    percent=True,
    decimals=0,
)
COLLISION = Measure("effective_collision", "Effective correct (collision)", _collision, _inverse)
COLLISION_SHARE = Measure(
    "collision_share",
    "Share of base (collision)",
    _collision,
    _inverse_ratio,
    against_base=True,
    percent=True,
    decimals=0,
)
DISTINCT = Measure("distinct_solutions", "Distinct correct", lambda p: float(p.solutions.distinct), decimals=1)
LENGTH = Measure("mean_length", "Length", lambda p: p.text.mean_length if p.text else None, compared=False, decimals=1)

SOLUTIONS = [EFFECTIVE, SHARE, COLLISION, COLLISION_SHARE, DISTINCT]
TEXTS = [*map(dist_measure, range(1, 5)), LENGTH]
