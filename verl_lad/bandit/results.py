"""Show what `run_bandit` returned, as a table and as a figure."""

from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verl_lad.bandit.problem import ARMS, HEIGHTS
from verl_lad.bandit.run import BEHAVIOURS, EXPECTATIONS, KEYS

NOTES = """\
target: pi* = pi_0 exp(s / eta) / Z; s is the score, eta = {eta:g}, pi_0 the untrained policy.
TV: total-variation distance, mean ± standard deviation over {seeds} seeds. modes: recovered, of 3, mean over the seeds.
    A mode is recovered if its basin, around half of the peak's height, holds half of its mass and rise under pi*.
fixed: pi_old = pi_0, the paper's setting. refreshed: pi_old = the current policy, every {refresh_every} steps.
exact: sum over the {arms} arms. sampled: {samples} arms a step, with advantages relative to their own group.
{steps} steps, learning rate {learning_rate:g}. Adam, pi_0, s and eta are this project's: the paper's are not known."""

NAMES = ("grpo", "ppo-clip", "grpo-kl-reward", "lad-js", "lad-js-anchored")
COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#000000")  # Okabe & Ito, "Color Universal Design" (2008)
WIDTHS = (4.2, 2.8, 2.6, 2.4, 1.0)  # each line is thinner than those that it may cover
LINES = tuple(zip(NAMES, COLOURS, WIDTHS, strict=True))
GREY, LIGHT = "#8c8c8c", "#d0d0d0"
DASHES: dict[str, Any] = {"exact": "-", "sampled": (0, (2.5, 1.5))}
TITLES = {"fixed": "π_old fixed (the paper's setting)", "refreshed": "π_old refreshed every 16 steps (as in training)"}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
GRID = {"axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.5, "axes.titlesize": 9.5}


def traces(document: dict[str, Any], measure: str, *setting: str) -> Tensor:
    """Return one measure by seed and step, (S, T), for (method, expectation, heights, behaviour)."""
    runs = [run for run in document["runs"] if tuple(run[key] for key in KEYS[:-1]) == setting]
    return torch.tensor([run["trace"][measure] for run in runs])


def format_table(document: dict[str, Any]) -> str:
    """Return the last step as text: a block for each landscape, a row for each method."""
    methods = list(document["configuration"]["methods"])
    width = max(map(len, methods))
    columns = list(product(BEHAVIOURS, EXPECTATIONS))
    blocks = []
    for heights, peaks in HEIGHTS.items():
        head = " " * width + f"{'TV to target  modes':>20}" * len(columns)
        names = "".join(f"{f'{behaviour}, {expectation}':>20}" for behaviour, expectation in columns)
        title = f"three modes of {heights} heights, {', '.join(f'{peak:g}' for peak in peaks)}"
        rows = [title, "-" * len(head), " " * width + names, head]
        for label, method, point in [("untrained", methods[0], 0), *((method, method, -1) for method in methods)]:
            row = f"{label:<{width}}"
            for behaviour, expectation in columns:
                distance = traces(document, "total_variation", method, expectation, heights, behaviour)[:, point]
                modes = traces(document, "modes_recovered", method, expectation, heights, behaviour)[:, point]
                spread = f"{distance.std():.3f}" if len(distance) > 1 else "-"
                row += f"{f'{distance.mean():.3f} ± {spread:<5}  {modes.mean():.1f}':>20}"
            rows.append(row)
        blocks.append("\n".join(rows))
    return "\n\n".join([*blocks, NOTES.format(**document["configuration"])])


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """Draw the runs on modes of unequal heights: pi_old fixed on the left, refreshed on the right.

    From the top: the target and seed 0's final policies; the total variation over the steps; the modes at the end.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'verl-lad[report]'") from error

    with rc_context(STYLE | GRID):
        figure = Figure(figsize=(9.0, 9.2), dpi=160, layout="constrained")
        grid = figure.subplots(3, 2, sharey="row", height_ratios=(1.0, 1.0, 1.45))
        for behaviour, (policies, distance, modes) in zip(BEHAVIOURS, grid.T, strict=True):
            policies.set_title(TITLES[behaviour], loc="left", fontweight="bold")
            _draw_policies(policies, document, behaviour)
            _draw_distance(distance, document, behaviour)
            _draw_modes(modes, document, behaviour)
        grid[0, 0].set_ylabel("probability")
        grid[1, 0].set_ylabel("total variation to the target")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        handles += [Line2D([], [], color=GREY, linestyle=DASHES[expectation]) for expectation in EXPECTATIONS]
        figure.legend(handles, [*labels, *EXPECTATIONS], loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path)


def _draw_policies(axes: Any, document: dict[str, Any], behaviour: str) -> None:
    target = document["target_policy"]["unequal"][0]
    top = 1.7 * max(target)
    axes.bar(range(ARMS), target, width=1.0, color=LIGHT, label="target π*")
    axes.set(ylim=(0.0, top), xlabel="arm (policies after the last step, exact, seed 0)")
    height = 0.97
    for name, colour, width in LINES:
        setting = {"method": name, "expectation": "exact", "heights": "unequal", "behaviour": behaviour, "seed": 0}
        (policy,) = (run["final_policy"] for run in document["runs"] if setting.items() <= run.items())
        axes.plot(policy, color=colour, linewidth=width, label=name)
        if max(policy) > top:
            label = f"{name}: {max(policy):.2f}"
            axes.text(0.99, height, label, color=colour, ha="right", va="top", transform=axes.transAxes)
            height -= 0.1


def _draw_distance(axes: Any, document: dict[str, Any], behaviour: str) -> None:
    steps = document["trace_steps"]
    for name, colour, width in LINES:
        for expectation in EXPECTATIONS:
            values = traces(document, "total_variation", name, expectation, "unequal", behaviour)
            axes.plot(steps, values.mean(0), color=colour, linewidth=width, linestyle=DASHES[expectation])
            if expectation == "exact":
                axes.fill_between(steps, values.amin(0), values.amax(0), color=colour, alpha=0.12, linewidth=0)
    axes.set(ylim=(-0.02, 1.0), xlabel="step (mean over seeds; band: range, exact)")


def _draw_modes(axes: Any, document: dict[str, Any], behaviour: str) -> None:
    names = list(document["configuration"]["methods"])
    colours = [dict(zip(NAMES, COLOURS, strict=True)).get(name, GREY) for name in names]
    for expectation, offset, faces in (("exact", -0.17, colours), ("sampled", 0.17, "white")):
        settings = [(name, expectation, "unequal", behaviour) for name in names]
        modes = [traces(document, "modes_recovered", *setting)[:, -1].mean() for setting in settings]
        rows = [row + offset for row in range(len(names))]
        axes.hlines(rows, 0, modes, colours, linewidth=1.0, linestyle=DASHES[expectation])
        axes.scatter(modes, rows, s=30, c=faces, edgecolors=colours, zorder=3)
    axes.set_yticks(range(len(names)), labels=names)
    axes.grid(axis="y", visible=False)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 3.15), xticks=range(4), xlabel="modes recovered at the end, mean")
