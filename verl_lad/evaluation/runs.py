"""Find and read the run directories of trainings with verl 0.9.

A run is a directory with any of: `run.json`, which says what it is (the recipes write it), files of verl's file logger
or of tensorboard, `validation/<step>.jsonl` (verl's validation dumps), and Hydra's `.hydra/config.yaml`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_lad.evaluation.metrics import Curves, event_files, is_log, log_files, metrics_files, read_curves
from verl_lad.evaluation.records import complain, open_file, parse_object, text_under
from verl_lad.evaluation.validation import Problem, Rules, Validation, extremes, read_validation, validation_dumps

_CONFIGS = (".hydra/config.yaml", "hydra/.hydra/config.yaml", "config.yaml")
_MARKS = ("run.json", "metrics*.jsonl", "validation/*.jsonl", "events.out.tfevents.*", *_CONFIGS)


@dataclass(frozen=True)
class Description:
    """What a run is.

    Attributes:
        path: its directory.
        algorithm: label of its algorithm; runs of one algorithm are seeds of it.
        seed: its seed, if known.
        name: its own name, if it has one.
        verl_version: verl's version, if known.
        source: where the algorithm's label comes from: a file, or "the directory's name".
    """

    path: Path
    algorithm: str
    seed: int | None
    name: str | None
    verl_version: str | None
    source: str


@dataclass(frozen=True)
class Run:
    """A run, read.

    Attributes:
        description: what it is.
        label: tells it from the other runs that were read with it.
        curves: its training metrics; empty if it has none.
        metrics: the files that they come from.
        validations: its validations by step, in the order of the steps; empty if it has none.
        remarks: what is uncertain about the validations, as sentences.
    """

    description: Description
    label: str
    curves: Curves
    metrics: list[Path]
    validations: dict[int, Validation]
    remarks: list[str] = field(default_factory=list)

    @property
    def algorithm(self) -> str:
        """Label of its algorithm."""
        return self.description.algorithm

    @property
    def missing(self) -> list[str]:
        """What the run could have and has not."""
        kinds: dict[str, Mapping] = {"training metrics": self.curves, "validation dumps": self.validations}
        return [kind for kind, data in kinds.items() if not data]

    @property
    def benchmarks(self) -> list[str]:
        """Every benchmark that it was validated on, in the order in which they occur."""
        return list(dict.fromkeys(b for validation in self.validations.values() for b in validation.benchmarks))

    def problems(self, benchmark: str, step: int | None) -> dict[str, Problem]:
        """Return the problems of a benchmark at a step; empty if it was not validated then."""
        return {} if step not in self.validations else self.validations[step].benchmarks.get(benchmark, {})

    def last_step(self, benchmark: str) -> int | None:
        """Return the step of its last validation on a benchmark; None if it has none."""
        return max((step for step in self.validations if self.problems(benchmark, step)), default=None)

    def last_problems(self, benchmark: str) -> dict[str, Problem]:
        """Return the problems of a benchmark at its last validation; empty if it has none."""
        return self.problems(benchmark, self.last_step(benchmark))


def find_runs(path: Path, complaints: list[str] | None = None) -> list[Path]:
    """Find the run that a path is, or the runs right below it, in the order of their names.

    A file of verl's file logger is a run, so verl's directory of a project has one for each experiment.
    """
    if not path.is_dir() and not path.is_file():
        if complaints is None:
            raise FileNotFoundError(f"{path}: no such run directory")
        complaints.append(f"{path}: no such run directory")
        return []
    runs = _runs_at(path) or [run for below in sorted(path.glob("*")) if below.is_dir() for run in _runs_at(below)]
    if not runs and event_files(path):  # tensorboard's alone, in directories of their own
        runs = [path]
    if not runs:
        complain(
            f"{path}: not a run, and no run right below it; expected run.json, metrics*.jsonl, <experiment>.jsonl, "
            "validation/<step>.jsonl or events.out.tfevents.*",
            complaints,
        )
    return runs


def _runs_at(path: Path) -> list[Path]:
    """Return the path if it is a run, or else the logs of runs that are files right in it."""
    if any(next(path.glob(mark), None) is not None for mark in _MARKS) or (path.is_file() and is_log(path)):
        return [path]
    logs = log_files(path)
    return [path] if len(logs) == 1 else logs


def describe_run(run_dir: Path, complaints: list[str] | None = None) -> Description:
    """Read what a run is.

    The algorithm is the key "algo" of `run.json`. Without that file, it is read from Hydra's configuration, as the name
    of the policy loss (actor_rollout_ref.actor.policy_loss.loss_mode) unless that is "vanilla", and then of the
    advantage estimator (algorithm.adv_estimator). Without that, it is the directory's name. The optional keys "seed",
    "name" and "verl" of `run.json` are its seed (otherwise data.seed of the configuration), name, and verl's version.
    """
    stated = _read_statement(run_dir / "run.json", complaints)
    algorithm, seed, source = stated.get("algo"), stated.get("seed"), str(run_dir / "run.json")
    config = next((run_dir / name for name in _CONFIGS if (run_dir / name).is_file()), None)
    if config is not None and (algorithm is None or seed is None):
        configured_algorithm, configured_seed = _read_config(config, complaints)
        if algorithm is None and configured_algorithm is not None:
            algorithm, source = configured_algorithm, str(config)
        seed = configured_seed if seed is None else seed
    if algorithm is None:
        place = run_dir.resolve()
        algorithm, source = (place.name, "the directory's name") if place.is_dir() else (place.stem, "the file's name")
    return Description(run_dir, algorithm, seed, stated.get("name"), stated.get("verl"), source)


def load_runs(
    paths: Sequence[Path],
    rules: Rules | None = None,
    *,
    complaints: list[str] | None = None,
    on_dump: Callable[[Path, int, int], None] | None = None,
) -> list[Run]:
    """Read runs.

    Args:
        paths: directories, see `find_runs`.
        rules: how to read the dumps, see `verl_lad.evaluation.validation`.
        complaints: collects what cannot be read, see `verl_lad.evaluation.records`; everything else is kept.
        on_dump: called with each validation dump once it is read, how many are, and how many there are.

    Returns:
        The runs in the order given, without those of which nothing is left. A directory given twice is read once.

    Raises:
        FileNotFoundError: without `complaints`, if there is no such directory.
        ValueError: without `complaints`, at the first thing that cannot be read.
        ImportError: if a configuration is to be read and PyYAML is not installed.
    """
    rules = rules or Rules()
    directories = {d.resolve(): d for path in paths for d in find_runs(path, complaints)}
    descriptions = [describe_run(directory, complaints) for directory in directories.values()]
    all_curves = [read_curves(description.path, complaints) for description in descriptions]
    # A run with metrics needs no dump: `Run.missing` says what it lacks.
    all_dumps = [
        validation_dumps(d.path, complaints)
        if (d.path / "validation").is_dir() or not (curves or d.path.is_file())
        else {}
        for d, curves in zip(descriptions, all_curves, strict=True)
    ]
    total, done = sum(map(len, all_dumps)), 0
    runs = []
    for description, label, curves, dumps in zip(
        descriptions, _labels(descriptions), all_curves, all_dumps, strict=True
    ):
        validations = {}
        for step, dump in dumps.items():
            validation = read_validation(dump, rules, with_texts=True, complaints=complaints)
            if validation.benchmarks:
                validations[step] = validation
            done += 1
            if on_dump is not None:
                on_dump(dump, done, total)
        if curves or validations:
            metrics = metrics_files(description.path, []) or event_files(description.path)
            remarks = _remarks(list(validations.values()), rules)
            runs.append(Run(description, label, curves, metrics, validations, remarks))
    return runs


def _remarks(validations: Sequence[Validation], rules: Rules) -> list[str]:
    """Say each kind of uncertainty once, of the first dump that has it."""
    remarks = []
    for kind in dict.fromkeys(kind for validation in validations for kind in validation.remarks):
        first, *others = [validation for validation in validations if kind in validation.remarks]
        more = f" (and {len(others)} later ones)" if others else ""
        remarks.append(f"{first.path}{more}: {first.remarks[kind]}")
    key = f'"{rules.correct_key}"' if rules.correct_key else '"acc" (or "score")'
    for benchmark in dict.fromkeys(b for validation in validations for b in validation.values):
        values = extremes({value for v in validations for value in v.values.get(benchmark, ())})
        two_sided = len(values) == 2 and values[0] < 1.0 <= values[1]
        one_sided = len(values) == 1 and not 0.0 < values[0] < 1.0
        if rules.threshold is None and not two_sided and not one_sided:
            several = f"from {values[0]:g} to {values[-1]:g}" if len(values) > 1 else f"{values[0]:g} alone"
            remarks.append(
                f"{validations[0].path.parent}: {key} on {benchmark} is {several}, and a sample counts as "
                "correct from 1 on; --threshold says from where on it is, --correct-key names another key"
            )
    return remarks


def _read_statement(path: Path, complaints: list[str] | None) -> dict[str, Any]:
    """Read `run.json`; empty if there is none, or if it is wrong."""
    file = open_file(path, complaints) if path.exists() or path.is_symlink() else None
    if file is None:
        return {}
    with file:
        try:
            stated = parse_object(file.read())
            text_under(stated, "algo")
            for key in ("name", "verl"):
                if stated.get(key) is not None:
                    text_under(stated, key)
            if not isinstance(stated.get("seed"), int | None):
                raise ValueError(f'the key "seed" must be an integer, got {stated["seed"]!r:.200}')
        except ValueError as error:
            complain(f"{path}: {error}", complaints)
            return {}
    return stated


def _read_config(path: Path, complaints: list[str] | None) -> tuple[str | None, int | None]:
    """Read algorithm and seed of Hydra's configuration; references to other keys (${...}) count as unstated."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{path}: reading it needs PyYAML: pip install 'verl-lad[report]'") from error
    file = open_file(path, complaints)
    if file is None:
        return None, None
    with file:
        try:
            config = yaml.load(file.read(), yaml.BaseLoader)  # every scalar stays the text that it is
        except (yaml.YAMLError, RecursionError) as error:
            complain(f"{path}: malformed YAML: {' '.join(str(error).split())}", complaints)
            return None, None

    def stated(*keys: str) -> str | None:
        value = config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) and value not in ("", "null") and not value.startswith("${") else None

    losses = stated("actor_rollout_ref", "actor", "policy_loss", "loss_mode"), stated("algorithm", "policy_loss")
    names = [name for name in (*losses, stated("algorithm", "adv_estimator")) if name not in (None, "vanilla")]
    seed = stated("data", "seed") or ""
    return (names[0] if names else None), (int(seed) if re.fullmatch(r"-?[0-9]{1,18}", seed) else None)


def _labels(descriptions: Sequence[Description]) -> list[str]:
    """Return the shortest of name or algorithm, with its seed, with its directory that is unique."""
    forms = [
        [d.name or d.algorithm, f"{d.algorithm}, seed {d.seed}", f"{d.algorithm} ({d.path})"] for d in descriptions
    ]
    counts = [Counter(form) for form in zip(*forms, strict=True)]
    return [
        next(label for label, count in zip(own, counts, strict=True) if count[label] == 1 or label is own[-1])
        for own in forms
    ]
