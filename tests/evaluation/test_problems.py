"""Which samples of a dump are one problem: generated validations, whose rows of data are known."""

import json
import uuid
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verl_lad.evaluation import Problem, Rules, Validation, load_runs, read_validation

randoms = st.integers(0, 2**32).map(Random)  # whose uids all differ
once_a_directory = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Row(NamedTuple):
    """A row of the validation data, and for each of its samples whether it is right."""

    prompt: str
    truth: object
    right: list[bool]


# Few texts and truths, so that rows share them.
rows_of_data = st.lists(
    st.builds(
        Row,
        st.sampled_from(["<image>Find x.", "What is 1 + 1?", "", "\ud7ff{}"]),
        st.sampled_from(["1", "2", 1, None, {"a": [1]}]),
        st.lists(st.booleans(), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


def uid_of(row: int, session: int, output: int = 0) -> str:
    """As verl writes it."""
    return f"{uuid.UUID(int=row, version=4)}_{session}_{output}"


def line(prompt: str, truth: object, right: bool, uid: object = None, output: str = "o") -> dict[str, object]:
    entry = {"input": prompt, "output": output, "gts": truth, "score": float(right), "step": 0}
    return entry if uid is None else entry | {"uid": uid}


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines), encoding="utf-8")
    return path


def read(tmp_path: Path, lines: list[dict[str, object]], rules: Rules | None = None) -> Validation:
    return read_validation(write(tmp_path / "0.jsonl", lines), rules)


def problems_in(validation: Validation) -> list[Problem]:
    return [problem for problems in validation.benchmarks.values() for problem in problems.values()]


def sizes(problems: list[Problem]) -> Counter[tuple[int, int]]:
    return Counter((problem.correct, problem.total) for problem in problems)


def expected_sizes(rows: list[Row]) -> Counter[tuple[int, int]]:
    return Counter((sum(row.right), len(row.right)) for row in rows)


def verl_lines(rows: list[Row], random: Random, turns: int = 1) -> list[dict[str, object]]:
    """As verl writes them: new uids, a session's score on each of its turns, later prompts with what was said."""
    lines = []
    for row in rows:
        uid = uuid.UUID(int=random.getrandbits(128), version=4)
        for session, right in enumerate(row.right):
            for turn in range(turns):
                prompt = row.prompt + f" {session} said {turn}" * (turn > 0)
                lines.append(line(prompt, row.truth, right, f"{uid}_{session}_{turn}", output=f"turn {turn}"))
    random.shuffle(lines)
    return lines


@once_a_directory
@given(rows_of_data, randoms, st.integers(1, 12))
def test_rows_of_a_verl_dump_are_problems_and_their_sessions_samples(tmp_path, rows, random, turns):
    validation = read(tmp_path, verl_lines(rows, random, turns))
    assert sizes(problems_in(validation)) == expected_sizes(rows)
    shared = Counter((row.prompt, json.dumps(row.truth)) for row in rows)
    assert ("copies" in validation.remarks) == (max(shared.values()) > 1)
    assert set(validation.remarks) <= {"copies"}


@once_a_directory
@given(rows_of_data, randoms)
def test_problem_is_known_across_validations_by_input_and_truth(tmp_path, rows, random):
    first, second = (read(tmp_path, verl_lines(rows, random)).benchmarks["validation"] for _ in range(2))
    shared = Counter((row.prompt, json.dumps(row.truth)) for row in rows)
    alone = [row for row in rows if shared[row.prompt, json.dumps(row.truth)] == 1]
    known = first.keys() & second.keys()
    assert len(known) == len(alone)
    assert all((first[key].correct, first[key].total) == (second[key].correct, second[key].total) for key in known)


@once_a_directory
@given(rows_of_data, randoms)
def test_copies_of_a_row_are_merged_on_request(tmp_path, rows, random):
    merged: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        merged.setdefault((row.prompt, json.dumps(row.truth)), []).extend(row.right)
    validation = read(tmp_path, verl_lines(rows, random), Rules(merge_copies=True))
    assert sizes(problems_in(validation)) == Counter((sum(right), len(right)) for right in merged.values())
    assert validation.remarks == {}


@once_a_directory
@given(rows_of_data, st.lists(st.text(min_size=1) | st.integers(), min_size=6, max_size=6, unique_by=str))
def test_a_uid_of_another_form_names_its_problem(tmp_path, rows, uids):
    rows = [row._replace(right=row.right * 2) for row in rows]  # two samples of each or more, so the uid is no sample's
    lines = [
        line(row.prompt, row.truth, right, uid) for row, uid in zip(rows, uids, strict=False) for right in row.right
    ]
    assert sizes(problems_in(read(tmp_path, lines))) == expected_sizes(rows)


@once_a_directory
@given(
    st.sampled_from(["aime_2024", "gsm8k", "math_500_test", "amc_23", "x_0", "a_0_0", "2024", "_", "3f2c_1"]),
    st.sampled_from(["", "_0", "_7", "_0_x"]),
    st.integers(2, 40),
    st.booleans(),
    st.data(),
)
def test_numbers_of_data_rows_are_no_sessions_or_outputs(tmp_path, name, ending, number, one_truth, data):
    right = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    lines = [line(f"problem {i}", "1" if one_truth else str(i), right[i], f"{name}_{i}{ending}") for i in range(number)]
    assert sizes(problems_in(read(tmp_path, lines))) == Counter((int(r), 1) for r in right)


@once_a_directory
@given(rows_of_data)
def test_without_a_uid_input_and_truth_say_the_problem(tmp_path, rows):
    merged: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        merged.setdefault((row.prompt, json.dumps(row.truth)), []).extend(row.right)
    validation = read(tmp_path, [line(row.prompt, row.truth, right) for row in rows for right in row.right])
    assert sizes(problems_in(validation)) == Counter((sum(right), len(right)) for right in merged.values())
    assert validation.remarks == {}


@pytest.mark.parametrize("truth", ["the same", "its own"])
@pytest.mark.parametrize("varying", ["the text", "the input"])
def test_field_cases_of_equal_texts_and_of_differing_inputs(tmp_path, truth, varying):
    """Six problems of four samples: with one text, as images have, or with an input for each sample, as tools make."""
    lines = [
        line("<image>Find x." if varying == "the text" else f"problem {i}; the tool said {s}", gts, i % 2, uid_of(i, s))
        for i in range(6)
        for s in range(4)
        for gts in ["1" if truth == "the same" else str(i)]
    ]
    validation = read(tmp_path, lines)
    assert sizes(problems_in(validation)) == {(4, 4): 3, (0, 4): 3}
    assert set(validation.remarks) == ({"copies"} if truth == "the same" else set())


def test_problems_with_differing_inputs_are_compared_with_the_base_by_their_truth(tmp_path):
    for step in (0, 10):
        random = Random(step)
        uids = [uuid.UUID(int=random.getrandbits(128), version=4) for _ in range(3)]
        lines = [
            line(f"problem {i}, dice {random.random()}", str(i), True, f"{uid}_{s}_0", output=f"{s % (3 - step // 10)}")
            for i, uid in enumerate(uids)
            for s in range(12)
        ]
        write(tmp_path / f"validation/{step}.jsonl", lines)
    (run,) = load_runs([tmp_path])
    base, now = (run.problems("validation", step) for step in (0, 10))
    assert base.keys() == now.keys()
    assert len(base) == 3
    assert run.remarks == []


def test_of_a_session_with_several_outputs_the_last_one_counts(tmp_path):
    entries = [
        line("p", "5", True, uid_of(1, 0, 0), output="1 1 3"),
        line("p", "5", True, uid_of(1, 0, 1), output="1 2 2"),
        line("p", "5", True, uid_of(1, 1, 0), output="1 1 3"),
        line("q", "5", True, uid_of(2, 0, 0), output="1 1 3"),
    ]
    assert [(p.total, p.distinct) for p in problems_in(read(tmp_path, entries))] == [(2, 2), (1, 1)]


def test_a_form_that_only_looks_like_verls_is_said(tmp_path):
    validation = read(tmp_path, [line(f"problem {i}", "1", i < 5, f"aime_2024_{i}") for i in range(10)])
    assert sizes(problems_in(validation)) == {(1, 1): 5, (0, 1): 5}
    assert list(validation.remarks) == ["form"]
    assert '"uid" is like "aime_2024_0", which is not the <uid>_<session>_<output>' in validation.remarks["form"]


def test_lines_without_a_uid_beside_others_are_known_by_input_and_truth(tmp_path):
    lines = [line("p", "1", True, "a"), line("p", "1", True, "a"), line("p", "1", False), line("q", "2", False)]
    assert sizes(problems_in(read(tmp_path, lines))) == {(2, 2): 1, (0, 1): 2}


def test_a_lost_line_moves_no_sample_to_another_problem(tmp_path):
    lines = [line("<image>", "1", i % 2, uid_of(i, s)) for i in range(6) for s in range(4)]
    del lines[9]
    assert sizes(problems_in(read(tmp_path, lines))) == {(4, 4): 3, (0, 4): 2, (0, 3): 1}


def test_one_uid_with_two_truths_is_two_problems(tmp_path):
    """Two data files that both count their rows from 0."""
    lines = [line(f"{name}: problem 0", truth, True, "0") for name, truth in (("a", "1"), ("b", "2")) for _ in range(3)]
    assert sizes(problems_in(read(tmp_path, lines))) == {(3, 3): 2}
