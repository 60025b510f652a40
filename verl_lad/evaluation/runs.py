"""Find and read the run directories of trainings with verl 0.9.

A run is a directory with any of: `run.json`, which says what it is (the recipes write it), `metrics*.jsonl`, of verl's
file logger, and `validation/<step>.jsonl`, verl's validation dumps. A file of verl's file logger is a run too.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_lad.evaluation.records import Complain, number_under, parse_object, read_file, read_lines, refuse, text_under
from verl_lad.evaluation.validation import Key, Problem, Rules, Validation, read_validation

MAX_STEP = 2**53
"""Bound on a training step, so that it is exact as a float."""

Curves = dict[str, dict[int, float]]
"""Value by step, by verl's name of the metric, e.g. "actor/grad_norm"."""


@dataclass(frozen=True)
class Run:
    """A run, read.

    Attributes:
        path: its directory.
        algorithm: label of its algorithm; runs of one algorithm are seeds of it.
        seed: its seed, if known.
        curves: its training metrics; empty if it has none.
        validations: its validations by step, in the order of the steps; empty if it has none.
        remarks: what is uncertain about the validations, as sentences.
    """

    path: Path
    algorithm: str
    seed: int | None = None
    curves: Curves = field(default_factory=dict)
    validations: dict[int, Validation] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def benchmarks(self) -> list[str]:
        """Every benchmark that it was validated on, in the order in which they occur."""
        return list(dict.fromkeys(b for validation in self.validations.values() for b in validation.benchmarks))

    def problems(self, benchmark: str, step: int) -> dict[Key, Problem]:
        """Return the problems of a benchmark at a step; empty if it was not validated then."""
        return {} if step not in self.validations else self.validations[step].benchmarks.get(benchmark, {})


def load_runs(
    paths: Sequence[Path],
    rules: Rules | None = None,
    *,
    complain: Complain = refuse,
    on_dump: Callable[[Path], None] | None = None,
) -> list[Run]:
    """Read runs.

    Args:
        paths: directories of runs, or of several runs each, or files of verl's file logger.
        rules: how to read the dumps, see `verl_lad.evaluation.validation`.
        complain: called with what cannot be read, see `verl_lad.evaluation.records`; everything else is kept.
        on_dump: called with each validation dump before it is read.

    Returns:
        The runs in the order given, without those of which nothing is left. A directory given twice is read once.

    Raises:
        ValueError: by default, at the first thing that cannot be read.
    """
    rules = rules or Rules()
    directories = {run.resolve(): run for path in paths for run in find_runs(path, complain)}
    runs = []
    for path in directories.values():
        algorithm, seed = describe_run(path, complain)
        curves = read_curves(path, complain)
        dumps, validations = validation_dumps(path, complain), {}
        for step, dump in dumps.items():
            if on_dump is not None:
                on_dump(dump)
            validation = read_validation(dump, rules, complain)
            if validation.benchmarks:
                validations[step] = validation
        if curves or validations:
            runs.append(Run(path, algorithm, seed, curves, validations, _remarks(list(validations.values()), rules)))
        elif not dumps:
            complain(
                f"{path}: no training metrics and no validation dump yet (validation/<step>.jsonl); set "
                f"trainer.validation_data_dir to {path / 'validation'} and wait for the first validation"
            )
    return runs


def find_runs(path: Path, complain: Complain = refuse) -> list[Path]:
    """Find the run that a path is, or the runs right below it, in the order of their names."""
    if not path.exists():
        complain(f"{path}: no such run directory")
        return []
    if path.is_file() or _is_run(path):
        return [path]
    runs = [below for below in sorted(path.glob("*")) if below.is_dir() and _is_run(below)]
    if not runs:
        complain(
            f"{path}: not a run, and no run right below it; expected run.json, metrics*.jsonl or "
            "validation/<step>.jsonl; metrics under another name: give the file itself"
        )
    return runs


def _is_run(directory: Path) -> bool:
    files = [*directory.glob("metrics*.jsonl"), *directory.glob("validation/*.jsonl")]
    return bool(files) or os.path.lexists(directory / "run.json")


def describe_run(path: Path, complain: Complain = refuse) -> tuple[str, int | None]:
    """Return a run's algorithm, the key "algo" of `run.json` or else its own name, and its seed, the key "seed"."""
    name = path.resolve().stem if path.is_file() else path.resolve().name
    statement = path / "run.json"
    lines = read_file(statement, complain) if os.path.lexists(statement) else None
    if lines is None:
        return name, None
    try:
        stated = parse_object(b"".join(lines))
        algorithm, seed = text_under(stated, "algo"), stated.get("seed")
        if not isinstance(seed, int | None):
            raise ValueError(f'the key "seed" must be an integer, got {seed!r:.200}')
    except (ValueError, RecursionError) as error:
        complain(f"{statement}: {error}")
        return name, None
    return algorithm, seed


def read_metrics(path: Path, complain: Complain = refuse) -> list[tuple[int, dict[str, Any]]]:
    """Read what verl's file logger wrote: steps with their metrics by verl's names, e.g. "actor/grad_norm".

    A resumed run that kept all its metrics has several `metrics*.jsonl`, as verl truncates its file whenever it starts.
    They are read in the order of their first step, and then of their age. Of a step that occurs more than once the
    later occurrence holds.

    Args:
        path: directory of the run, or the file itself.
        complain: called with the file, line and fault of what cannot be read, see `verl_lad.evaluation.records`.

    Returns:
        Step and metrics of each line that can be read; empty without a file.

    Raises:
        ValueError: by default, if a line is not {"step": int, "data": {...}}; names file and line.
    """
    files = [path] if path.is_file() else sorted(path.glob("metrics*.jsonl"), key=lambda file: file.lstat().st_mtime_ns)
    logs = [read_lines(file, _parse, complain) for file in files]
    return [entry for log in sorted(logs, key=lambda log: log[0][0] if log else 0) for entry in log]


def read_curves(path: Path, complain: Complain = refuse) -> Curves:
    """Read the metrics of a run as curves, without what is not a finite number: verl logs NaN as null."""
    curves: Curves = {}
    for step, data in read_metrics(path, complain):
        for name, value in data.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def _parse(entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    step, data = entry.get("step"), entry.get("data")
    if not isinstance(step, int) or not 0 <= step < MAX_STEP or not isinstance(data, dict):
        raise ValueError(f'expected {{"step": int, "data": {{...}}}}, got {entry!r:.200}')
    for name, value in data.items():
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            number_under(data, name)
    return step, data


def validation_dumps(run_dir: Path, complain: Complain = refuse) -> dict[int, Path]:
    """Find the validation dumps of a run by step, in the order of the steps; complain if step 0 is missing."""
    paths: dict[int, Path] = {}
    for path in sorted((run_dir / "validation").glob("*.jsonl")):
        if not path.stem.isdecimal():
            continue
        step = int(path.stem)
        if step in paths or step >= MAX_STEP:
            reason = f"the step of {paths[step].name} too" if step in paths else "no step of a training"
            complain(f"{path}: left out: {step} is {reason}")
        else:
            paths[step] = path
    if paths and 0 not in paths:
        complain(
            f"{run_dir}: validation dumps of steps {sorted(paths)} but none of step 0, the base that they are compared "
            "with; set trainer.val_before_train=True"
        )
    return dict(sorted(paths.items()))


def _remarks(validations: Sequence[Validation], rules: Rules) -> list[str]:
    """Say each kind of uncertainty once, of the first dump that has it."""
    remarks = []
    for kind in dict.fromkeys(kind for validation in validations for kind in validation.remarks):
        first, *others = [validation for validation in validations if kind in validation.remarks]
        more = f" (and {len(others)} later ones)" if others else ""
        remarks.append(f"{first.path}{more}: {first.remarks[kind]}")
    key = f'"{rules.correct_key}"' if rules.correct_key else '"acc" (or "score")'
    for benchmark in dict.fromkeys(b for validation in validations for b in validation.values):
        values = sorted({value for v in validations for value in v.values.get(benchmark, ())})
        two_sided = len(values) == 2 and values[0] < 1.0 <= values[1]
        one_sided = len(values) == 1 and not 0.0 < values[0] < 1.0
        if rules.threshold is None and not two_sided and not one_sided:
            several = f"from {values[0]:g} to {values[-1]:g}" if len(values) > 1 else f"{values[0]:g} alone"
            remarks.append(
                f"{validations[0].path.parent}: {key} on {benchmark} is {several}, and a sample counts as "
                "correct from 1 on; --threshold says from where on it is, --correct-key names another key"
            )
    return remarks
