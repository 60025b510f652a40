"""The figure of the experiment. Needs matplotlib, but no display."""

from pathlib import Path
from typing import TYPE_CHECKING

from verl_lad.bandit.problem import ARMS, HEIGHTS
from verl_lad.bandit.run import BEHAVIOURS, EXPECTATIONS, REFRESH_EVERY, BanditResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito, "Color Universal Design" (2008); a method has the same colour and width in every panel. Several curves
# coincide, so they are drawn in this order, each thinner than those that it may cover.
_LINES = {
    "grpo": ("#D55E00", 4.2),
    "ppo-clip": ("#E69F00", 2.8),
    "grpo-kl-reward": ("#CC79A7", 2.6),
    "lad-js": ("#0072B2", 2.4),
    "lad-js-anchored": ("#000000", 1.0),
}
_OTHERS = "#8c8c8c"
_DASHES = {"exact": "-", "sampled": (0, (2.5, 1.5))}
_HEIGHTS = "unequal"
_TITLES = {
    "fixed": "π_old fixed (the paper's setting)",
    "refreshed": f"π_old refreshed every {REFRESH_EVERY} steps (as in training)",
}
_RC = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


def draw_figure(result: BanditResult, path: Path) -> None:
    """Draw, for the landscape of unequal heights, the fixed behaviour policy beside the refreshed one.

    From the top: the target and the final policies of seed 0, exact; the total variation over the steps, as the mean
    over the seeds, with the seeds' range as a band for exact; the modes recovered by each method at the end.

    Args:
        result: what came of the experiment.
        path: file to write, its suffix gives the format; its directory must exist.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'verl-lad[report]'") from error

    with rc_context(_RC):
        figure = Figure(figsize=(9.0, 9.2), dpi=160, layout="constrained")  # without pyplot: no global state
        grid = figure.subplots(3, len(BEHAVIOURS), sharey="row", height_ratios=(1.0, 1.0, 1.45))
        for column, behaviour in zip(grid.T, BEHAVIOURS, strict=True):
            policies, distance, modes = column
            policies.set_title(_TITLES[behaviour], loc="left", fontweight="bold")
            _draw_policies(policies, result, behaviour)
            _draw_distance(distance, result, behaviour)
            _draw_modes(modes, result, behaviour)
        for axes, label in zip(grid[:, 0], ("probability", "total variation to the target", ""), strict=True):
            axes.set_ylabel(label)
        handles = [
            Patch(color="#d0d0d0", label="target π*"),
            *(Line2D([], [], color=colour, linewidth=w, label=name) for name, (colour, w) in _LINES.items()),
            *(
                Line2D(
                    [],
                    [],
                    color=_OTHERS,
                    linestyle=_DASHES[expectation],
                    marker="o",
                    markersize=5.5,
                    markerfacecolor=_OTHERS if expectation == "exact" else "white",
                    label=expectation,
                )
                for expectation in EXPECTATIONS
            ),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path)


def _draw_policies(axes: "Axes", result: BanditResult, behaviour: str) -> None:
    names = [method.name for method in result.methods]
    heights = list(HEIGHTS).index(_HEIGHTS)
    arms = range(ARMS)
    target = result.target[heights, 0]
    axes.bar(arms, target.tolist(), width=1.0, color="#d0d0d0")
    top = 1.7 * target.max().item()
    above = []
    for name, (colour, width) in _LINES.items():
        of = (names.index(name), EXPECTATIONS.index("exact"), heights, BEHAVIOURS.index(behaviour), 0)
        policy = result.final[of]
        axes.plot(arms, policy.tolist(), color=colour, linewidth=width)
        if policy.max().item() > top:
            above.append((f"{name}: {policy.max().item():.2f}", colour))
    for i, (text, colour) in enumerate(above):
        axes.text(0.99, 0.97 - 0.1 * i, text, color=colour, ha="right", va="top", transform=axes.transAxes)
    axes.set_ylim(0.0, top)
    axes.set_xlabel("arm (policies after the last step, exact, seed 0)")


def _draw_distance(axes: "Axes", result: BanditResult, behaviour: str) -> None:
    for name, (colour, width) in _LINES.items():
        for expectation in EXPECTATIONS:
            values = result.values("total_variation", name, expectation, _HEIGHTS, behaviour)
            mean = values.mean(-1).tolist()
            axes.plot(result.steps, mean, color=colour, linewidth=width, linestyle=_DASHES[expectation])
            if expectation == "exact":
                low, high = values.amin(-1).tolist(), values.amax(-1).tolist()
                axes.fill_between(result.steps, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylim(-0.02, 1.0)
    axes.set_xlabel("step (mean over seeds; band: range, exact)")


def _draw_modes(axes: "Axes", result: BanditResult, behaviour: str) -> None:
    names = [method.name for method in result.methods]
    for row, name in enumerate(names):
        colour, _ = _LINES.get(name, (_OTHERS, None))
        for expectation, offset in zip(EXPECTATIONS, (-0.17, 0.17), strict=True):
            modes = result.values("modes_recovered", name, expectation, _HEIGHTS, behaviour)[-1].mean().item()
            face = colour if expectation == "exact" else "white"
            axes.plot([0, modes], [row + offset] * 2, color=colour, linewidth=1.0, linestyle=_DASHES[expectation])
            axes.plot(modes, row + offset, color=colour, marker="o", markersize=5.5, markerfacecolor=face)
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xticks(range(4))
    axes.set_xlim(0.0, 3.15)
    axes.set_xlabel("modes recovered at the end, of 3 (mean over seeds)")
