"""Make the report: a plain-text table, one self-contained HTML page, its figures as PNG, and every number as JSON."""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from verl_lad.evaluation import tables
from verl_lad.evaluation.diversity import MIN_CORRECT_FOR_ENTROPY
from verl_lad.evaluation.figures import Figures
from verl_lad.evaluation.measures import MIN_PROBLEMS_TOLD_APART
from verl_lad.evaluation.runs import Run, load_runs
from verl_lad.evaluation.tables import LastValidations, Row, algorithms, benchmarks
from verl_lad.evaluation.validation import Rules, answer_label, read_entries
from verl_lad.version import __version__

_MAX_SOLUTIONS = 5
_MAX_PROMPT = 1200
_MAX_SOLUTION = 300
"""Characters of an example that are shown."""


class Report(NamedTuple):
    """A report.

    Attributes:
        table: every validation, a line each, with notes; empty if the runs have none.
        page: path of the page; None if there was nothing to report, and nothing was written.
        complaints: what was left out or is uncertain, as sentences.
    """

    table: str
    page: Path | None
    complaints: list[str]


def make_report(
    paths: Sequence[Path],
    output: Path,
    *,
    rules: Rules | None = None,
    figure: Path | None = None,
    on_dump: Callable[[Path, int, int], None] | None = None,
) -> Report:
    """Report accuracy, diversity and training curves of runs.

    Args:
        paths: directories of the runs, see `verl_lad.evaluation.runs`.
        output: where to write `report.html`, `summary.json` and `figures/*.png`; made if missing. Files of these names
            are overwritten.
        rules: how to read the validation dumps, see `verl_lad.evaluation.validation`.
        figure: where to draw accuracy and effective solutions over training as well (PNG, or what the suffix says).
        on_dump: called with each validation dump once it is read, how many are, and how many there are.

    Returns:
        The table, the page, and what was left out or is uncertain.

    Raises:
        OSError: if the output or the figure cannot be written. A place that can never be is found before the reading.
        ImportError: if matplotlib, Jinja or PyYAML is needed and not installed.
    """
    for directory in (output, *([] if figure is None else [figure.parent])):
        existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"{directory}: cannot be written, as {existing} is not a directory")
    complaints: list[str] = []
    runs = load_runs(paths, rules, complaints=complaints, on_dump=on_dump)
    complaints += [remark for run in runs for remark in run.remarks]
    if not runs:
        return Report("", None, complaints)
    rows = tables.validation_rows(runs)
    figures = Figures(runs, rows)
    if figure is not None and rows:
        figure.parent.mkdir(parents=True, exist_ok=True)
        figures.overview().savefig(figure)
    elif figure is not None:
        complaints.append(f"{figure}: not drawn, as the runs have no validation")
    return Report(
        tables.format_table(rows) if rows else "", _write_page(runs, rows, figures, complaints, output), complaints
    )


def _write_page(
    runs: Sequence[Run], rows: Sequence[Row], figures: Figures, complaints: Sequence[str], directory: Path
) -> Path:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    (directory / "figures").mkdir(parents=True, exist_ok=True)
    drawings = {}
    for name, (caption, drawn) in figures.draw_all().items():
        png = io.BytesIO()
        drawn.savefig(png)
        (directory / "figures" / f"{name}.png").write_bytes(png.getvalue())
        width = round(100 * drawn.get_figwidth())  # in CSS pixels, so that text has one size in all figures
        drawings[name] = {"caption": caption, "width": width, "png": base64.b64encode(png.getvalue()).decode()}

    last = LastValidations(runs)
    accuracy, diversity = last.accuracy_tables(), last.diversity_tables()
    columns = tables.step_columns(runs)
    environment = Environment(
        loader=PackageLoader("verl_lad.evaluation", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2").render(
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        runs=[_provenance(run) for run in runs],
        notes=_notes(runs),
        accuracy=accuracy[:1] + accuracy[1:][-1:],
        more_accuracy=accuracy[1:-1],
        diversity=diversity,
        drawings=drawings,
        examples=[example for benchmark in benchmarks(runs) if (example := _example(runs, benchmark)) is not None],
        columns=[measure.heading for measure in columns],
        steps={
            run.label: [(row.benchmark, row.step, tables.step_cells(row, columns)) for row in rows if row.run is run]
            for run in runs
            if run.validations
        },
        complaints=complaints,
        fewest=MIN_PROBLEMS_TOLD_APART,
        fewest_correct=MIN_CORRECT_FOR_ENTROPY,
    )
    path = directory / "report.html"
    path.write_text(page, encoding="utf-8")
    summary = {
        "verl_lad": __version__,
        "runs": [_run_summary(run, rows) for run in runs],
        "last_validation": last.numbers,
        "complaints": list(complaints),
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _provenance(run: Run) -> dict[str, Any]:
    description = run.description
    steps = sorted({step for curve in run.curves.values() for step in curve})
    samples = sum(p.total for step in run.validations for b in run.benchmarks for p in run.problems(b, step).values())
    return {
        "label": run.label,
        "algorithm": description.algorithm,
        "seed": "–" if description.seed is None else description.seed,
        "path": str(description.path),
        "source": description.source,
        "verl": description.verl_version or "–",
        "steps": tables.span([steps[0], steps[-1]]) if steps else "–",
        "metrics": ", ".join(path.name for path in run.metrics) if run.curves else "–",
        "validations": ", ".join(map(str, run.validations)) or "–",
        "samples": f"{samples:,}" if samples else "–",
    }


def _notes(runs: Sequence[Run]) -> list[str]:
    """Say what a reader of the tables must know about these runs."""
    notes = [f"{run.label}: no {' and no '.join(run.missing)}." for run in runs if run.missing]
    for algorithm, group in algorithms(runs).items():
        seeds = Counter(run.description.seed for run in group)
        repeated = sorted(seed for seed, count in seeds.items() if count > 1 and seed is not None)
        if repeated:
            notes.append(
                f"{algorithm}: several runs have seed {', '.join(map(str, repeated))}. They count as runs of one "
                'algorithm; if their settings differ, give them different "algo" in run.json.'
            )
        for benchmark in benchmarks(group):
            problems = [set(run.last_problems(benchmark)) for run in group if run.last_problems(benchmark)]
            shared, in_all = len(set.intersection(*problems)), len(set.union(*problems))
            if shared < in_all:
                used = (
                    f"the {shared} that all have count" if shared else "none is shared, so all count, runs as they are"
                )
                notes.append(f"{algorithm} on {benchmark}: the runs have different problems ({in_all} in all); {used}.")
    for run in runs:
        for benchmark in run.benchmarks:
            base, last = run.problems(benchmark, 0), run.last_problems(benchmark)
            if base and not last.keys() & base.keys():
                notes.append(
                    f"{run.label} on {benchmark}: no problem is known from step 0, so there is no share of base."
                )
    steps = {run.label: max(run.validations) for run in runs if run.validations}
    if len(set(steps.values())) > 1:
        listed = ", ".join(f"{step} ({label})" for label, step in steps.items())
        notes.append(f"The runs’ last validations are at different steps: {listed}.")
    return notes


def _example(runs: Sequence[Run], benchmark: str) -> dict[str, Any] | None:
    """Show the problem of a benchmark with the most distinct correct solutions, over the runs’ last validations."""
    distinct: Counter[str] = Counter()
    for run in runs:
        for key, problem in run.last_problems(benchmark).items():
            distinct[key] += problem.solutions.distinct
    chosen, most = distinct.most_common(1)[0]
    if most == 0:
        return None
    solutions: dict[str, Counter[str]] = {}
    samples: Counter[str] = Counter()
    prompt = ""
    for run in runs:
        step = run.last_step(benchmark)
        if step is None:
            continue
        counts = solutions.setdefault(run.algorithm, Counter())
        shown = run.problems(benchmark, step).get(chosen)
        if shown is not None:
            entries = list(read_entries(run.validations[step].path, shown.right))
            counts.update(map(answer_label, entries))
            samples[run.algorithm] += shown.total
            prompt = entries[0]["input"] if entries else prompt
    return {
        "benchmark": benchmark,
        "prompt": _cut(prompt, _MAX_PROMPT),
        "algorithms": [
            {
                "name": algorithm,
                "distinct": len(counts),
                "correct": counts.total(),
                "samples": samples[algorithm],
                "solutions": [(_cut(text, _MAX_SOLUTION), n) for text, n in counts.most_common(_MAX_SOLUTIONS)],
            }
            for algorithm, counts in solutions.items()
        ],
    }


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} more characters)"


def _run_summary(run: Run, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "label": run.label,
        "algorithm": run.algorithm,
        "seed": run.description.seed,
        "path": str(run.description.path),
        "verl": run.description.verl_version,
        "validations": [
            {
                "step": row.step,
                "benchmark": row.benchmark,
                "problems": row.counted[2],
                "problems_in_entropy": row.counted[0],
                "problems_in_collision": row.counted[1],
                "samples": sum(problem.total for problem in run.problems(row.benchmark, row.step).values()),
                **tables.finite(row.numbers),
            }
            for row in rows
            if row.run is run
        ],
        "metrics": run.curves,
    }
