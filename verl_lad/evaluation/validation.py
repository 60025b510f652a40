"""Read verl's validation dumps, `validation/<step>.jsonl`, one sample a line.

A problem is one row of the validation data. verl gives each row a "uid", a UUID that it draws anew for each validation,
and dumps it as `<uid>_<session>_<output>` (verl 0.9.1, `trainer/ppo/v1`). A session is one sample. Its outputs are the
turns of an agent loop that wrote several, and the last one counts. So

- samples of one uid are one problem, whatever their inputs;
- a "uid" of another form is taken as a whole;
- without a uid, as other trainers write, samples of one input and one truth ("gts") are one problem.

Across validations and runs, a problem is known by its input and truth, and by its uid only where those do not tell it
from another. Where any of this is a guess, `Validation.remarks` says so.

Dumps stream: the place of each sample in the file is kept, and digests of its texts.
"""

import hashlib
import json
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from verl_lad.evaluation.diversity import EffectiveSolutions, effective_solutions
from verl_lad.evaluation.records import MAX_STEP, complain, number_under, parse_object, read_lines, text_under
from verl_lad.evaluation.text_diversity import TextDiversity, text_diversity

DEFAULT_BENCHMARK = "validation"
"""Benchmark of the samples that name none."""

_UID = re.compile(r"(.+)_([0-9]{1,9})_([0-9]{1,9})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number, got {self.threshold}")

    @property
    def least(self) -> float:
        """The smallest value of a correct sample."""
        return 1.0 if self.threshold is None else self.threshold

    def value(self, entry: dict[str, Any]) -> float:
        """Return the number that says whether a sample is correct; a ValueError names a key without a finite one."""
        return number_under(entry, self.correct_key or ("acc" if entry.get("acc") is not None else "score"))


@dataclass(frozen=True)
class Problem:
    """What one validation says about one problem.

    Attributes:
        right: where the lines of the correct samples begin in the dump, in bytes.
        wrong: the same for the other samples.
        solutions: effective number of distinct answers among the correct samples.
        text: diversity of the responses' texts; None if it was not measured.
    """

    right: "array[int]"
    wrong: "array[int]"
    solutions: EffectiveSolutions
    text: TextDiversity | None = None

    @property
    def correct(self) -> int:
        """Number of correct samples."""
        return len(self.right)

    @property
    def total(self) -> int:
        """Number of samples."""
        return len(self.right) + len(self.wrong)


@dataclass(frozen=True)
class Validation:
    """One validation of a run.

    Attributes:
        path: the dump.
        benchmarks: its problems, by benchmark and by a key that is the same for a problem in all validations.
        values: the smallest two and the largest of the numbers that say whether a sample is correct, by benchmark.
        remarks: what is uncertain about the problems, by kind.
    """

    path: Path
    benchmarks: dict[str, dict[str, Problem]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


class _Sample(NamedTuple):
    offset: int
    uid: str | None
    benchmark: str
    prompt: bytes
    truth: bytes
    answer: bytes
    value: float


def validation_dumps(run_dir: Path, complaints: list[str] | None = None) -> dict[int, Path]:
    """Find the validation dumps of a run by step, in the order of the steps; complain if there is none of step 0."""
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such run directory")
    paths: dict[int, Path] = {}
    for path in sorted((run_dir / "validation").glob("*.jsonl")):
        if not path.stem.isdecimal():
            continue
        step = int(path.stem)
        if step in paths or step >= MAX_STEP:
            reason = f"the step of {paths[step].name} too" if step in paths else "no step of a training"
            complain(f"{path}: left out: {step} is {reason}", complaints)
        else:
            paths[step] = path
    if not paths:
        complain(
            f"{run_dir}: no validation dump yet (validation/<step>.jsonl); set trainer.validation_data_dir to "
            f"{run_dir / 'validation'} and wait for the first validation",
            complaints,
        )
    elif 0 not in paths:
        complain(
            f"{run_dir}: validation dumps of steps {sorted(paths)} but none of step 0, the base that they are compared "
            "with; set trainer.val_before_train=True",
            complaints,
        )
    return dict(sorted(paths.items()))


def read_validation(
    path: Path, rules: Rules | None = None, *, with_texts: bool = False, complaints: list[str] | None = None
) -> Validation:
    """Read a validation dump: the samples of each problem, and the distinct answers among the correct ones.

    A line is one sample. Its prompt is the text under "input", its benchmark the string under "benchmark" if there is
    one. Its answer is the value under "solution" if the reward function returned one (not null), otherwise "output"
    with surrounding whitespace stripped. The module says which samples are one problem.

    Args:
        path: the dump, one JSON object a line.
        rules: see `Rules`; by default its defaults.
        with_texts: whether to read the texts again and measure them, the slow part.
        complaints: collects what cannot be read, see `verl_lad.evaluation.records`.

    Returns:
        The validation, with problems in the order of the file.

    Raises:
        ValueError: without `complaints`, if the file is empty, or a line is malformed, lacks a key or has no finite
            number as its correctness; names file and line.
    """
    rules = rules or Rules()
    known: dict[bytes, bytes] = {}

    def digest(text: str) -> bytes:
        made = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return known.setdefault(made, made)

    def parse(entry: dict[str, Any]) -> tuple[str | None, str, bytes, bytes, bytes, float]:
        text_under(entry, "output")
        benchmark = DEFAULT_BENCHMARK if entry.get("benchmark") is None else text_under(entry, "benchmark")
        truth = digest(json.dumps(entry.get("gts"), sort_keys=True))
        answer = digest(answer_label(entry))
        return _uid(entry), benchmark, digest(text_under(entry, "input")), truth, answer, rules.value(entry)

    samples = [_Sample(offset, *parsed) for offset, parsed in read_lines(path, parse, complaints)]
    validation = Validation(path)
    if not samples and path.is_file():
        empty = "the validation dump is empty" if path.stat().st_size == 0 else "no line of it is a validation sample"
        complain(f"{path}: {empty}", complaints)
    values: dict[str, set[float]] = {}
    for benchmark, key, group in _problems(samples, rules.merge_copies, validation.remarks):
        right = [sample for sample in group if sample.value >= rules.least]
        wrong = [sample for sample in group if sample.value < rules.least]
        outputs = (entry["output"] for entry in read_entries(path, [sample.offset for sample in group]))
        validation.benchmarks.setdefault(benchmark, {})[key] = Problem(
            right=array("q", (sample.offset for sample in right)),
            wrong=array("q", (sample.offset for sample in wrong)),
            solutions=effective_solutions(sample.answer for sample in right),
            text=text_diversity(outputs) if with_texts else None,
        )
        values.setdefault(benchmark, set()).update(sample.value for sample in group)
    validation.values.update({benchmark: extremes(numbers) for benchmark, numbers in values.items()})
    return validation


def extremes(numbers: set[float]) -> list[float]:
    """Return the smallest two and the largest of numbers, or fewer if there are fewer."""
    ordered = sorted(numbers)
    return ordered if len(ordered) < 3 else [*ordered[:2], ordered[-1]]


def read_entries(path: Path, offsets: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Read the lines of a dump that begin at the given offsets, which `read_validation` found readable."""
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            yield parse_object(file.readline())


def answer_label(entry: dict[str, Any]) -> str:
    """Return the text that is equal for two samples of one answer, see `read_validation`."""
    solution = entry.get("solution")
    if solution is None:
        return text_under(entry, "output").strip()
    return solution if isinstance(solution, str) else json.dumps(solution, sort_keys=True)


def _uid(entry: dict[str, Any]) -> str | None:
    uid = entry.get("uid")
    if uid is None or isinstance(uid, str):
        return uid
    if isinstance(uid, int):
        return str(uid)
    raise ValueError(f'the key "uid" must be a string or an integer, got {uid!r:.200}')


def _problems(
    samples: Sequence[_Sample], merge_copies: bool, remarks: dict[str, str]
) -> Iterator[tuple[str, str, list[_Sample]]]:
    """Yield benchmark, key and samples of each problem, and fill the remarks."""
    groups: dict[tuple[str, str | None, bytes, bytes], list[tuple[bytes, _Sample]]] = {}
    for uid, first_prompt, sample in _counted(samples, remarks):
        key = sample.benchmark, uid, sample.truth, first_prompt if uid is None else b""
        groups.setdefault(key, []).append((first_prompt, sample))

    alike: dict[tuple[str, bytes, bytes], list[tuple[str | None, list[_Sample]]]] = {}
    differing = 0
    for (benchmark, uid, truth, _), members in groups.items():
        prompt, times = Counter(first_prompt for first_prompt, _ in members).most_common(1)[0]
        differing += times < len(members)
        shared = prompt if 2 * times > len(members) else b""
        alike.setdefault((benchmark, shared, truth), []).append((uid, [sample for _, sample in members]))
    if differing:
        remarks["inputs"] = (
            f"the samples of {differing} problems differ in their inputs; their uid makes them one problem, which is "
            "known in other validations by the input of most samples, or else by its truth"
        )
    copies = 0
    for (benchmark, prompt, truth), same in alike.items():
        name = prompt.hex() + truth.hex()
        if len(same) == 1 or (merge_copies and prompt):
            yield benchmark, name, [sample for _, members in same for sample in members]
        else:
            copies += len(same)
            yield from ((benchmark, f"{name} {uid}", members) for uid, members in same)
    if copies:
        remarks["copies"] = (
            f"{copies} problems share input and truth with another one of another uid; each counts by itself, as in "
            "verl, and is known in other validations by its uid alone; if they are copies of one row: --merge-copies"
        )


def _counted(samples: Sequence[_Sample], remarks: dict[str, str]) -> Iterator[tuple[str | None, bytes, _Sample]]:
    """Yield the uid of the problem, the prompt that its session began with, and the sample, of all that count."""
    parts = [_UID.fullmatch(sample.uid or "") for sample in samples]
    split = [(part[1], int(part[2]), int(part[3])) for part in parts if part is not None]
    if len(split) == len(samples) and _is_from_verl(split, samples):
        sessions: dict[tuple[str, int], list[tuple[int, _Sample]]] = {}
        for (uid, session, output), sample in zip(split, samples, strict=True):
            sessions.setdefault((uid, session), []).append((output, sample))
        for (uid, _), outputs in sessions.items():
            last = max(output for output, _ in outputs)
            first_prompt = min(outputs)[1].prompt
            yield from ((uid, first_prompt, sample) for output, sample in outputs if output == last)
        return
    if split:
        remarks["form"] = (
            f'"uid" is like "{samples[0].uid}", which is not the <uid>_<session>_<output> that verl writes; each uid '
            "counts as a problem"
        )
    without = [sample for sample in samples if sample.uid is None]
    sizes = defaultdict(list)
    for (benchmark, *_), size in Counter((s.benchmark, s.prompt, s.truth) for s in without).items():
        sizes[benchmark].append(size)
    large = sum(size >= 2 * min(group) for group in sizes.values() for size in group)
    if 0 < len(without) < len(samples):
        remarks["uid"] = f'{len(without)} of {len(samples)} lines have no "uid"; input and truth say their problem'
    elif large:
        remarks["uid"] = (
            f'there is no "uid", so samples of one input and one truth are one problem; {large} have twice as many '
            "samples as another one or more, as several problems with the same text would"
        )
    yield from ((sample.uid, sample.prompt, sample) for sample in samples)


def _is_from_verl(split: Sequence[tuple[str, int, int]], samples: Sequence[_Sample]) -> bool:
    """Return whether uids that end in two numbers end in a session and an output.

    verl's own uids are UUIDs. Others must be what verl would have written with them: all different, sessions and
    outputs counted from 0, one truth for all samples of a uid, one score for all outputs of a session. If the inputs
    of a uid differ, which its turns would explain, the uids must differ in their truths or agree in their sessions.
    """
    if all(_UUID.fullmatch(uid) for uid, _, _ in split):
        return True
    truths: dict[str, set[bytes]] = defaultdict(set)
    prompts: dict[str, set[bytes]] = defaultdict(set)
    sessions: dict[str, set[int]] = defaultdict(set)
    scores: dict[tuple[str, int], set[float]] = defaultdict(set)
    for (uid, session, _), sample in zip(split, samples, strict=True):
        truths[uid].add(sample.truth)
        prompts[uid].add(sample.prompt)
        sessions[uid].add(session)
        scores[uid, session].add(sample.value)
    all_sessions, all_outputs = {session for _, session, _ in split}, {output for _, _, output in split}
    counted_from_0 = all(numbers == set(range(len(numbers))) for numbers in (all_sessions, all_outputs))
    if not counted_from_0 or len(set(split)) < len(split):
        return False
    if max(map(len, truths.values())) > 1 or max(map(len, scores.values())) > 1:
        return False
    agreeing = len(sessions) > 1 and len(all_sessions) > 1 and all(own == all_sessions for own in sessions.values())
    return max(map(len, prompts.values())) == 1 or len(set().union(*truths.values())) > 1 or agreeing
