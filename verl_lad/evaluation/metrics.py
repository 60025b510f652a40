"""Read the training metrics of a run: what verl's file logger wrote or, failing that, its tensorboard logger."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from verl_lad.evaluation.records import MAX_STEP, complain, number_under, open_file, parse_object, read_lines

Curves = dict[str, dict[int, float]]
"""Value by step, by verl's name of the metric, e.g. "actor/grad_norm"."""

_PROBED_LINES = 5
"""Lines of a file of any name that may be damaged before it is not taken for a log."""


def is_log(path: Path) -> bool:
    """Return whether one of the first lines of a file is of verl's file logger."""
    file = open_file(path, [])
    if file is None:
        return False
    with file:
        for line in islice(file, _PROBED_LINES):
            try:
                _parse(parse_object(line))
            except ValueError:
                continue
            return True
    return False


def log_files(directory: Path, pattern: str = "*.jsonl") -> list[Path]:
    """Find the files of verl's file logger, whatever their names, in the order of their names."""
    return [path for path in sorted(directory.glob(pattern)) if not path.stem.isdecimal() and is_log(path)]


def metrics_files(run_dir: Path, complaints: list[str] | None = None) -> list[Path]:
    """Find the files of verl's file logger in a run, in the order of their first step, and then of their age.

    They are `metrics*.jsonl`, as VERL_FILE_LOGGER_PATH says in the recipes. A resumed run that kept all its metrics has
    several, as verl truncates its file whenever it starts. Without them, it is the one file of verl's default name,
    `<experiment>.jsonl` or `<project>/<experiment>.jsonl`. Several of those are refused.
    """

    def order(path: Path) -> tuple[float, int]:
        first = next((step for _, (step, _) in read_lines(path, _parse, [])), math.inf)
        return first, path.stat().st_mtime_ns if path.exists() else 0

    if run_dir.is_file():
        return [run_dir]
    named = sorted(run_dir.glob("metrics*.jsonl"))
    if named:
        return sorted(named, key=order)
    logs = log_files(run_dir) or log_files(run_dir, "*/*.jsonl")
    if len(logs) > 1:
        names = ", ".join(str(path.relative_to(run_dir)) for path in logs)
        complain(
            f"{run_dir}: several files of verl's file logger: {names}; name the run's own metrics.jsonl", complaints
        )
        return []
    return logs


def event_files(run_dir: Path) -> list[Path]:
    """Find tensorboard's event files below a directory, in the order of their names, which begin with their time."""
    return sorted(run_dir.rglob("events.out.tfevents.*"), key=lambda path: path.name)


def read_metrics(run_dir: Path, complaints: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read what verl's file logger wrote, one step at a time.

    Args:
        run_dir: directory of the run, see `metrics_files`.
        complaints: collects what cannot be read, see `verl_lad.evaluation.records`.

    Yields:
        The step and its metrics by verl's names, e.g. "actor/grad_norm". A step can occur more than once; the later
        occurrence holds.

    Raises:
        FileNotFoundError: if the directory or the file is missing.
        ValueError: without `complaints`, if a line is not {"step": int, "data": {...}}; names file and line.
    """
    if not run_dir.exists():
        raise FileNotFoundError(f"{run_dir}: no such run directory")
    paths = metrics_files(run_dir, complaints)
    if not paths:
        raise FileNotFoundError(
            f"{run_dir / 'metrics.jsonl'}: no such file; add 'file' to trainer.logger and set VERL_FILE_LOGGER_PATH to "
            "this path"
        )
    for path in paths:
        for _, step_and_data in read_lines(path, _parse, complaints):
            yield step_and_data


def read_curves(run_dir: Path, complaints: list[str] | None = None) -> Curves:
    """Read the metrics of a run as curves, without what is not a finite number; empty if it has no file of them."""
    curves: Curves = {}
    if metrics_files(run_dir, complaints):
        for step, data in read_metrics(run_dir, complaints):
            for name, value in data.items():  # verl's file logger writes NaN as null
                if isinstance(value, int | float) and math.isfinite(value):
                    curves.setdefault(name, {})[step] = float(value)
    else:
        for path in event_files(run_dir):
            for step, name, value in _read_events(path, complaints):
                if math.isfinite(value):
                    curves.setdefault(name, {})[step] = value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def _parse(entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    step, data = entry.get("step"), entry.get("data")
    if not isinstance(step, int) or not 0 <= step < MAX_STEP or not isinstance(data, dict):
        raise ValueError(f'expected {{"step": int, "data": {{...}}}}, got {entry!r:.200}')
    for name, value in data.items():
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            number_under(data, name)
    return step, data


def _read_events(path: Path, complaints: list[str] | None) -> Iterator[tuple[int, str, float]]:
    """Yield step, name and value. Tensorboard's EventAccumulator would end at a broken record in silence."""
    file = open_file(path, complaints)
    if file is None:
        return
    file.close()
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
    except ImportError:
        complain(f"{path}: reading it needs tensorboard: pip install 'verl-lad[report]'", complaints)
        return
    reader, record = PyRecordReader_New(str(path)), 0
    while True:
        record += 1
        try:
            reader.GetNext()
        except OutOfRangeError:
            return
        except DataLossError as error:
            complain(f"{path}, record {record}: {error}; what follows is lost", complaints)
            return
        event = Event.FromString(reader.record())
        for value in event.summary.value:
            if value.HasField("simple_value"):  # what SummaryWriter.add_scalar writes
                yield event.step, value.tag, value.simple_value
