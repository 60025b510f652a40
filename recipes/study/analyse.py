"""Tables and figures of the study, from the runs that are there. What is missing is said, never guessed.

    python recipes/study/analyse.py [--results DIR] [--output DIR]

Writes OUTPUT/figures/*.png and the tables of OUTPUT/README.md, between its markers. All accuracies, entropies and
collision probabilities are exact (policy.exact_statistics): a run's curve has no measurement error, and its ups and
downs are the policy's own. What differs between seeds is base model, order of prompts and sampling.
"""

import argparse
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from plan import (
    CANDIDATE,
    CANDIDATE_BESIDE,
    COST_PAIRS,
    HARD,
    HARD_METHODS,
    MAIN,
    SEEDS,
    SWEEPS,
    TASKS,
    Run,
    all_runs,
)

from verl_lad.evaluation import bootstrap_mean, paired_bootstrap_difference

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
SKELETON = f"# The study in real verl\n\n## Results\n\n{BEGIN}\n{END}\n"

LEVELS = (0.80, 0.90, 0.95, 0.97)
PASS_AT = (4, 16, 64)
LAST = 5
"""Measurements, two steps apart, whose mean stands for a run's end, and over which the figures' lines are smoothed."""
REFERENCES = ("grpo", "grpo_kl")
PROMPTS_A_STEP = 8  # run_study.sh, TRAIN_BATCH_SIZE
MIN_FOR_INTERVAL = 3
HARD_TASKS = {f"hard_{name}": change["task"] for name, change in HARD.items()}
# Student's t, 97.5 % quantile by degrees of freedom: standard tables.
T_QUANTILE = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
WARM_UP = 3
"""Steps of a cost run that are not counted: a launch compiles at its first tokens."""
PHASES = ("gen", "old_log_prob", "ref", "update_actor", "update_weights", "step")

# Okabe & Ito, "Color Universal Design" (2008), without yellow.
COLOURS = {
    "grpo": "#000000",
    "lad_anchored": "#0072B2",
    "grpo_kl": "#E69F00",
    "lad": "#D55E00",
    "entropy": "#009E73",
    "kl_cov": "#CC79A7",
    "clip_cov": "#56B4E9",
}
DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
RC = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
# Rows of the sweeps' figure: the runs compared, with seed 0, of the sweep and of the main comparison.
FAMILIES: dict[str, tuple[str, ...]] = {
    "anchored eta, KL beta": (
        "lad_anchored",
        "grpo_kl",
        "anchored-eta0.0625",
        "anchored-eta0.25",
        "grpo_kl-0.03125",
        "grpo_kl-0.0625",
    ),
    "epochs": ("lad_anchored", "grpo_kl", "anchored-epochs2", "anchored-epochs4", "grpo_kl-0.125-epochs4"),
    "divergence and level": (
        "lad_anchored",
        "grpo_kl",
        "grpo_kl-0.125-nostd",
        "anchored-hd",
        "anchored-alpha0.8",
        "anchored-kl",
        "anchored-token",
    ),
    "plain LAD": ("lad", "grpo", "lad-eta0.0625", "lad-eta1", "lad-sequence"),
    "entropy bonus, covariance": ("entropy", "kl_cov", "clip_cov"),
}


class Crossing(NamedTuple):
    """A run where its accuracy first reaches a level."""

    samples: float
    share: float
    collision_share: float


@dataclass(frozen=True)
class Curve:
    """A finished run. S measurements, the first of them the base; P prompts.

    samples: (S,); accuracy, entropy, collision: (S, P), as in policy.exact_statistics; records: the S - 1 later lines
    of the file; seconds: the whole run's; actor_peak_mb: of its actor's process, None in older files.
    """

    run: dict[str, Any]
    samples: np.ndarray
    accuracy: np.ndarray
    entropy: np.ndarray
    collision: np.ndarray
    records: tuple[dict[str, Any], ...]
    seconds: float
    actor_peak_mb: float | None = None

    @property
    def mean_accuracy(self) -> np.ndarray:
        """(S,)."""
        return self.accuracy.mean(1)

    @property
    def share(self) -> np.ndarray:
        """(S,) effective solutions as a share of the base's: exp of the mean over prompts of H - H_base."""
        return np.exp((self.entropy - self.entropy[0]).mean(1))

    @property
    def collision_share(self) -> np.ndarray:
        """(S,) the same from the collision probability, whose inverse is an effective number too."""
        return np.exp(np.log(self.collision[0] / self.collision).mean(1))

    def pass_at(self, k: int) -> np.ndarray:
        """(S,) probability that one of k samples is right, mean over prompts."""
        return (1 - (1 - self.accuracy) ** k).mean(1)

    @property
    def response_entropy(self) -> np.ndarray:
        """(S - 1,) nats of a response, in samples of the policy that began the step.

        verl's actor/entropy is aggregated as the loss is: summed over the response at RATIO=sequence, a mean over
        tokens otherwise, which the mean length turns into the mean sum.
        """
        summed = self.run["env"].get("RATIO") == "sequence"
        return np.array([r["entropy"] * (1.0 if summed else r["response_length"]) for r in self.records])

    def crossing(self, level: float) -> Crossing | None:
        """Where the accuracy first reaches `level`, linear between the two measurements; None if it never does."""
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
        """By how much the accuracy was below its best so far, at worst."""
        return float((np.maximum.accumulate(self.mean_accuracy) - self.mean_accuracy).max())


Curves = dict[tuple[str, str, str, int], Curve]  # by group, task, method, seed


def read_curve(path: Path) -> Curve:
    """Raises:
    ValueError: if the file is not a finished run's; names it.
    """
    first, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    if len(rest) < 3 or not rest[-1].get("done"):
        raise ValueError(f"{path} is not a finished run's file")
    base, *records = rest[:-1]
    exact = {key: np.array([r["exact"][key] for r in (base, *records)]) for key in ("accuracy", "entropy", "collision")}
    samples = np.array([0, *(r["samples"] for r in records)], dtype=np.float64)
    last = rest[-1]
    peak = last.get("actor_peak_mb")
    return Curve(first, samples, **exact, records=tuple(records), seconds=last["seconds"], actor_peak_mb=peak)


def read_results(directory: Path, plan: Sequence[Run]) -> tuple[Curves, list[str]]:
    """The plan's finished runs, and the names of files that are no run of the plan as it stands."""
    planned = {run.name: run for run in plan}
    curves: Curves = {}
    others = []
    for path in sorted(directory.glob("*.jsonl")):
        curve = read_curve(path)
        run = planned.get(path.stem)
        if run is None or any(curve.run[key] != value for key, value in run.record().items()):
            others.append(path.stem)
        else:
            curves[run.group, run.task, run.method, run.seed] = curve
    return curves, others


def end(values: np.ndarray) -> float:
    return float(values[-LAST:].mean())


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean and t interval from three values on; else the values themselves."""
    if len(values) < MIN_FOR_INTERVAL:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    half = T_QUANTILE[len(values) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def difference(a: Sequence[float], b: Sequence[float], out_of: int) -> str:
    """Mean of a - b over pairs, with its bootstrap interval from three pairs on; `out_of`: all pairs that there are."""
    pairs = f"({len(a)} of {out_of} pairs)"
    if not a:
        return pairs
    found = paired_bootstrap_difference(a, b)
    if len(a) < MIN_FOR_INTERVAL or found.low is None or found.high is None:
        return f"{found.mean:+.2f} {pairs}"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] {pairs}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def seeds_of(curves: Curves, group: str, task: str, method: str) -> list[Curve]:
    return [curve for (g, t, m, _), curve in sorted(curves.items()) if (g, t, m) == (group, task, method)]


def seed_count(found: Sequence[Curve]) -> str:
    return f"{len(found)} seed{'s' * (len(found) != 1)}"


def at_level(found: Sequence[Curve], level: float, value: Callable[[Crossing], float], digits: int) -> str:
    """A cell: over the seeds that reach the level, and how many do not, with their best accuracy."""
    if not found:
        return "no run"
    crossings = [curve.crossing(level) for curve in found]
    reached = [value(c) for c in crossings if c is not None]
    missed = [float(curve.mean_accuracy.max()) for curve, c in zip(found, crossings, strict=True) if c is None]
    if not missed:
        return interval(reached, digits)
    best = ", ".join(f"{x:.3f}" for x in missed)
    values = ", ".join(f"{x:.{digits}f}" for x in reached) + "; " if reached else ""
    return f"{values}{len(reached)} of {len(found)} (best {best})"


def end_row(name: str, found: Sequence[Curve]) -> list[str]:
    if not found:
        return [name, "no run", *[""] * (6 + len(PASS_AT))]
    return [
        name,
        seed_count(found),
        interval([end(c.mean_accuracy) for c in found], 3),
        *(interval([end(c.pass_at(k)) for c in found], 3) for k in PASS_AT),
        interval([end(c.share) for c in found]),
        interval([end(c.collision_share) for c in found]),
        interval([end(c.response_entropy) for c in found]),
        interval([float(c.mean_accuracy.max()) for c in found], 3),
        interval([c.largest_fall for c in found]),
    ]


END_HEAD = (
    "method",
    "seeds",
    "accuracy",
    *(f"pass@{k}" for k in PASS_AT),
    "share",
    "share (collision)",
    "entropy of a response",
    "best accuracy",
    "largest fall",
)


def status(curves: Curves, others: Sequence[str], plan: Sequence[Run]) -> str:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in plan:
        groups.setdefault((run.group, run.task), []).append(run)
    rows = []
    for (group, task), runs in groups.items():
        missing = [run for run in runs if (group, task, run.method, run.seed) not in curves]
        by_seed: dict[int, list[str]] = {}
        for run in missing:
            by_seed.setdefault(run.seed, []).append(run.method)
        said = [
            f"seed {seed}: " + ("all" if len(methods) == sum(r.seed == seed for r in runs) else ", ".join(methods))
            for seed, methods in by_seed.items()
        ]
        rows.append([group, task, f"{len(runs) - len(missing)} of {len(runs)}", "; ".join(said) or "none"])
    text = table(("group", "task", "finished runs", "missing"), rows)
    if others:
        text += f"\nNot used, as they are no run of plan.py as it stands: {', '.join(others)}.\n"
    return text


PAIRED_HEAD = ("difference", *(f"share at {x:.2f}" for x in LEVELS), "share at the end", "accuracy at the end")


def paired_row(curves: Curves, first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Differences over (task, seed) of share at equal accuracy, and of both at the end; a side is (group, method)."""

    def find(side: tuple[str, str], task: str, seed: int) -> Curve | None:
        return curves.get((side[0], task, side[1], seed))

    found = [(find(first, task, seed), find(second, task, seed)) for task in TASKS for seed in SEEDS]
    both = [(a, b) for a, b in found if a is not None and b is not None]
    cells = []
    for level in LEVELS:
        crossed = [(a.crossing(level), b.crossing(level)) for a, b in both]
        pairs = [(a.share, b.share) for a, b in crossed if a is not None and b is not None]
        cells.append(difference([a for a, _ in pairs], [b for _, b in pairs], len(both)))
    for ends in (
        [(end(a.share), end(b.share)) for a, b in both],
        [(end(a.mean_accuracy), end(b.mean_accuracy)) for a, b in both],
    ):
        cells.append(difference([a for a, _ in ends], [b for _, b in ends], len(both)))
    return [f"{first[1]} - {second[1]}", *cells]


def pairs_section(curves: Curves) -> str:
    """The main comparison's methods against each of REFERENCES."""
    rows = []
    for reference in REFERENCES:
        for method in MAIN:
            if method == reference or (method, reference) == ("grpo", "grpo_kl"):  # said already, turned round
                continue
            rows.append(paired_row(curves, ("main", method), ("main", reference)))
    return table(PAIRED_HEAD, rows)


def step_seconds(curve: Curve, phase: str) -> np.ndarray:
    """Seconds a step, one for each measured stretch of steps."""
    total = np.array([0.0, *(r["seconds"].get(phase, 0.0) for r in curve.records)])
    return np.diff(total) / np.diff([0, *(r["step"] for r in curve.records)])


def cost_section(curves: Curves) -> str:
    """Each pair's ratio of median seconds a step and of the actor's peak memory, by seed."""
    rows = []
    for method, beside in COST_PAIRS:
        both = [
            (curves["cost", "digits", method, seed], curves["cost", "digits", beside, seed])
            for seed in SEEDS
            if ("cost", "digits", method, seed) in curves and ("cost", "digits", beside, seed) in curves
        ]
        cells = []
        for digits, value in (
            (2, lambda c: float(np.median(step_seconds(c, "update_actor")[WARM_UP:]))),
            (2, lambda c: float(np.median(step_seconds(c, "step")[WARM_UP:]))),
            (0, lambda c: c.actor_peak_mb),
        ):
            values = [[value(c) for c in pair] for pair in both]
            ratios = sorted(a / b for a, b in values)
            cells.append(f"{np.median([b for _, b in values]):.{digits}f}" if both else "no run")
            cells.append(f"{np.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)})" if both else "no run")
        rows.append([f"{method} / {beside}", str(len(both)), *cells])
    head = ("pair", "pairs of runs", "update_actor, s", "ratio", "step, s", "ratio", "actor's peak, MB", "ratio")
    return table(head, rows)


def seconds_section(curves: Curves) -> str:
    """Median seconds a step by phase, and the median of the runs' sums."""
    rows = []
    for method in MAIN:
        found = [curve for (group, _, m, _), curve in curves.items() if group == "main" and m == method]
        if not found:
            continue
        cells = []
        for phase in PHASES:
            each = []
            for curve in found:
                each.extend(step_seconds(curve, phase))
            cells.append(f"{np.median(each):.2f}")
        sums = [np.median([c.records[-1]["seconds"][phase] for c in found]) for phase in ("update_actor", "step")]
        rows.append([method, str(len(found)), *cells, *(f"{value:.0f}" for value in sums)])
    return table(("method", "runs", *PHASES, "update_actor, whole run", "step, whole run"), rows)


def score_check(curve: Curve) -> tuple[float, float]:
    """Sum over the measured steps of sampled score minus exact accuracy, and the sum's variance by sampling alone.

    A step's samples come from the policy after step - 1, which is not measured: its accuracy is taken linearly between
    the two measurements around it. The score of n samples, of b prompts drawn at random, has the variance
    var(p) / b + mean(p (1 - p)) / n.
    """
    steps = np.array([0, *(r["step"] for r in curve.records)])
    mean, total, variance = curve.mean_accuracy, 0.0, 0.0
    batch = int(curve.samples[1] / steps[1])
    for i, record in enumerate(curve.records, start=1):
        total += record["score"] - float(np.interp(record["step"] - 1, steps, mean))
        p = (curve.accuracy[i - 1] + curve.accuracy[i]) / 2
        variance += p.var() / PROMPTS_A_STEP + (p * (1 - p)).mean() / batch
    return total, variance


def health_section(curves: Curves) -> str:
    found = list(curves.values())
    measured = sum(len(curve.records) for curve in found)
    checks = np.array([score_check(curve) for curve in found])
    per_run = [total / len(curve.records) for (total, _), curve in zip(checks, found, strict=True)]
    over = bootstrap_mean(per_run) if len(per_run) >= MIN_FOR_INTERVAL else None
    between = f", {over.low:+.4f} to {over.high:+.4f} by bootstrap over runs" if over and over.low is not None else ""
    z = checks[:, 0] / np.sqrt(checks[:, 1])
    diff = max(record["rollout_probs_diff"] for curve in found for record in curve.records)
    versions = sorted({", ".join(f"{k} {v}" for k, v in c.run["versions"].items()) for c in found})
    machines = sorted({curve.run["machine"] for curve in found})
    dates = sorted({curve.run["date"] for curve in found})
    hours = sum(curve.seconds for curve in found) / 3600
    in_steps = sum(curve.records[-1]["seconds"]["step"] for curve in found) / 3600
    return "\n".join(
        [
            f"- {len(found)} runs, {measured} measured steps; {hours:.2f} hours of a 2-core machine in the runs, "
            f"{in_steps:.2f} of them in verl's steps. Launches and base models are not counted.",
            f"- Largest mean difference between vLLM's and the trainer's probabilities in a step: {diff:.6f} "
            "(recorded with six digits).",
            f"- Sampled score minus exact accuracy, mean over measured steps: "
            f"{checks[:, 0].sum() / measured:+.4f}{between}; over runs z is {z.min():+.1f} to {z.max():+.1f}, "
            f"all together {checks[:, 0].sum() / math.sqrt(checks[:, 1].sum()):+.1f}. The accuracy of the policy that "
            "drew the samples is interpolated between two measurements, which z does not allow for.",
            f"- Versions: {'; '.join(versions)}.",
            f"- Machine: {'; '.join(machines)}. Dates: {dates[0]} to {dates[-1]}.",
        ]
    )


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over LAST measurements, fewer at the beginning; the last value is `end`."""
    return np.array([values[max(0, i - LAST + 1) : i + 1].mean() for i in range(len(values))])


def draw(axes: Axes, found: Sequence[Curve], x: str, y: str, colour: str, label: str, dashes: Any = "-") -> None:
    """Thin: the seeds; thick: their mean, smoothed, with its end marked."""
    for curve in found:
        axes.plot(getattr(curve, x), getattr(curve, y), color=colour, linewidth=0.4, alpha=0.35)
    xs = np.mean([smooth(getattr(c, x)) for c in found], axis=0)
    ys = np.mean([smooth(getattr(c, y)) for c in found], axis=0)
    axes.plot(xs, ys, color=colour, linewidth=1.5, linestyle=dashes, label=label)
    axes.plot(xs[-1], ys[-1], "o", color=colour, markersize=4)


def colour_of(name: str) -> str:
    """A sweep's run has its method's colour."""
    method = "lad_anchored" if name.startswith("anchored") else name.split("-")[0]
    return COLOURS[method]


LABELS = {"samples": "samples", "mean_accuracy": "accuracy", "share": "share of the base's effective solutions"}


def palette() -> Image.Image:
    """Our colours and 31 shades of each towards white, and white: a third of the bytes of all colours."""
    image = Image.new("P", (1, 1))
    shades = np.append(np.linspace(0, 0.9, 31), 1)[:, None]  # Pillow takes a near shade for white
    colours = [np.array(ImageColor.getrgb(colour)) for colour in COLOURS.values()]
    image.putpalette(np.concatenate([c + shades * (255 - c) for c in colours]).round().astype(np.uint8).tobytes())
    return image


def figure_of(rows: int, titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(9.5, 0.55 + 2.75 * rows), layout="constrained")
    return figure, figure.subplots(rows, len(titles), squeeze=False)


def finish(figure: Figure, panels: np.ndarray, x: Sequence[str], y: Sequence[str], legend: str, path: Path) -> None:
    for row in range(len(panels)):
        for column, axes in enumerate(panels[row]):
            axes.set_xlabel(LABELS[x[row]])
            if column == 0:
                axes.set_ylabel(LABELS[y[row]])
            axes.set_ylim(bottom=0)
            if not axes.lines:
                axes.text(0.5, 0.5, "no run yet", transform=axes.transAxes, ha="center", color="#777777")
    if legend == "below":
        handles = {
            label: handle
            for axes in panels.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(palette=palette(), dither=Image.Dither.NONE).save(path, optimize=True)


def captions(curves: Curves) -> dict[str, str]:
    """By file name, of the figures for which there is a run."""
    groups = {group for group, *_ in curves}
    smoothed = f"Thin: each seed; thick: their mean, a running mean of {LAST} measurements; dot: the end."
    found = {}
    if "main" in groups:
        found["frontier.png"] = f"What a method keeps of the base's solutions as it gets accurate. {smoothed}"
        found["learning.png"] = f"The same over samples. {smoothed}"
    if "sweep" in groups:
        found["sweeps.png"] = "What is varied, with one seed, beside the main comparison's runs of that seed."
    if groups & set(HARD_TASKS):
        found["hard.png"] = f"Where anchoring may hurt. {smoothed}"
    return found


def figures(curves: Curves, directory: Path) -> None:
    """Writes the figures that `captions` names, with matplotlib's settings RC."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = captions(curves)
    with rc_context(RC):
        if "frontier.png" in wanted:
            draw_frontier(curves, directory / "frontier.png")
            draw_learning(curves, directory / "learning.png")
        if "sweeps.png" in wanted:
            draw_sweeps(curves, directory / "sweeps.png")
        if "hard.png" in wanted:
            draw_hard(curves, directory / "hard.png")


def draw_frontier(curves: Curves, path: Path) -> None:
    figure, panels = figure_of(1, TASKS)
    for axes, task in zip(panels[0], TASKS, strict=True):
        axes.set_title(task)
        for method, colour in COLOURS.items():
            if found := seeds_of(curves, "main", task, method):
                draw(axes, found, "mean_accuracy", "share", colour, method)
    finish(figure, panels, ["mean_accuracy"], ["share"], "below", path)


def draw_learning(curves: Curves, path: Path) -> None:
    figure, panels = figure_of(2, TASKS)
    for column, task in enumerate(TASKS):
        panels[0, column].set_title(task)
        for method, colour in COLOURS.items():
            if found := seeds_of(curves, "main", task, method):
                draw(panels[0, column], found, "samples", "mean_accuracy", colour, method)
                draw(panels[1, column], found, "samples", "share", colour, method)
    finish(figure, panels, ["samples"] * 2, ["mean_accuracy", "share"], "below", path)


def draw_sweeps(curves: Curves, path: Path) -> None:
    figure, panels = figure_of(len(FAMILIES), TASKS)
    for row, (family, names) in enumerate(FAMILIES.items()):
        for column, task in enumerate(TASKS):
            axes = panels[row, column]
            axes.set_title(f"{task}: {family}")
            used = dict.fromkeys(COLOURS.values(), 0)
            for name in names:
                colour = colour_of(name)
                curve = curves.get(("main" if name in MAIN else "sweep", task, name, 0))
                if curve:
                    draw(axes, [curve], "mean_accuracy", "share", colour, name, DASHES[used[colour]])
                used[colour] += 1
            if axes.lines:
                axes.legend(fontsize=6, loc="lower left", handlelength=4)
    rows = len(FAMILIES)
    finish(figure, panels, ["mean_accuracy"] * rows, ["share"] * rows, "inside", path)


def draw_hard(curves: Curves, path: Path) -> None:
    figure, panels = figure_of(2, tuple(HARD))
    for column, (group, task) in enumerate(HARD_TASKS.items()):
        panels[0, column].set_title(f"{group.removeprefix('hard_')} ({task})")
        for method in HARD_METHODS:
            if found := seeds_of(curves, group, task, method):
                draw(panels[0, column], found, "samples", "mean_accuracy", COLOURS[method], method)
                draw(panels[1, column], found, "mean_accuracy", "share", COLOURS[method], method)
    finish(figure, panels, ["samples", "mean_accuracy"], ["mean_accuracy", "share"], "below", path)


DEFINITIONS = f"""\
- Accuracy: mean over prompts of the exact probability p of a right answer. pass@k: mean of 1 - (1 - p)^k.
- Share: effective distinct solutions as a share of the base's, exp of the mean over prompts of H - H_base, where H is
  the entropy of the right answers among themselves. Share (collision): the same from the inverse collision probability.
  All are by enumeration of all right answers: no number of samples biases them.
- ±: 95 % t interval over seeds, from {MIN_FOR_INTERVAL} seeds on. With fewer, the seeds' values stand alone.
- End: mean of the last {LAST} measurements, which span {2 * LAST - 2} steps.
- Largest fall: how far the accuracy was below its best so far, at worst.
- Entropy of a response: verl's actor/entropy, in nats a response, over all answers, right or wrong.
"""
MATCHED = """\
At the first time that the accuracy reaches a level, linear between the two measurements around it. A curve has ups and
downs of its own, so this is earlier than where it stays above the level. Where the share falls along training, that
favours a method, the more so the more its accuracy jumps. A run that never reaches a level is counted, with its best
accuracy: "1 of 3 (best 0.880, 0.930)" means that one of three runs got there.
"""
PAIRED = f"""\
Pairs have the same task and seed, so the same base. 95 % bootstrap intervals over pairs, from {MIN_FOR_INTERVAL} on.
"(2 of 9 pairs)": in the other seven one of the two never got there, and the difference is about the easier pairs alone.
Pairs of one task are alike: an interval speaks of other seeds on these tasks, hardly of other tasks.
"""
TIMES = """\
Medians, by phase, of the main comparison's runs; the last two columns are medians of whole runs. Other work ran on the
machine: these times do not compare methods well.
"""
COST = f"""\
Runs of 20 steps that take turns in one launch on a machine that did nothing else: medians over the steps after the
first {WARM_UP}, and the ratio of the two medians, over the pairs of runs (each in brackets). Seconds and MB: the second
one's. Peak: the most memory that the actor's process had resident in a run, most of which is torch itself.
"""


def tables(curves: Curves, others: Sequence[str], plan: Sequence[Run]) -> str:
    """Everything between the README's markers."""
    images = captions(curves)
    parts = ["\n### What is there\n", status(curves, others, plan)]
    if not curves:
        return "\n".join([*parts, "No finished run yet.\n"])

    def image(name: str) -> list[str]:
        return [f"![{name.removesuffix('.png')}](figures/{name})\n\n{images[name]}\n"] if name in images else []

    parts += ["### Definitions\n", DEFINITIONS]
    main_tasks = [task for task in TASKS if any(key[:2] == ("main", task) for key in curves)]
    if main_tasks:
        parts += ["### Main comparison: at matched accuracy\n", MATCHED, *image("frontier.png")]
    head = ("method", "seeds", *(f"at {level:.2f}" for level in LEVELS))
    for what, value, digits in (
        ("share of the base's effective solutions", lambda c: c.share, 2),
        ("share (collision)", lambda c: c.collision_share, 2),
        ("samples, in thousands", lambda c: c.samples / 1000, 1),
    ):
        for task in main_tasks:
            rows = []
            for method in MAIN:
                found = seeds_of(curves, "main", task, method)
                cells = [at_level(found, level, value, digits) for level in LEVELS]
                rows.append([method, seed_count(found), *cells])
            parts += [f"**{task}**, {what}:\n", table(head, rows)]
    if main_tasks:
        parts += ["### Main comparison: paired differences\n", PAIRED, pairs_section(curves)]
        parts += ["### Main comparison: at the end of the budget\n", *image("learning.png")]
    for task in main_tasks:
        rows = [end_row(method, seeds_of(curves, "main", task, method)) for method in MAIN]
        parts += [f"**{task}**:\n", table(END_HEAD, rows)]
    sweep_tasks = [task for task in TASKS if any(key[:2] == ("sweep", task) for key in curves)]
    if sweep_tasks:
        parts += ["### What is varied\n", "One seed: differences of a few hundredths mean nothing.\n"]
        parts += image("sweeps.png")
    sweep_head = ("run", "accuracy", "share", "share (collision)", "largest fall")
    for task in sweep_tasks:
        rows = []
        for group, names in (("main", MAIN), ("sweep", SWEEPS)):
            for name in names:
                curve = curves.get((group, task, name, 0))
                if curve is None:
                    rows.append([name, "no run", *[""] * (len(sweep_head) - 2 + len(LEVELS))])
                    continue
                ends = (curve.mean_accuracy, curve.share, curve.collision_share)
                cells = [f"{end(ends[0]):.3f}", *(f"{end(v):.2f}" for v in ends[1:]), f"{curve.largest_fall:.2f}"]
                cells += [at_level([curve], level, lambda c: c.share, 2) for level in LEVELS]
                rows.append([name, *cells])
        parts += [f"**{task}**, seed 0:\n", table((*sweep_head, *(f"share at {x:.2f}" for x in LEVELS)), rows)]
    if any(key[0] == "sweep" and key[2] == CANDIDATE for key in curves):
        parts += [f"### {CANDIDATE}, with every seed\n", "The one that might be a preset. Pairs are as above.\n"]
        parts += [table(PAIRED_HEAD, [paired_row(curves, ("sweep", CANDIDATE), ("main", m)) for m in CANDIDATE_BESIDE])]
        rows = [[task, *end_row(CANDIDATE, seeds_of(curves, "sweep", task, CANDIDATE))[1:]] for task in TASKS]
        parts += [table(("task", *END_HEAD[1:]), rows)]
    if any(key[0] in HARD_TASKS for key in curves):
        parts += ["### Hard cases\n", *image("hard.png")]
    for group, task in HARD_TASKS.items():
        if any(key[0] == group for key in curves):
            rows = [end_row(method, seeds_of(curves, group, task, method)) for method in HARD_METHODS]
            parts += [f"**{group}** ({task}):\n", table(END_HEAD, rows)]
    if any(key[0] == "cost" for key in curves):
        parts += ["### Cost, side by side\n", COST, cost_section(curves)]
    parts += [
        "### Seconds a step\n",
        TIMES,
        seconds_section(curves),
        "### Health\n",
        health_section(curves) + "\n",
    ]
    return "\n".join(parts)


def insert(readme: str, text: str) -> str:
    """The README with `text` between its markers.

    Raises:
        ValueError: if it does not have each marker once, in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README.md must have {BEGIN} and then {END}, once each")
    return readme.partition(BEGIN)[0] + f"{BEGIN}\n{text}\n" + END + readme.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--output", type=Path, default=HERE, help="for README.md and figures/")
    arguments = parser.parse_args()
    plan = all_runs()
    curves, others = read_results(arguments.results, plan)
    figures(curves, arguments.output / "figures")
    readme = arguments.output / "README.md"
    text = readme.read_text() if readme.exists() else SKELETON
    readme.write_text(insert(text, tables(curves, others, plan)))
    print(f"analyse: {len(curves)} of {len(plan)} runs; {readme}")


if __name__ == "__main__":
    main()
