"""Draw the two figures of the report. An algorithm has one colour in both. Needs matplotlib, but no display."""

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from verl_lad.evaluation.runs import Run
from verl_lad.evaluation.table import AVG, EFFECTIVE, SHARE, Estimate, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design" (2008), without black, which is the text's, and yellow, which white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

_RC = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.markersize": 3.5,
}

# verl's names (metric_utils.compute_data_metrics, the actor's workers).
_TRAINING = (
    "critic/score/mean",
    "actor/entropy",
    "response_length/mean",
    "actor/grad_norm",
    "actor/ppo_kl",
    "actor/kl_loss",
    "actor/reward_kl_penalty",
)

Style = dict[str, Any]
"""Colour and line style of an algorithm, as matplotlib names them."""

Panel = tuple[str, str, str, Callable[["Axes"], None]]
"""Title, labels of both axes, and what draws within them."""


def styles_of(runs: Sequence[Run]) -> dict[str, Style]:
    """Give each algorithm a colour and, after six, another line style."""
    looks = cycle({"color": colour, "linestyle": line} for line in ("-", "--", ":", "-.") for colour in COLOURS)
    return dict(zip(dict.fromkeys(run.algorithm for run in runs), looks, strict=False))


def draw_validations(rows: Sequence[Row], styles: dict[str, Style]) -> "Figure":
    """Draw a row of panels a benchmark: accuracy and effective solutions over training, Pass@k, and one over the other.

    Args:
        rows: the table, at least one row.
        styles: see `styles_of`.
    """
    panels = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        lines = {a: [row for row in rows if (row.algorithm, row.benchmark) == (a, benchmark)] for a in styles}
        panels += _panels_of(benchmark, {algorithm: line for algorithm, line in lines.items() if line}, styles)
    return _sheet(panels, 4, styles)


def draw_training(runs: Sequence[Run], styles: dict[str, Style]) -> "Figure | None":
    """Draw what verl logged of training, a line a run; None if the runs have none of the metrics that are drawn."""
    logged = sorted({name for run in runs for name in run.curves})
    names = [name for name in _TRAINING if name in logged]
    names += [name for name in logged if name.startswith("actor/lad/")]
    names += [name for name in logged if name.startswith("val-core/") and "/mean@" in name]

    def panel(name: str) -> Panel:
        def draw(axes: "Axes") -> None:
            for run in runs:
                curve = run.curves.get(name, {})
                axes.plot(list(curve), list(curve.values()), **styles[run.algorithm], linewidth=1.0)

        return name, "training step", "", draw

    return _sheet([panel(name) for name in names], 4, styles) if names else None


def _panels_of(benchmark: str, lines: dict[str, list[Row]], styles: dict[str, Style]) -> list[Panel]:
    def over_training(key: str) -> Callable[["Axes"], None]:
        def draw(axes: "Axes") -> None:
            for algorithm, rows in lines.items():
                points = [(row.step, row.estimates[key]) for row in rows if key in row.estimates]
                _draw_line(axes, points, styles[algorithm])

        return draw

    def passes(axes: "Axes") -> None:
        for algorithm, rows in lines.items():
            last = rows[-1].estimates
            points = [(int(key.removeprefix("pass@")), found) for key, found in last.items() if key.startswith("pass@")]
            _draw_line(axes, [(1, last[AVG.key]), *points], styles[algorithm])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")

    def frontier(axes: "Axes") -> None:
        axes.axhline(1.0, color="#777777", linestyle=":", linewidth=0.9)
        for algorithm, rows in lines.items():
            shared = [row.estimates for row in rows if SHARE.key in row.estimates]
            bounded = [found for found in shared if math.isfinite(found[SHARE.key].value)]
            x, y = ([found[key].value for found in bounded] for key in (AVG.key, SHARE.key))
            axes.plot(x, y, **styles[algorithm], marker="o", linewidth=1.0)
            axes.plot(x[-1:], y[-1:], **styles[algorithm], marker="o", markersize=7)
        axes.set_ylim(bottom=0.0)

    return [
        (benchmark, "training step", "Avg@n", over_training(AVG.key)),
        (benchmark, "training step", "effective solutions", over_training(EFFECTIVE.key)),
        (benchmark, "k, last validation", "Pass@k", passes),
        (benchmark, "Avg@n", "effective solutions of base", frontier),
    ]


def _draw_line(axes: "Axes", points: Sequence[tuple[int, Estimate]], style: Style) -> None:
    """Draw a line of estimates with the band of their intervals, without what has no bound."""
    points = [(x, found) for x, found in points if math.isfinite(found.value)]
    axes.plot([x for x, _ in points], [found.value for _, found in points], **style, marker="o", linewidth=1.6)
    banded = [
        (x, found.low, found.high)
        for x, found in points
        if found.low is not None and found.high is not None and math.isfinite(found.high)
    ]
    if banded:
        x, low, high = zip(*banded, strict=True)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)


def _sheet(panels: Sequence[Panel], columns: int, styles: dict[str, Style]) -> "Figure":
    """Arrange panels in rows, with one legend below."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    with rc_context(_RC):
        figure = Figure(figsize=(3 * columns, 2.4 * rows + 0.4), dpi=150, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (title, xlabel, ylabel, draw) in zip(grid, panels, strict=False):
            axes.set_title(_short(title), loc="left", parse_math=False, wrap=True)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            draw(axes)
        for axes in grid[len(panels) :]:
            axes.remove()
        lines = [Line2D([], [], **style, marker="o") for style in styles.values()]
        labels = [_short(algorithm) for algorithm in styles]
        per_row = max(1, int(columns * 36 / (max(map(len, labels)) + 6)))
        legend = figure.legend(lines, labels, loc="outside lower center", ncols=per_row, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _short(label: str) -> str:
    """Shorten a label for a legend, which would drop one that begins with an underscore."""
    shown = label if len(label) <= 40 else f"{label[:39]}…"
    return f" {shown}" if shown.startswith("_") else shown
