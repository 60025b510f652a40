"""Draw the figures of the report. An algorithm has one colour in all of them. Needs matplotlib, but no display."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verl_lad.evaluation import measures
from verl_lad.evaluation.measures import AVG, Measure, Values, dist_measure, estimate, pass_measure
from verl_lad.evaluation.runs import Run
from verl_lad.evaluation.tables import RESAMPLES, Row, algorithms, benchmarks, entropy_counts, powers_of_two

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design" (2008), without black, which is the text's, and yellow, which white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D")

MAX_MARKED = 20
"""Points up to which each gets a marker."""

_RC = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.markersize": 3.5,
}

# verl's names (metric_utils.compute_data_metrics, the actor's workers), what they are, and their unit.
_TRAINING = {
    "critic/score/mean": ("Reward", "mean score of a response"),
    "actor/entropy": ("Entropy", "nats per token"),
    "response_length/mean": ("Response length", "model tokens"),
    "actor/grad_norm": ("Gradient norm", "before clipping"),
    "actor/ppo_kl": ("KL(old ‖ policy)", "nats per token"),
    "actor/kl_loss": ("KL to the reference, as a loss", "nats per token"),
    "actor/reward_kl_penalty": ("KL to the reference, in the reward", "nats per token"),
}

_CAPTIONS = {
    "accuracy": "Accuracy (Avg@n) over training, by benchmark. Thick: mean over the runs of an algorithm; band: its "
    "95 % interval over problems and runs; thin: single runs.",
    "pass_at_k": "Pass@k at the last validation of each run; band: 95 % interval over problems and runs.",
    "frontier": "Accuracy and diversity: a line is a run, a marker a validation; hollow: step 0, large: the last one. "
    "Up and to the right is better; dotted: the base's diversity. (Collision): the sense of effective that needs two "
    "correct samples of a problem, where half of the problems have too few for entropy at some validation.",
    "diversity": "Diversity over training, by benchmark: effective number of distinct correct solutions, and dist-3. "
    "Lines and bands as in the accuracy.",
    "training": "Training, as logged by verl. Thick: mean over the runs of an algorithm at the steps that all have; "
    "band: from the smallest to the largest run; thin: single runs.",
    "lad": "LAD's own metrics, means over micro-batches and ranks. Lines and bands as in training.",
    "verl_validation": "Validation as verl logs it: the mean of its core variable, by data source. Lines and bands as "
    "in training.",
}

Line = dict[int, tuple[float, float | None, float | None]]
"""Value, and both ends of its band, by place on the horizontal axis."""


@dataclass(frozen=True)
class _Panel:
    title: str
    xlabel: str
    ylabel: str
    draw: Callable[["Axes"], None]


class Figures:
    """Draw runs, each algorithm in its colour and marker.

    Args:
        runs: the runs, at least one.
        rows: their validations, see `verl_lad.evaluation.tables.validation_rows`.
    """

    def __init__(self, runs: Sequence[Run], rows: Sequence[Row]) -> None:
        self.runs = runs
        self.rows = rows
        self.groups = algorithms(runs)
        self.benchmarks = benchmarks(runs)
        self.styles = {
            algorithm: (COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)])
            for i, algorithm in enumerate(self.groups)
        }

    def overview(self) -> "Figure":
        """Draw accuracy and effective solutions over training, for each benchmark; there must be a validation."""
        panels = [panel for b in self.benchmarks for panel in (self._over_training(b, AVG), self._effective(b))]
        return self._sheet(panels, 2)

    def draw_all(self) -> dict[str, tuple[str, "Figure"]]:
        """Draw every figure for which the runs have data: caption and figure by name, in the order of the page."""
        names = sorted({name for run in self.runs for name in run.curves})
        panels = {
            "accuracy": [self._over_training(benchmark, AVG) for benchmark in self.benchmarks],
            "pass_at_k": [self._pass_at_k(benchmark) for benchmark in self.benchmarks],
            "frontier": [self._frontier(b) for b in self.benchmarks if self._frontier_lines(b)],
            "diversity": [
                *map(self._effective, self.benchmarks),
                *(self._over_training(benchmark, dist_measure(3)) for benchmark in self.benchmarks),
            ],
            "training": [self._metric(name, *words) for name, words in _TRAINING.items() if name in names],
            "lad": [self._metric(name, name, "") for name in names if name.startswith("actor/lad/")],
            "verl_validation": [self._metric(n, n, "") for n in names if n.startswith("val-core/") and "/mean@" in n],
        }
        columns = {"diversity": len(self.benchmarks)}
        return {
            name: (caption, self._sheet(panels[name], columns.get(name, 3)))
            for name, caption in _CAPTIONS.items()
            if panels[name]
        }

    def _sheet(self, panels: Sequence[_Panel], columns: int) -> "Figure":
        """Arrange panels in rows, with one legend below."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        columns = min(columns if columns in (2, 3) else 3, len(panels))
        rows = math.ceil(len(panels) / columns)
        with rc_context(_RC):
            width = {1: 4.8, 2: 7.4, 3: 9.6}[columns]
            figure = Figure(figsize=(width, 2.5 * rows + 0.4), dpi=170, layout="constrained")
            grid = figure.subplots(rows, columns, squeeze=False).ravel()
            for axes, panel in zip(grid, panels, strict=False):
                axes.set_title(_short(panel.title), loc="left", parse_math=False, wrap=True)
                axes.set_xlabel(panel.xlabel)
                axes.set_ylabel(panel.ylabel)
                panel.draw(axes)
            for axes in grid[len(panels) :]:
                axes.remove()
            lines = [Line2D([], [], color=colour, marker=marker) for colour, marker in self.styles.values()]
            labels = [_short(algorithm) for algorithm in self.styles]
            per_row = max(1, int(width * 12 / (max(map(len, labels)) + 6)))
            legend = figure.legend(lines, labels, loc="outside lower center", ncols=min(per_row, 6), frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
        return figure

    def _draw_lines(self, axes: "Axes", lines: Mapping[str, Line], singles: Mapping[str, Sequence[Line]]) -> None:
        """Draw the single runs of each algorithm thin, and a thick line with its band over them."""
        for algorithm, line in lines.items():
            colour, marker = self.styles[algorithm]
            for run in singles.get(algorithm, ()) if len(self.groups[algorithm]) > 1 else ():
                axes.plot(list(run), [value for value, _, _ in run.values()], color=colour, linewidth=0.6, alpha=0.55)
            shown_marker = marker if len(line) <= MAX_MARKED else "none"
            values = [value for value, _, _ in line.values()]
            axes.plot(list(line), values, color=colour, marker=shown_marker, linewidth=1.6)
            banded = [(x, low, high) for x, (_, low, high) in line.items() if low is not None and high is not None]
            if banded:
                x, lows, highs = zip(*banded, strict=True)
                axes.fill_between(x, lows, highs, color=colour, alpha=0.13, linewidth=0)

    def _metric(self, name: str, title: str, unit: str) -> _Panel:
        """Draw a training metric."""
        lines: dict[str, Line] = {}
        singles: dict[str, list[Line]] = {}
        for algorithm, group in self.groups.items():
            curves = [run.curves[name] for run in group if name in run.curves]
            if curves:
                shared = {s: [curve[s] for curve in curves] for s in sorted(set.intersection(*map(set, curves)))}
                lines[algorithm] = {s: (math.fsum(v) / len(v), min(v), max(v)) for s, v in shared.items()}
                singles[algorithm] = [{s: (value, None, None) for s, value in curve.items()} for curve in curves]
        return _Panel(title, "training step", unit, lambda axes: self._draw_lines(axes, lines, singles))

    def _over_training(self, benchmark: str, measure: Measure) -> _Panel:
        """Draw a measure at every validation."""
        steps = sorted({step for run in self.runs for step in run.validations})
        lines, singles = {}, {}
        for algorithm, group in self.groups.items():
            values = [{s: v for s in steps if (v := measure.values(run, benchmark, s))} for run in group]
            by_step = {s: [run[s] for run in values if s in run] for s in steps}
            lines[algorithm] = _line(measure, {s: runs for s, runs in by_step.items() if runs}, RESAMPLES)
            singles[algorithm] = [_line(measure, {s: [v] for s, v in run.items()}, 0) for run in values]
        return _Panel(benchmark, "training step", measure.heading, lambda axes: self._draw_lines(axes, lines, singles))

    def _effective(self, benchmark: str) -> _Panel:
        """Draw the effective number of solutions, in the sense that says something about the benchmark."""
        return self._over_training(
            benchmark, measures.EFFECTIVE if entropy_counts(self.runs, benchmark) else measures.COLLISION
        )

    def _pass_at_k(self, benchmark: str) -> _Panel:
        """Draw Pass@k over k, at the last validations."""
        lines: dict[str, Line] = {}
        for algorithm, group in self.groups.items():
            runs = [run for run in group if run.last_step(benchmark) is not None]
            for k in powers_of_two(runs, benchmark) if runs else ():
                measure = pass_measure(k)
                values = [measure.values(run, benchmark, run.last_step(benchmark)) for run in runs]
                lines.setdefault(algorithm, {}).update(_line(measure, {k: values}, RESAMPLES))

        def draw(axes: "Axes") -> None:
            self._draw_lines(axes, lines, {})
            axes.set_xscale("log", base=2)
            ticks = sorted({k for line in lines.values() for k in line})
            axes.set_xticks(ticks, labels=list(map(str, ticks)))

        return _Panel(benchmark, "k, samples tried", "Pass@k, %", draw)

    def _frontier_lines(self, benchmark: str) -> dict[str, list[tuple[int, float, float]]]:
        """Return step, accuracy and share of the base, in percent, of the validations of each run that have a share."""
        share = self._share(benchmark)
        lines: dict[str, list[tuple[int, float, float]]] = {}
        for row in self.rows:
            accuracy, kept = row.numbers["avg"], row.numbers[share.key]
            if row.benchmark == benchmark and accuracy is not None and kept is not None and math.isfinite(kept):
                lines.setdefault(row.run.label, []).append((row.step, 100 * accuracy, 100 * kept))
        return lines

    def _share(self, benchmark: str) -> Measure:
        return measures.SHARE if entropy_counts(self.runs, benchmark) else measures.COLLISION_SHARE

    def _frontier(self, benchmark: str) -> _Panel:
        """Draw the share of the base over accuracy."""
        lines = self._frontier_lines(benchmark)
        styles = {run.label: self.styles[run.algorithm] for run in self.runs}

        def draw(axes: "Axes") -> None:
            axes.axhline(100.0, color="#777777", linestyle=":", linewidth=0.9)
            for label, points in lines.items():
                colour, marker = styles[label]
                steps, x, y = zip(*points, strict=True)
                axes.plot(x, y, color=colour, marker=marker, linewidth=1.0, markersize=3)
                axes.plot(x[-1], y[-1], color=colour, marker=marker, markersize=7)
                if steps[0] == 0:
                    axes.plot(x[0], y[0], color=colour, marker=marker, markersize=6, markerfacecolor="white")
            axes.set_ylim(bottom=0.0)

        sense = " (collision)" if self._share(benchmark) is measures.COLLISION_SHARE else ""
        return _Panel(benchmark, "Avg@n, %", f"effective correct{sense}, % of base", draw)


def _line(measure: Measure, values: Mapping[int, Sequence[Values]], resamples: int) -> Line:
    """Estimate a measure at each place, as drawn, without what is undefined or has no bound."""
    line: Line = {}
    scale = 100.0 if measure.percent else 1.0
    for x, runs in values.items():
        e = estimate(measure, [runs], resamples)
        if e is None or not math.isfinite(e.value):
            continue
        line[x] = scale * e.value, None, None
        if e.low is not None and e.high is not None and math.isfinite(e.high):
            line[x] = scale * e.value, scale * e.low, scale * e.high
    return line


def _short(label: str) -> str:
    """Shorten a label for a legend, which would drop one that begins with an underscore."""
    shown = label if len(label) <= 40 else f"{label[:39]}…"
    return f" {shown}" if shown.startswith("_") else shown
