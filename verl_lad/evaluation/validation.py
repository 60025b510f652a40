"""Read verl's validation dumps, `validation/<step>.jsonl`, one sample a line.

A problem is one row of the validation data. verl gives each row a "uid", a UUID that it draws anew for each validation,
and dumps it as `<uid>_<session>_<output>` (verl 0.9.1, `trainer/ppo/v1`). A session is one sample. Its outputs are the
turns of an agent loop that wrote several, and the last one counts. So

- samples of one UUID are one problem, whatever their inputs;
- a "uid" of another form names its problem, unless it differs on each line and so names the sample;
- otherwise samples of one input and one truth ("gts") are one problem.

Across validations and runs, a problem is known by its input and truth, and by its uid only where those do not tell it
from another. Where any of this is a guess, `Validation.remarks` says so.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from verl_lad.evaluation.diversity import collision_probability, dist_n, tokenize
from verl_lad.evaluation.records import Complain, number_under, read_lines, refuse, text_under

DEFAULT_BENCHMARK = "validation"
"""Benchmark of the samples that name none."""

DIST_ORDERS = (1, 2, 3, 4)

Key = tuple[str | None, ...]
"""Tells a problem from the others of its benchmark, and is the same in all validations."""

_VERL_UID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_([0-9]{1,9})_([0-9]{1,9})")


@dataclass(frozen=True)
class Rules:
    """How to read a dump.

    Attributes:
        correct_key: key that says whether a sample is correct; None for "acc" where it is present and not null, else
            "score".
        threshold: value of that key from which on a sample is correct; None for 1, with a remark where the values do
            not make it obvious.
        merge_copies: whether problems with one input and one truth are one problem although their uids differ, as in a
            data file that repeats its rows.
    """

    correct_key: str | None = None
    threshold: float | None = None
    merge_copies: bool = False

    def value(self, entry: dict[str, Any]) -> float:
        """Return the number that says whether a sample is correct; a ValueError names a key without a finite one."""
        return number_under(entry, self.correct_key or ("acc" if entry.get("acc") is not None else "score"))


@dataclass(frozen=True)
class Problem:
    """What one validation says about one problem.

    Attributes:
        correct: number of correct samples.
        total: number of samples.
        distinct: number of distinct solutions among the correct samples.
        collision: probability that two correct samples agree, see `collision_probability`.
        dist: dist-n of all responses, for n in `DIST_ORDERS`.
        length: mean number of tokens of a response.
    """

    correct: int
    total: int
    distinct: int
    collision: float | None
    dist: tuple[float | None, ...]
    length: float


@dataclass(frozen=True)
class Validation:
    """One validation of a run.

    Attributes:
        path: the dump.
        benchmarks: its problems, by benchmark, in the order of the file.
        values: the numbers that say whether a sample is correct, by benchmark.
        remarks: what is uncertain about the problems, by kind.
    """

    path: Path
    benchmarks: dict[str, dict[Key, Problem]] = field(default_factory=dict)
    values: dict[str, set[float]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


class _Sample(NamedTuple):
    """A line of a dump. What verl did not number is a session of its own with one output."""

    benchmark: str
    uid: str | None
    prompt: str
    truth: str
    response: str
    solution: str
    value: float
    session: int = 0
    output: int = 0


def read_validation(path: Path, rules: Rules | None = None, complain: Complain = refuse) -> Validation:
    """Read a validation dump.

    A line is one sample. Its prompt is the text under "input", its benchmark the string under "benchmark" if there is
    one. Its solution is the value under "solution" if the reward function returned one (not null), otherwise "output"
    with surrounding whitespace stripped. The module says which samples are one problem.

    Args:
        path: the dump, one JSON object a line.
        rules: see `Rules`; by default its defaults.
        complain: called with the file, line and fault of what cannot be read, see `verl_lad.evaluation.records`.

    Returns:
        The validation.

    Raises:
        ValueError: by default, if the file is empty, or a line is malformed, lacks a key or has no finite number as its
            correctness; names file and line.
    """
    rules = rules or Rules()
    threshold = 1.0 if rules.threshold is None else rules.threshold
    samples = read_lines(path, lambda entry: _parse(entry, rules), complain)
    if not samples and path.is_file():
        empty = "the validation dump is empty" if path.stat().st_size == 0 else "no line of it is a validation sample"
        complain(f"{path}: {empty}")
    validation = Validation(path)
    for benchmark, key, group in _problems(samples, rules.merge_copies, validation.remarks):
        solutions = [sample.solution for sample in group if sample.value >= threshold]
        responses = [tokenize(sample.response) for sample in group]
        validation.values.setdefault(benchmark, set()).update(sample.value for sample in group)
        validation.benchmarks.setdefault(benchmark, {})[key] = Problem(
            correct=len(solutions),
            total=len(group),
            distinct=len(set(solutions)),
            collision=collision_probability(solutions),
            dist=tuple(dist_n(responses, n) for n in DIST_ORDERS),
            length=sum(map(len, responses)) / len(responses),
        )
    return validation


def _parse(entry: dict[str, Any], rules: Rules) -> _Sample:
    response, uid, solution = text_under(entry, "output"), entry.get("uid"), entry.get("solution")
    if uid is not None and not isinstance(uid, str | int):
        raise ValueError(f'the key "uid" must be a string or an integer, got {uid!r:.200}')
    if solution is None:
        solution = response.strip()
    return _Sample(
        benchmark=DEFAULT_BENCHMARK if entry.get("benchmark") is None else text_under(entry, "benchmark"),
        uid=None if uid is None else str(uid),
        prompt=text_under(entry, "input"),
        truth=json.dumps(entry.get("gts"), sort_keys=True),
        response=response,
        solution=solution if isinstance(solution, str) else json.dumps(solution, sort_keys=True),
        value=rules.value(entry),
    )


def _problems(
    samples: Sequence[_Sample], merge_copies: bool, remarks: dict[str, str]
) -> Iterator[tuple[str, Key, list[_Sample]]]:
    """Yield benchmark, key and samples of each problem, and fill the remarks."""
    groups: dict[Key, list[_Sample]] = {}
    for sample in _numbered(samples, remarks):
        prompt = sample.prompt if sample.uid is None else None
        groups.setdefault((sample.benchmark, sample.uid, sample.truth, prompt), []).append(sample)

    alike: dict[Key, list[list[_Sample]]] = {}
    for group in groups.values():
        prompts = {sample.prompt for sample in group if sample.output == 0}  # later ones hold what the model said
        prompt = prompts.pop() if len(prompts) == 1 else None
        last = {sample.session: sample for sample in sorted(group, key=lambda sample: sample.output)}
        alike.setdefault((group[0].benchmark, prompt, group[0].truth), []).append(list(last.values()))

    copies = 0
    for (benchmark, prompt, truth), same in alike.items():
        if len(same) == 1 or (merge_copies and prompt is not None):
            yield str(benchmark), (prompt, truth), [sample for group in same for sample in group]
        else:
            copies += len(same)
            yield from ((str(benchmark), (prompt, truth, group[0].uid), group) for group in same)
    if copies:
        remarks["copies"] = (
            f"{copies} problems share input and truth with another one of another uid; each counts by itself, as in "
            "verl, and is known in other validations by its uid alone; if they are copies of one row: --merge-copies"
        )


def _numbered(samples: Sequence[_Sample], remarks: dict[str, str]) -> Iterator[_Sample]:
    """Yield the samples with what their uids say: that of the problem, the session and the output."""
    uids = {sample.uid for sample in samples}
    names_samples = len(uids) == len(samples) > 1
    for number, sample in enumerate(samples):
        verl = _VERL_UID.fullmatch(sample.uid or "")
        if verl is not None:
            yield sample._replace(uid=verl[1], session=int(verl[2]), output=int(verl[3]))
            continue
        if names_samples and sample.uid is not None:
            form = f'"uid" is like "{sample.uid}", which is not the <uid>_<session>_<output> that verl writes'
            remarks.setdefault("form", f"{form}, and differs on each line; input and truth say the problem")
        yield sample._replace(uid=None if names_samples else sample.uid, session=number)
