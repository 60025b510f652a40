"""Make the tables of the report: by algorithm at the last validation of each run, and by run at every validation."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any, NamedTuple

from verl_lad.evaluation.diversity import MIN_CORRECT_FOR_ENTROPY
from verl_lad.evaluation.measures import AVG, SOLUTIONS, TEXTS, Measure, Values, estimate, is_better, pass_measure
from verl_lad.evaluation.runs import Run

RESAMPLES = 1000
"""Bootstrap resamples behind single validations and the bands of figures, of which there are many."""

_TITLES = ("run", "step", "accuracy", "95 % interval", "entropy", "of base", "collision", "of base", "counted")
_NOTES = f"""\
accuracy: Avg@n, the share of correct samples of a problem; 95 % interval by bootstrap over the problems.
entropy, collision: effective number of distinct correct solutions of a problem, exp(entropy) and
    1 / P(two correct samples agree), corrected for the number of correct samples.
    "inf": no two correct samples agree. "-": no problem counted.
    entropy still reads low where a problem has fewer correct samples than effective solutions; collision does not.
of base: ratio to step 0 of the same run, over the problems that count at both steps.
    "-": none does, or no two correct samples agree at step 0.
counted: problems with at least {MIN_CORRECT_FOR_ENTROPY} correct samples (entropy) / at least 2 (collision) / all."""


class Cell(NamedTuple):
    """A number of a table.

    Attributes:
        value: the number as it is printed.
        interval: its 95 % interval as it is printed; empty if there is none.
        mark: "best", "tie" or empty, see the page's section on how the numbers are made.
        counted: how many problems are in it, if not all.
    """

    value: str
    interval: str = ""
    mark: str = ""
    counted: str = ""


class Table(NamedTuple):
    """A table of the page: a row an algorithm, with its number of runs."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, int, list[Cell]]]


@dataclass(frozen=True)
class Row:
    """A benchmark at one validation of one run.

    Attributes:
        run: the run.
        benchmark: the benchmark.
        step: the step of the validation.
        numbers: every measure as shown, by key; None where it is undefined; with avg_low and avg_high, the interval.
        counted: number of problems that count in the sense of entropy, of collision, and in all.
    """

    run: Run
    benchmark: str
    step: int
    numbers: dict[str, float | None]
    counted: tuple[int, int, int]


def algorithms(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by algorithm, both in the order given."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.algorithm, []).append(run)
    return groups


def benchmarks(runs: Sequence[Run]) -> list[str]:
    """Return every benchmark that a run was validated on, in the order in which they occur."""
    return list(dict.fromkeys(benchmark for run in runs for benchmark in run.benchmarks))


def samples_per_problem(runs: Sequence[Run], benchmark: str) -> list[int]:
    """Return how many samples each problem has at the runs' last validations, in increasing order."""
    return sorted(problem.total for run in runs for problem in run.last_problems(benchmark).values())


def powers_of_two(runs: Sequence[Run], benchmark: str) -> list[int]:
    """Return the powers of two up to the number of samples that a typical problem (the median) of the benchmark has.

    The smallest number would do worse: one line that is lost would take the largest k from all problems.
    """
    typical = median_low(samples_per_problem(runs, benchmark))
    return [2**i for i in range(typical.bit_length())]


def entropy_counts(runs: Sequence[Run], benchmark: str) -> bool:
    """Return whether effective solutions in the sense of entropy say something about a benchmark.

    They do when half of its problems or more have enough correct samples at every validation of every run. Otherwise
    they would be about the few that are easy, and the figures show those in the sense of collision.
    """
    return all(
        2 * sum(problem.solutions.entropy is not None for problem in problems.values()) >= len(problems)
        for run in runs
        for step in run.validations
        if (problems := run.problems(benchmark, step))
    )


class LastValidations:
    """Make the tables by algorithm, and keep their numbers: by measure, benchmark and algorithm."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.groups = algorithms(runs)
        self.benchmarks = benchmarks(runs)
        self.numbers: dict[str, dict[str, dict[str, Any]]] = {}

    def accuracy_tables(self) -> list[Table]:
        """Make one of Avg@n, then one of Pass@k for every k; columns are benchmarks and their mean."""
        largest = max((powers_of_two(self.runs, b)[-1] for b in self.benchmarks), default=0)
        measures = [AVG, *(pass_measure(2**i) for i in range(1, largest.bit_length()))] if self.benchmarks else []
        titles = [f"{b} (n = {span(samples_per_problem(self.runs, b))})" for b in self.benchmarks]
        columns = {title: [benchmark] for title, benchmark in zip(titles, self.benchmarks, strict=True)}
        if len(columns) > 1:
            columns["Mean"] = self.benchmarks
        return [
            self._table(
                f"{measure.title}, %",
                {title: self._column(measure, on) for title, on in columns.items()},
                self.benchmarks,
            )
            for measure in measures
        ]

    def diversity_tables(self) -> list[Table]:
        """Make two tables a benchmark, of solutions and of texts; columns are the measures that are defined on it."""
        tables = []
        for benchmark in self.benchmarks:
            for subject, measures in (("solutions", SOLUTIONS), ("texts", TEXTS)):
                columns = {m.heading + (" ↑" if m.compared else ""): self._column(m, [benchmark]) for m in measures}
                defined = {title: cells for title, cells in columns.items() if cells}
                tables.append(self._table(f"{benchmark}: diversity of {subject}", defined, [benchmark]))
        return tables

    def _table(self, caption: str, columns: Mapping[str, Mapping[str, Cell]], on: Sequence[str]) -> Table:
        rows = [
            (
                algorithm,
                sum(any(run.last_step(benchmark) is not None for benchmark in on) for run in group),
                [cells.get(algorithm, Cell("–")) for cells in columns.values()],
            )
            for algorithm, group in self.groups.items()
            if any(algorithm in cells for cells in columns.values())
        ]
        return Table(caption, list(columns), rows)

    def _column(self, measure: Measure, on: Sequence[str]) -> dict[str, Cell]:
        """Make the cells of the algorithms that have values on all the benchmarks, and keep their numbers."""
        values = {}
        for algorithm, group in self.groups.items():
            runs = [[v for run in group if (v := measure.values(run, b, run.last_step(b)))] for b in on]
            if all(runs):
                values[algorithm] = runs
        estimates = {a: e for a, runs in values.items() if (e := estimate(measure, runs)) is not None}
        marks = _marks(measure, {a: (e.value, values[a]) for a, e in estimates.items()})
        all_problems = sum(max(len(run.last_problems(benchmark)) for run in self.runs) for benchmark in on)
        cells, numbers = {}, {}
        for algorithm, e in estimates.items():
            mark = marks.get(algorithm, "")
            counted = f"{e.problems} of {all_problems} problems" if e.problems < all_problems else ""
            cells[algorithm] = Cell(measure.show(e.value), _interval(measure, e.low, e.high), mark, counted)
            numbers[algorithm] = finite(dataclasses.asdict(e)) | {"mark": mark}
        name = on[0] if len(on) == 1 else "mean of benchmarks"
        self.numbers.setdefault(measure.key, {})[name] = numbers
        return cells


def _marks(measure: Measure, algorithms: Mapping[str, tuple[float, Sequence[Sequence[Values]]]]) -> dict[str, str]:
    """Mark the best algorithm if it is told from every other one, or else it and those that it is not told from."""
    if not measure.compared or len(algorithms) < 2:
        return {}
    best = max(algorithms, key=lambda algorithm: algorithms[algorithm][0])
    ties = [
        other
        for other, (_, values) in algorithms.items()
        if other != best and not is_better(measure, algorithms[best][1], values)
    ]
    return dict.fromkeys([best, *ties], "tie") if ties else {best: "best"}


def _interval(measure: Measure, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{measure.show(low)}–{measure.show(high)}"


def validation_rows(runs: Sequence[Run]) -> list[Row]:
    """Evaluate every measure at every validation of runs, in the order of runs, benchmarks and steps."""
    rows = []
    for run in runs:
        for benchmark in run.benchmarks:
            passes = map(pass_measure, powers_of_two([run], benchmark)[1:])
            measures = [AVG, *passes, *SOLUTIONS, *TEXTS]
            for step in run.validations:
                problems = run.problems(benchmark, step)
                if not problems:
                    continue
                estimates = {
                    m.key: estimate(m, [[m.values(run, benchmark, step)]], RESAMPLES if m is AVG else 0)
                    for m in measures
                }
                numbers = {key: None if e is None else e.value for key, e in estimates.items()}
                accuracy = estimates[AVG.key]
                numbers["avg_low"], numbers["avg_high"] = (accuracy.low, accuracy.high) if accuracy else (None, None)
                entropies = sum(problem.solutions.entropy is not None for problem in problems.values())
                collisions = sum(problem.solutions.collision is not None for problem in problems.values())
                rows.append(Row(run, benchmark, step, numbers, (entropies, collisions, len(problems))))
    return rows


def step_columns(runs: Sequence[Run]) -> list[Measure]:
    """Choose the measures of the page's table of every validation, the same for all runs."""
    largest = max((powers_of_two(runs, b)[-1] for b in benchmarks(runs)), default=1)
    return [AVG, pass_measure(largest), *SOLUTIONS, *TEXTS]


def step_cells(row: Row, columns: Sequence[Measure]) -> list[Cell]:
    """Format a row for the page."""
    interval = _interval(AVG, row.numbers["avg_low"], row.numbers["avg_high"])
    return [Cell(m.show(row.numbers.get(m.key)), interval if m is AVG else "") for m in columns]


def format_table(rows: Sequence[Row]) -> str:
    """Format every validation as a plain-text table with its notes; there must be at least one."""
    several = len({row.benchmark for row in rows}) > 1
    lines = [list(_TITLES), *(_table_line(row, several) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:], "", _NOTES])


def _table_line(row: Row, several_benchmarks: bool) -> list[str]:
    low, high = row.numbers["avg_low"], row.numbers["avg_high"]
    diversity = []
    for measure in SOLUTIONS[:4]:
        shown = measure.show(row.numbers[measure.key], undefined="-", unbounded="inf")
        diversity.append(f"{shown}%" if measure.percent and shown not in ("-", "inf") else shown)
    return [
        f"{row.run.label}, {row.benchmark}" if several_benchmarks else row.run.label,
        "0 (base)" if row.step == 0 else str(row.step),
        f"{row.numbers['avg']:.3f}",
        "-" if low is None else f"{low:.3f}-{high:.3f}",
        *diversity,
        "/".join(map(str, row.counted)),
    ]


def span(numbers: Sequence[int]) -> str:
    """Format increasing numbers as one, or as the first and the last."""
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]}–{numbers[-1]}"


def finite(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Replace what JSON does not know, inf and NaN, by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
