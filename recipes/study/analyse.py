"""Make RESULTS.md and figures/ from the packed runs. Runs of the plan that are missing are listed.

python recipes/study/analyse.py [--results FILE] [--output DIR]
"""

import argparse
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from curves import LAST, Crossing, Curve, Curves, end, of_seeds, read_curves, smooth
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from plan import (
    BESIDE,
    COST_PAIRS,
    HARD,
    HARD_METHODS,
    LONGER_METHODS,
    LONGER_STEPS,
    MAIN,
    SEEDS,
    SWEEPS,
    TASKS,
    Run,
    Setting,
    all_runs,
)
from results import RESULTS, packed_file

from verl_lad.evaluation import bootstrap_mean, paired_bootstrap_difference

LEVELS = (0.80, 0.90, 0.95, 0.97)
REACHED = LEVELS[:2]  # accuracies whose price in samples is given
PASS_AT = (4, 16, 64)
MIN_FOR_INTERVAL = 3
WARM_UP = 3  # steps of a cost run that are not counted: vLLM compiles at its first tokens
HARD_TASKS = {f"hard_{case}": change["task"] for case, change in HARD.items()}
T_QUANTILE = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom."""
FAMILIES = {"balanced": "#0072B2", "mass_one": "#56B4E9", "grpo_kl": "#E69F00", "lad": "#D55E00"}
"""Beginning of a setting's name -> its colour on the front; the rest is grey."""
COLOURS = {
    "grpo": "#000000",
    "mass_one": "#56B4E9",
    "balanced-js-epochs4": "#0072B2",
    "grpo_kl": "#E69F00",
    "lad": "#D55E00",
    "entropy": "#009E73",
    "kl_cov": "#CC79A7",
    "clip_cov": "#888888",
}
"""Okabe & Ito, "Color Universal Design" (2008), with grey for yellow."""
STYLE = {"font.size": 8, "axes.titlesize": 8.5, "axes.spines.top": False, "axes.spines.right": False}
STYLE |= {"axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.5, "axes.axisbelow": True}
KL_EPOCHS = "grpo_kl-0.125-epochs4"
LABELS = {"samples": "samples", "mean_accuracy": "accuracy", "share": "share of the base's effective solutions"}


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Format mean and t interval from three values on; else the values themselves."""
    if len(values) < MIN_FOR_INTERVAL:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    half = T_QUANTILE[len(values) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def difference(pairs: Sequence[tuple[float, float]], out_of: int) -> str:
    """Format the mean of a - b, with its bootstrap interval from three pairs on; `out_of` pairs could be there."""
    counted = f"({len(pairs)} of {out_of} pairs)"
    if not pairs:
        return counted
    estimate = paired_bootstrap_difference(*zip(*pairs, strict=True))
    if len(pairs) < MIN_FOR_INTERVAL:
        return f"{estimate.mean:+.2f} {counted}"
    return f"{estimate.mean:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}] {counted}"


def at_level(runs: Sequence[Curve], level: float, value: Callable[[Crossing], float], digits: int = 2) -> str:
    """Format a value over the runs that reach the level; count those that do not, with their best accuracy."""
    if not runs:
        return "no run"
    crossings = [run.crossing(level) for run in runs]
    reached = [value(crossing) for crossing in crossings if crossing is not None]
    if len(reached) == len(runs):
        return interval(reached, digits)
    best = ", ".join(f"{run.mean_accuracy.max():.3f}" for run, c in zip(runs, crossings, strict=True) if c is None)
    values = ", ".join(f"{x:.{digits}f}" for x in reached) + "; " if reached else ""
    return f"{values}{len(reached)} of {len(runs)} (best {best})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


END_HEAD = ("seeds", "accuracy", *(f"pass@{k}" for k in PASS_AT), "share", "share (collision)",
            "entropy of a response", "best accuracy", "largest fall")  # fmt: skip


def end_cells(runs: Sequence[Curve]) -> list[str]:
    """Format what END_HEAD names."""
    if not runs:
        return ["no run", *[""] * (len(END_HEAD) - 1)]
    return [
        str(len(runs)),
        interval([end(run.mean_accuracy) for run in runs], 3),
        *(interval([end(run.pass_at(k)) for run in runs], 3) for k in PASS_AT),
        interval([end(run.share) for run in runs]),
        interval([end(run.collision_share) for run in runs]),
        interval([end(run.response_entropy) for run in runs]),
        interval([float(run.mean_accuracy.max()) for run in runs], 3),
        interval([run.largest_fall for run in runs]),
    ]


def status_section(curves: Curves, others: Sequence[str], plan: Sequence[Run]) -> str:
    """Say which runs of the plan are there."""
    rows = []
    for group, task in dict.fromkeys((run.group, run.task) for run in plan):
        runs = [run for run in plan if (run.group, run.task) == (group, task)]
        missing = [
            f"{run.method} (seed {run.seed})" for run in runs if (group, task, run.method, run.seed) not in curves
        ]
        rows.append([group, task, f"{len(runs) - len(missing)} of {len(runs)}", ", ".join(missing) or "none"])
    text = "## Runs\n\n" + table(("group", "task", "finished runs", "missing"), rows)
    if others:
        text += f"\nNot used, as they are no run of plan.py as it stands: {', '.join(others)}.\n"
    return text


DEFINITIONS = f"""\
## Definitions

- Accuracy: mean over prompts of the exact probability p of a right answer. pass@k: mean of 1 - (1 - p)^k.
- Share: effective distinct solutions as a share of the base's, exp of the mean over prompts of H - H_base. H is the
  entropy of the right answers among themselves, by enumeration of all right answers.
- Share (collision): the same from the inverse probability that two right answers are equal.
- ±: 95 % t interval over seeds, from {MIN_FOR_INTERVAL} seeds on. With fewer, the seeds' values are listed.
- End: mean of the last {LAST} measurements, which span {2 * LAST - 2} steps.
- Largest fall: the most by which the accuracy was below its best so far.
- Entropy of a response: verl's actor/entropy, in nats a response, over all answers, right or wrong.
"""


def matched_section(curves: Curves) -> str:
    """Compare the main methods where their accuracy first reaches a level."""
    text = """\
## Main comparison at matched accuracy

Values at the first time that the accuracy reaches a level, linear between two measurements. Accuracy goes up and down,
so this is earlier than where it stays above the level. A run that never reaches a level is counted, with its best
accuracy: "1 of 3 (best 0.880, 0.930)" means that one of three runs reached it.

![frontier](figures/frontier.png)
"""
    values: list[tuple[str, Callable[[Crossing], float], int]] = [
        ("share of the base's effective solutions", lambda c: c.share, 2),
        ("share (collision)", lambda c: c.collision_share, 2),
        ("samples, in thousands", lambda c: c.samples / 1000, 1),
    ]
    for title, value, digits in values:
        for task in TASKS:
            runs = {method: of_seeds(curves, "main", task, method) for method in MAIN}
            rows = [[m, str(len(r)), *(at_level(r, level, value, digits) for level in LEVELS)] for m, r in runs.items()]
            text += f"\n**{task}**, {title}:\n\n"
            text += table(("method", "seeds", *(f"at {level:.2f}" for level in LEVELS)), rows)
    return text


def seeded() -> dict[str, tuple[str, Setting]]:
    """Return group and setting of each setting that has every seed, by name."""
    groups = (("main", MAIN), ("sweep", SWEEPS))
    return {name: (group, s) for group, part in groups for name, s in part.items() if s.seeds == SEEDS}


def on_front(point: tuple[float, float], points: Iterable[tuple[float, float]]) -> bool:
    """Return whether no other point is at least as good in both and better in one."""
    return not any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in points)


def end_point(runs: Sequence[Curve]) -> tuple[float, float]:
    """Return the mean accuracy and share at the end."""
    return float(np.mean([end(r.mean_accuracy) for r in runs])), float(np.mean([end(r.share) for r in runs]))


def at_task(curves: Curves, task: str) -> dict[str, list[Curve]]:
    """Return the runs of each setting that has all of its seeds on a task."""
    runs = {name: of_seeds(curves, group, task, name) for name, (group, _) in seeded().items()}
    return {name: found for name, found in runs.items() if len(found) == len(SEEDS)}


def frontier_section(curves: Curves) -> str:
    """Give accuracy and share at the end, the Pareto front, and the samples that an accuracy takes."""
    text = f"""\
## The frontier: accuracy and share at the end of the budget

Every setting that has all {len(SEEDS)} seeds, the most accurate first. Front: no other setting has both a higher mean
accuracy and a higher mean share. mass_one: anchored LAD with `partition=group`. balanced: with `partition=balanced`.

![frontier at the end](figures/end.png)
"""
    for task in TASKS:
        runs = at_task(curves, task)
        points = {name: end_point(found) for name, found in runs.items()}
        rows = [
            [
                name,
                "front" if on_front(points[name], points.values()) else "",
                interval([end(run.mean_accuracy) for run in runs[name]], 3),
                interval([end(run.share) for run in runs[name]]),
                *(at_level(runs[name], level, lambda c: c.samples / 1000, 1) for level in REACHED),
            ]
            for name in sorted(runs, key=lambda name: -points[name][0])
        ]
        text += f"\n**{task}**:\n\n"
        text += table(("setting", "", "accuracy", "share", *(f"thousand samples to {x:.2f}" for x in REACHED)), rows)
    return text + nearest_section(curves)


def nearest_section(curves: Curves) -> str:
    """Compare each LAD setting with the in-reward KL whose share is nearest, in pairs of one task and seed."""
    rows, settings = [], seeded()
    for name, (_, setting) in settings.items():
        if not setting.env["ALGO"].startswith("lad"):
            continue
        every: list[tuple[Curve, Curve]] = []
        for task in TASKS:
            runs = at_task(curves, task)
            beside = [other for other in runs if settings[other][1].env["ALGO"] == "grpo_kl"]
            if name not in runs or not beside:
                continue
            share = end_point(runs[name])[1]
            nearest = min(beside, key=lambda other: abs(end_point(runs[other])[1] - share))
            pairs = list(zip(runs[name], runs[nearest], strict=True))
            every += pairs
            rows.append([name, task, nearest, *end_differences(pairs)])
        if every:
            rows.append([name, "all", "", *end_differences(every)])
    head = ("setting", "task", "in-reward KL", "accuracy, difference", "share, difference")
    return f"""
## In-reward KL at the nearest share

Each LAD setting beside the in-reward KL, of any beta and number of epochs, whose mean share at the end is nearest on
the task. Differences at the end, LAD minus KL, over pairs of one task and seed, with 95 % bootstrap intervals.

{table(head, rows)}"""


def end_differences(pairs: Sequence[tuple[Curve, Curve]]) -> list[str]:
    """Format the differences in accuracy and share at the end."""
    return [
        difference([(end(a.mean_accuracy), end(b.mean_accuracy)) for a, b in pairs], len(pairs)),
        difference([(end(a.share), end(b.share)) for a, b in pairs], len(pairs)),
    ]


def paired_table(curves: Curves, comparisons: Iterable[tuple[tuple[str, str], tuple[str, str]]]) -> str:
    """Compare two (group, method) over tasks and seeds: share at equal accuracy, and both at the end."""
    rows = []
    for (first_group, first), (second_group, second) in comparisons:
        keys = [
            ((first_group, task, first, seed), (second_group, task, second, seed)) for task in TASKS for seed in SEEDS
        ]
        pairs = [(curves[a], curves[b]) for a, b in keys if a in curves and b in curves]
        cells = []
        for level in LEVELS:
            crossings = [(a.crossing(level), b.crossing(level)) for a, b in pairs]
            reached = [(a.share, b.share) for a, b in crossings if a is not None and b is not None]
            cells.append(difference(reached, len(pairs)))
        accuracy, share = end_differences(pairs)
        rows.append([f"{first} - {second}", *cells, share, accuracy])
    head = ("difference", *(f"share at {x:.2f}" for x in LEVELS), "share at the end", "accuracy at the end")
    return table(head, rows)


def paired_section(curves: Curves) -> str:
    """Compare the main methods with grpo and grpo_kl, and each setting that has every seed with BESIDE."""
    main = [(method, "grpo") for method in MAIN if method != "grpo"]
    main += [(method, "grpo_kl") for method in MAIN if method not in ("grpo", "grpo_kl")]
    text = f"""\
## Paired differences

Pairs have the same task and seed, so bases that are alike (see Health). 95 % bootstrap intervals over pairs, from
{MIN_FOR_INTERVAL} on. "(2 of 9 pairs)": in the other seven one of the two never reached the level. Pairs of one task
are alike: an interval is about other seeds on these tasks, hardly about other tasks.

{paired_table(curves, [(("main", a), ("main", b)) for a, b in main])}"""
    for name, (group, _) in seeded().items():
        if group == "sweep":
            text += f"\n**{name}**:\n\n" + paired_table(curves, [(("sweep", name), ("main", b)) for b in BESIDE])
    epochs = [name for name in seeded() if name.endswith("-epochs4") and name != KL_EPOCHS]
    pairs = [(("sweep", name), ("sweep", KL_EPOCHS)) for name in epochs]
    return text + "\n**Four epochs on both sides**:\n\n" + paired_table(curves, pairs)


def end_section(curves: Curves) -> str:
    """Give the end of the budget for every setting that has every seed, and for the hard cases."""
    text = "## At the end of the budget\n\n![learning](figures/learning.png)\n"
    for task in TASKS:
        rows = [[name, *end_cells(of_seeds(curves, "main", task, name))] for name in MAIN]
        rows += [[n, *end_cells(of_seeds(curves, g, task, n))] for n, (g, _) in seeded().items() if g == "sweep"]
        text += f"\n**{task}**:\n\n" + table(("setting", *END_HEAD), rows)
    text += "\n## Hard cases\n\n![hard](figures/hard.png)\n"
    for group, task in HARD_TASKS.items():
        rows = [[method, *end_cells(of_seeds(curves, group, task, method))] for method in HARD_METHODS]
        text += f"\n**{group}** ({task}):\n\n" + table(("method", *END_HEAD), rows)
    return text


def sweep_section(curves: Curves) -> str:
    """Give the first seed of every setting, which all have."""
    columns = ("accuracy", "share", "share (collision)", "largest fall")
    text = "## Seed 0 of every setting\n\nOne seed: differences of a few hundredths mean nothing.\n"
    for task in TASKS:
        rows = []
        for group, names in (("main", MAIN), ("sweep", SWEEPS)):
            for name in names:
                runs = [curves[key] for key in [(group, task, name, 0)] if key in curves]
                cells = ["no run", "", "", ""]
                for run in runs:
                    shares = [f"{end(values):.2f}" for values in (run.share, run.collision_share)]
                    cells = [f"{end(run.mean_accuracy):.3f}", *shares, f"{run.largest_fall:.2f}"]
                rows.append([name, *cells, *(at_level(runs, level, lambda c: c.share) for level in LEVELS)])
        text += f"\n**{task}**:\n\n"
        text += table(("setting", *columns, *(f"share at {level:.2f}" for level in LEVELS)), rows)
    return text


def longer_section(curves: Curves) -> str:
    """Give accuracy and share after half and all of LONGER_STEPS."""
    rows = []
    for task in TASKS:
        for method in LONGER_METHODS:
            cells = ["no run", ""]
            for run in of_seeds(curves, "longer", task, method):
                middle = len(run.records) // 2 + 1
                cells = [f"{end(run.mean_accuracy[:n]):.3f} / {end(run.share[:n]):.2f}" for n in (middle, None)]
            rows.append([task, method, *cells])
    head = ("task", "setting", *(f"after {steps} steps" for steps in (LONGER_STEPS // 2, LONGER_STEPS)))
    return f"""\
## Twice the budget

Accuracy / share within one run of {LONGER_STEPS} steps, seed 0.

{table(head, rows)}"""


def cost_section(curves: Curves) -> str:
    """Compare median seconds a step and the actor's peak memory, by pair of runs."""
    rows = []
    columns: list[tuple[int, Callable[[Curve], Any]]] = [
        (2, lambda c: float(np.median(c.step_seconds("update_actor")[WARM_UP:]))),
        (2, lambda c: float(np.median(c.step_seconds("step")[WARM_UP:]))),
        (0, lambda c: c.actor_peak_mb),
    ]
    for method, beside in COST_PAIRS:
        keys = [(("cost", "digits", method, seed), ("cost", "digits", beside, seed)) for seed in SEEDS]
        pairs = [(curves[a], curves[b]) for a, b in keys if a in curves and b in curves]
        cells = []
        for digits, value in columns:
            ratios = sorted(value(a) / value(b) for a, b in pairs)
            listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            cells.append(f"{np.median([value(b) for _, b in pairs]):.{digits}f}" if pairs else "no run")
            cells.append(f"{np.median(ratios):.3f} ({listed})" if pairs else "no run")
        rows.append([f"{method} / {beside}", str(len(pairs)), *cells])
    head = ("pair", "pairs of runs", "update_actor, s", "ratio", "step, s", "ratio", "actor's peak, MB", "ratio")
    return f"""\
## Cost, side by side

Runs of 20 steps that take turns in one launch on a machine that does nothing else. Medians over the steps after the
first {WARM_UP}, and the ratio of the two medians with the pairs' in brackets. Seconds and MB are the second method's.
Peak: the most memory that the actor's process had resident, most of which is torch itself.

{table(head, rows)}"""


def health_section(curves: Curves) -> str:
    """Check sampled scores against exact accuracies, and list versions and machines."""
    runs = list(curves.values())
    excess, variance = np.array([run.score_excess() for run in runs]).T
    measured = np.array([len(run.records) for run in runs])
    mean = bootstrap_mean(excess / measured)
    z = excess / np.sqrt(variance)
    hours = sum(run.seconds for run in runs) / 3600
    in_steps = sum(run.records[-1]["seconds"]["step"] for run in runs) / 3600
    diff = max(record["rollout_probs_diff"] for run in runs for record in run.records)
    bases: dict[str, list[float]] = {}
    for run in runs:
        bases.setdefault(run.base, []).append(float(run.mean_accuracy[0]))
    spread, base = max((max(values) - min(values), name) for name, values in bases.items())
    versions = sorted({", ".join(f"{k} {v}" for k, v in run.run["versions"].items()) for run in runs})
    dates = sorted(run.run["date"] for run in runs)
    return f"""\
## Health

- {len(runs)} runs, {measured.sum()} measured steps.
- Time on a 2-core machine: {hours:.2f} hours in the runs, {in_steps:.2f} of them in verl's steps. Launches and base
  models are not counted.
- Largest mean difference between vLLM's and the trainer's probabilities in a step: {diff:.6f}.
- Sampled score minus exact accuracy, mean over measured steps: {excess.sum() / measured.sum():+.4f}
  ({mean.low:+.4f} to {mean.high:+.4f} by bootstrap over runs).
- The same divided by its sampling error: {z.min():+.1f} to {z.max():+.1f} over runs, and
  {excess.sum() / math.sqrt(variance.sum()):+.1f} all together. The accuracy of the policy that drew the samples is
  interpolated between two measurements, an error that this leaves out.
- A base is made anew on each machine, and two kinds of CPU round differently. Accuracies of bases of one name differ by
  at most {spread:.3f} ({base}).
- Versions: {"; ".join(versions)}.
- Machine: {"; ".join(sorted({run.run["machine"] for run in runs}))}. Dates: {dates[0]} to {dates[-1]}.
"""


def report(curves: Curves, others: Sequence[str], plan: Sequence[Run]) -> str:
    """Return RESULTS.md."""
    sections = ["# Results of the study\n\nMade by analyse.py; do not edit. README.md says what they mean.\n"]
    sections.append(status_section(curves, others, plan))
    if curves:
        sections += [
            DEFINITIONS,
            frontier_section(curves),
            matched_section(curves),
            paired_section(curves),
            end_section(curves),
        ]
        sections += [sweep_section(curves), longer_section(curves), cost_section(curves), health_section(curves)]
    return "\n".join(sections)


def draw(axes: Axes, runs: Sequence[Curve], x: str, y: str, method: str) -> None:
    """Draw the seeds thin and their mean thick and smoothed, with its end marked."""
    colour = COLOURS[method]
    for run in runs:
        axes.plot(getattr(run, x), getattr(run, y), color=colour, linewidth=0.4, alpha=0.35)
    xs, ys = (np.mean([smooth(getattr(run, name)) for run in runs], axis=0) for name in (x, y))
    axes.plot(xs, ys, color=colour, linewidth=1.5, label=method)
    axes.plot(xs[-1], ys[-1], "o", color=colour, markersize=4)


def draw_figure(curves: Curves, groups: dict[str, str], methods: Iterable[str], rows: Any, path: Path) -> None:
    """Draw a column for each title: (group, task) and a row for each (x, y); without a group, a method's own."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 0.55 + 2.75 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(groups), squeeze=False)
        for column, (title, (group, task)) in zip(panels.T, groups.items(), strict=True):
            column[0].set_title(title)
            for axes, (x, y) in zip(column, rows, strict=True):
                axes.set(xlabel=LABELS[x], ylabel=LABELS[y])
                for method in methods:
                    if runs := of_seeds(curves, group or seeded()[method][0], task, method):
                        draw(axes, runs, x, y, method)
                axes.set_ylim(bottom=0)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure with 64 colours: a third of the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)


def draw_ends(curves: Curves, path: Path) -> None:
    """Draw accuracy and share at the end: a dot a seed, a name at each setting's mean, and the Pareto front."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.2), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(TASKS), sharey=True), TASKS, strict=True):
            axes.set(title=task, xlabel=LABELS["mean_accuracy"])
            runs = at_task(curves, task)
            points = {name: end_point(found) for name, found in runs.items()}
            for name, found in runs.items():
                colour = next((c for family, c in FAMILIES.items() if name.startswith(family)), "#888888")
                ends = [(end(run.mean_accuracy), end(run.share)) for run in found]
                axes.plot(*zip(*ends, strict=True), "o", color=colour, markersize=2, alpha=0.5)
                axes.plot(*points[name], "o", color=colour, markersize=5)
                axes.annotate(name, points[name], (3, 3), textcoords="offset points", fontsize=5.5, color=colour)
            front = sorted(point for point in points.values() if on_front(point, points.values()))
            axes.plot([x for x, _ in front], [y for _, y in front], color="#888888", linewidth=0.8, zorder=0)
            axes.set_ylim(bottom=0)
        figure.axes[0].set_ylabel(LABELS["share"])
        save(figure, path)


def draw_figures(curves: Curves, directory: Path) -> None:
    """Write end.png, frontier.png, learning.png and hard.png."""
    directory.mkdir(parents=True, exist_ok=True)
    main = {task: ("", task) for task in TASKS}
    hard = {f"{group.removeprefix('hard_')} ({task})": (group, task) for group, task in HARD_TASKS.items()}
    frontier, learning, sharing = ("mean_accuracy", "share"), ("samples", "mean_accuracy"), ("samples", "share")
    draw_ends(curves, directory / "end.png")
    draw_figure(curves, main, COLOURS, [frontier], directory / "frontier.png")
    draw_figure(curves, main, COLOURS, [learning, sharing], directory / "learning.png")
    draw_figure(curves, hard, HARD_METHODS, [learning, frontier], directory / "hard.png")


def main() -> None:
    """Read the packed runs and write RESULTS.md and figures/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=packed_file(RESULTS), help="the packed runs")
    parser.add_argument("--output", type=Path, default=RESULTS.parent, help="directory for RESULTS.md and figures/")
    arguments = parser.parse_args()
    plan = all_runs()
    curves, others = read_curves(arguments.results, plan)
    draw_figures(curves, arguments.output / "figures")
    (arguments.output / "RESULTS.md").write_text(report(curves, others, plan))
    print(f"analyse: {len(curves)} of {len(plan)} runs; {arguments.output / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
