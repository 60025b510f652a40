"""Estimate each measure for every algorithm, benchmark and step, with its interval: the one table of the report.

Collision probabilities are averaged over problems, and only their mean turned into an effective number: 1 / mean, the
within-group diversity of Jost, "Partitioning diversity into independent alpha and beta components", Ecology
88:2427-2439, 2007. The mean of 1 / probability would add a bias that grows with the lack of correct samples.

Two validations of different accuracy leave out different problems. A share of the base is over the problems that count
in both: training brings in problems that the base hardly ever solved, and the ratio of two separate means would mix
their diversity into the comparison.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np

from verl_lad.evaluation.accuracy import pass_at_k
from verl_lad.evaluation.bootstrap import percentiles, resampled_means
from verl_lad.evaluation.records import Complain
from verl_lad.evaluation.runs import Run
from verl_lad.evaluation.validation import DIST_ORDERS, Key, Problem

RESAMPLES = 1000

Values = Mapping[Key, tuple[float, ...]]
"""What a measure averages, for each problem of one run where it is defined: one number, or that now and at step 0."""


@dataclass(frozen=True)
class Measure:
    """A measure of a validation. The page's template says what each is.

    Attributes:
        key: its name in `summary.json`.
        title: its name in the table.
        value: its value on a problem; None where it is undefined. Values are averaged over problems.
        link: turns the mean into what is shown, also for arrays; with `against_base` it also takes the mean at step 0.
        against_base: whether it compares with step 0 of the same run, over problems where both values are defined.
        format: how a number is shown.
    """

    key: str
    title: str
    value: Callable[[Problem], float | None]
    link: Callable[..., Any] = lambda mean: mean
    against_base: bool = False
    format: str = ".3f"

    def values(self, run: Run, benchmark: str, step: int) -> Values:
        """Evaluate it on every problem of a validation where it is defined; empty without the validation."""
        steps = (step, 0) if self.against_base else (step,)
        defined = [
            {
                key: value
                for key, problem in run.problems(benchmark, s).items()
                if (value := self.value(problem)) is not None
            }
            for s in steps
        ]
        return {key: tuple(at[key] for at in defined) for key in defined[0] if all(key in at for at in defined)}

    def show(self, value: float) -> str:
        """Format a number."""
        return "inf" if math.isinf(value) else f"{value:{self.format}}"


@dataclass(frozen=True)
class Estimate:
    """A measure's mean over problems and runs.

    Attributes:
        value: as shown, see `Measure.link`; inf where no two samples agree.
        low: lower end of the 95 % interval; None for a single problem.
        high: upper end.
        problems: number of problems in it.
    """

    value: float
    low: float | None
    high: float | None
    problems: int


@dataclass(frozen=True)
class Row:
    """A validation of the runs of one algorithm.

    Attributes:
        algorithm: the algorithm.
        benchmark: the benchmark.
        step: the step of the validation.
        runs: number of runs that have it.
        problems: number of problems that count.
        samples: number of samples of all runs.
        estimates: by measure's key, without measures that are defined on no problem.
    """

    algorithm: str
    benchmark: str
    step: int
    runs: int
    problems: int
    samples: int
    estimates: dict[str, Estimate]


def estimate(measure: Measure, runs: Sequence[Values]) -> Estimate | None:
    """Average a measure over problems and runs.

    Args:
        measure: the measure.
        runs: its values in each run. Values on problems that all runs share count. If the runs share none, as when each
            seed has its own problems, all count, and runs are not resampled.

    Returns:
        Mean and interval; None if there is no value, or it is undefined.
    """
    shared = [key for key in runs[0] if all(key in run for run in runs)]
    if shared:
        matrix = np.array([[run[key] for key in shared] for run in runs])  # (R, P, V)
    else:
        matrix = np.array([[value for run in runs for value in run.values()]])
    if matrix.size == 0:
        return None
    value = float(measure.link(*matrix.mean((0, 1))))
    if math.isnan(value):
        return None
    low = high = None
    if matrix.shape[1] > 1:
        (means,) = resampled_means([matrix], np.random.default_rng(0), RESAMPLES)
        statistics = measure.link(*means.T)
        if not np.isnan(statistics).any():
            low, high = percentiles(statistics)
    return Estimate(value, low, high, matrix.shape[1])


def _inverse(probability: Any) -> Any:
    with np.errstate(divide="ignore"):
        return 1.0 / np.float64(probability)


def _inverse_ratio(now: Any, base: Any) -> Any:
    """Return (1 / now) / (1 / base); NaN where the base's own number has no bound, as nothing is a share of that."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.float64(base) > 0.0, base / np.float64(now), np.nan)


def pass_measure(k: int) -> Measure:
    """Make Pass@k; it is undefined on a problem with fewer than k samples."""

    def value(problem: Problem) -> float | None:
        return float(pass_at_k([problem.correct], [problem.total], k)[0]) if problem.total >= k else None

    return Measure(f"pass@{k}", f"Pass@{k}", value)


def dist_measure(n: int) -> Measure:
    """Make dist-n."""
    return Measure(f"dist_{n}", f"Dist-{n}", lambda problem: problem.dist[DIST_ORDERS.index(n)])


AVG = Measure("avg", "Avg@n", lambda problem: problem.correct / problem.total)
EFFECTIVE = Measure("effective_solutions", "Effective", lambda p: p.collision, _inverse, format=".2f")
SHARE = Measure("share_of_base", "Of base", lambda p: p.collision, _inverse_ratio, against_base=True, format=".0%")
DISTINCT = Measure("distinct_solutions", "Distinct", lambda problem: float(problem.distinct), format=".1f")
LENGTH = Measure("mean_length", "Length", lambda problem: problem.length, format=".1f")


def make_rows(runs: Sequence[Run], complain: Complain) -> list[Row]:
    """Estimate every measure for each algorithm, benchmark and step; say where its runs have different problems."""
    rows = []
    for algorithm in dict.fromkeys(run.algorithm for run in runs):
        group = [run for run in runs if run.algorithm == algorithm]
        for benchmark in dict.fromkeys(benchmark for run in group for benchmark in run.benchmarks):
            for step in sorted({step for run in group for step in run.validations}):
                validated = [run for run in group if run.problems(benchmark, step)]
                if validated:
                    rows.append(_make_row(validated, benchmark, step, complain))
    return rows


def _make_row(runs: Sequence[Run], benchmark: str, step: int, complain: Complain) -> Row:
    problems = [run.problems(benchmark, step) for run in runs]
    shared, in_all = len(set(problems[0]).intersection(*problems)), len(set().union(*problems))
    if shared < in_all:
        used = f"the {shared} that all have count" if shared else "none is shared, so all count"
        complain(
            f"{runs[0].algorithm} on {benchmark}, step {step}: the {len(runs)} runs have different problems, "
            f"{in_all} in all; {used}"
        )
    measures = [AVG, *map(pass_measure, _powers_of_two(problems)), EFFECTIVE, SHARE, DISTINCT]
    measures += [*map(dist_measure, DIST_ORDERS), LENGTH]
    estimates = {m.key: estimate(m, [m.values(run, benchmark, step) for run in runs]) for m in measures}
    return Row(
        algorithm=runs[0].algorithm,
        benchmark=benchmark,
        step=step,
        runs=len(runs),
        problems=shared or in_all,
        samples=sum(problem.total for of_run in problems for problem in of_run.values()),
        estimates={key: found for key, found in estimates.items() if found is not None},
    )


def _powers_of_two(problems: Sequence[Mapping[Key, Problem]]) -> list[int]:
    """Return 2, 4, ... up to the number of samples that a typical problem (the median) has.

    The smallest number would do worse: one line that is lost would take the largest k from all problems.
    """
    typical = median_low([problem.total for of_run in problems for problem in of_run.values()])
    return [2**i for i in range(1, typical.bit_length())]


def columns(rows: Sequence[Row]) -> list[Measure]:
    """Choose the measures of the table: of Pass@k the largest k, and of dist-n the third. `summary.json` has all."""
    ks = [int(key.removeprefix("pass@")) for row in rows for key in row.estimates if key.startswith("pass@")]
    return [AVG, *([pass_measure(max(ks))] if ks else []), EFFECTIVE, SHARE, DISTINCT, dist_measure(3), LENGTH]


def format_table(rows: Sequence[Row]) -> str:
    """Format the rows as plain text; there must be at least one."""
    measures = columns(rows)
    titles = ["", "step", "runs", "problems", AVG.title, "95 % interval", *(measure.title for measure in measures[1:])]
    lines = [titles]
    for row in rows:
        shown = [show(measure, row)[0] for measure in measures]
        label = f"{row.algorithm}, {row.benchmark}" if len({row.benchmark for row in rows}) > 1 else row.algorithm
        step = "0 (base)" if row.step == 0 else str(row.step)
        lines.append([label, step, str(row.runs), str(row.problems), shown[0], show(AVG, row)[1] or "-", *shown[1:]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


def show(measure: Measure, row: Row) -> tuple[str, str]:
    """Format a measure of a row and its interval; "-" and nothing where they are undefined."""
    found = row.estimates.get(measure.key)
    if found is None:
        return "-", ""
    ends = [] if found.low is None or found.high is None else [measure.show(found.low), measure.show(found.high)]
    return measure.show(found.value), "-".join(ends)
