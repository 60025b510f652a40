import json
import os
import re
from pathlib import Path

import pytest

from verl_lad.evaluation import Problem, Rules, load_runs, read_metrics, read_validation
from verl_lad.evaluation.records import MAX_NAMED_LINES
from verl_lad.evaluation.runs import describe_run, find_runs, read_curves, validation_dumps


def sample(**changes: object) -> dict[str, object]:
    """A line of a validation dump as verl writes it, but for the uid."""
    entry = {
        "input": "user\n3 digits with sum 5\nassistant\n",
        "output": " 1 2 2 ",
        "gts": "5",
        "score": 1.0,
        "step": 0,
        "reward": 1.0,
        "acc": 1.0,
    }
    return entry | changes


def write_lines(path: Path, entries: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def problems_in(path: Path, rules: Rules | None = None, complaints: list[str] | None = None) -> list[Problem]:
    complain = () if complaints is None else (complaints.append,)
    benchmarks = read_validation(path, rules, *complain).benchmarks
    return [problem for problems in benchmarks.values() for problem in problems.values()]


def test_samples_are_grouped_by_prompt_and_solutions_by_stripped_output(tmp_path):
    entries = [
        sample(),
        sample(output="1 2 2"),
        sample(output="1 1 3"),
        sample(output="9 9 9", acc=0.0, score=0.0),
        sample(input="other"),
    ]
    first, other = problems_in(write_lines(tmp_path / "0.jsonl", entries))
    assert (first.total, first.correct, first.distinct, first.collision) == (4, 3, 2, pytest.approx(1 / 3))
    assert (other.total, other.correct) == (1, 1)


def test_solution_key_takes_precedence_over_the_output_unless_it_is_null(tmp_path):
    entries = [
        sample(output="so 1 2 2", solution="122"),
        sample(output="thus 1 2 2", solution="122"),
        sample(output="122", solution=None),
    ]
    (problem,) = problems_in(write_lines(tmp_path / "0.jsonl", entries))
    assert (problem.correct, problem.distinct) == (3, 1)


def test_solutions_that_are_not_strings_are_compared_by_value(tmp_path):
    entries = [sample(solution={"a": 1, "b": [2]}), sample(solution={"b": [2], "a": 1}), sample(solution=[1, 2])]
    (problem,) = problems_in(write_lines(tmp_path / "0.jsonl", entries))
    assert (problem.distinct, problem.collision) == (2, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("changes", "correct"),
    [
        ({"acc": 1.0, "score": 0.0}, True),
        ({"acc": True, "score": 0.0}, True),
        ({"acc": 0.5, "score": 1.0}, False),
        ({"acc": None, "score": 1.0}, True),  # verl pads what a reward function left out with null
        ({"acc": None, "score": -1.0}, False),
    ],
)
def test_correct_means_acc_of_at_least_one_or_else_score(tmp_path, changes, correct):
    (problem,) = problems_in(write_lines(tmp_path / "0.jsonl", [sample(**changes)]))
    assert problem.correct == correct


def test_caller_can_name_the_key_of_correctness(tmp_path):
    path = write_lines(tmp_path / "0.jsonl", [sample(acc=0.0, passed=True)])
    (problem,) = problems_in(path, Rules(correct_key="passed"))
    assert problem.correct == 1


@pytest.mark.parametrize(("threshold", "correct"), [(None, 1), (0.5, 3), (0.8, 2), (-1.0, 4)])
def test_caller_can_say_from_which_value_on_a_sample_is_correct(tmp_path, threshold, correct):
    path = write_lines(tmp_path / "0.jsonl", [sample(acc=acc) for acc in (0.2, 0.5, 0.8, 1.0)])
    (problem,) = problems_in(path, Rules(threshold=threshold))
    assert problem.correct == correct


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input": "x", "outp', "malformed JSON"),
        ("", "malformed JSON"),
        ("\udcff", "malformed JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        (json.dumps({"output": "y", "acc": 1.0}), 'the key "input" must be a string, got None'),
        (json.dumps({"input": "x", "acc": 1.0}), 'the key "output" must be a string, got None'),
        (
            json.dumps({"input": "x", "output": "y"}),
            r'the key "score" must be a finite number, at most 1e\+300, got None',
        ),
        (json.dumps({"input": "x", "output": "y", "acc": "yes"}), 'the key "acc" must be a finite number'),
        (
            '{"input": "x", "output": "y", "score": NaN}',
            r'the key "score" must be a finite number, at most 1e\+300, got nan',
        ),
        (
            '{"input": "x", "output": "y", "score": ' + "9" * 400 + "}",
            r'the key "score" must be a finite number, at most 1e\+300, got 999',
        ),
        ('{"input": "x", "output": "y", "score": ' + "9" * 60_000 + "}", "malformed JSON: Exceeds the limit"),
        ("[" * 10**5, "malformed JSON: nested too deeply"),
        (
            '{"input": "x", "output": "y", "score": 1, "uid": [1]}',
            r'the key "uid" must be a string or an integer, got \[1',
        ),
        ('{"input": "x", "output": "\udced\udca0\udc80", "score": 1}', "malformed JSON"),
    ],
)
def test_error_of_a_bad_line_names_file_line_and_fault(tmp_path, line, message):
    path = tmp_path / "5.jsonl"
    path.write_bytes(f"{json.dumps(sample())}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as error:
        read_validation(path)
    assert str(error.value).startswith(f"{path}, line 2: ")


def test_empty_dump_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"0\.jsonl: the validation dump is empty"):
        read_validation(write_lines(tmp_path / "0.jsonl", []))


def test_dumps_are_ordered_by_step_as_a_number_and_strange_files_are_left_out(tmp_path):
    for name in ("10.jsonl", "0.jsonl", "9.jsonl", "notes.jsonl", "3.txt"):
        write_lines(tmp_path / "validation" / name, [sample()])
    assert list(validation_dumps(tmp_path)) == [0, 9, 10]


@pytest.mark.parametrize(
    ("name", "words"), [("007", r"007 is|7 is the step of 007"), ("9" * 40, "no step of a training")]
)
def test_two_dumps_of_one_step_and_impossible_steps_are_named(tmp_path, name, words):
    for each in ("0", "7", name):
        write_lines(tmp_path / "validation" / f"{each}.jsonl", [sample()])
    complaints: list[str] = []
    assert list(validation_dumps(tmp_path, complaints.append)) == [0, 7]
    (complaint,) = complaints
    assert re.search(words, complaint)


def test_missing_run_directory_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such run directory"):
        load_runs([tmp_path / "nowhere"])


def test_run_without_validation_dump_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"algo": "lad"}')
    with pytest.raises(ValueError, match="no validation dump yet") as error:
        load_runs([tmp_path])
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_run_without_step_zero_is_told_how_to_get_it(tmp_path):
    write_lines(tmp_path / "validation" / "5.jsonl", [sample(step=5)])
    with pytest.raises(ValueError, match=r"steps \[5\] but none of step 0.*val_before_train=True"):
        validation_dumps(tmp_path)


def test_run_json_says_what_a_run_is(tmp_path):
    (tmp_path / "run.json").write_text('{"algo": "lad", "eta": 0.25, "seed": 3}')
    assert describe_run(tmp_path) == ("lad", 3)


@pytest.mark.parametrize(
    "content",
    ['{"eta": 1}', '{"algo": 3}', '{"algo": ', "[]", '{"algo": "x", "seed": "0"}', "[" * 10**5],
)
def test_bad_run_json_is_refused_by_name_and_replaced_by_what_else_is_known(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json: "):
        describe_run(tmp_path)
    complaints: list[str] = []
    assert describe_run(tmp_path, complaints.append) == (tmp_path.name, None)
    assert len(complaints) == 1


def test_run_without_any_description_has_the_name_of_its_directory(tmp_path):
    assert describe_run(tmp_path) == (tmp_path.name, None)


def test_runs_are_found_right_below_a_directory_that_is_none(tmp_path):
    for name in ("b", "a"):
        write_lines(tmp_path / name / "metrics.jsonl", [{"step": 1, "data": {}}])
    (tmp_path / "assets").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(ValueError, match="assets: not a run"):
        find_runs(tmp_path / "assets")


def test_metrics_are_read_step_by_step(tmp_path):
    data = {"actor/lad/divergence": -0.1, "actor/grad_norm": 0.3, "rollout_corr/kl": 1e-9}
    write_lines(tmp_path / "metrics.jsonl", [{"step": 0, "data": {}}, {"step": 1, "data": data}])
    assert list(read_metrics(tmp_path)) == [(0, {}), (1, data)]


@pytest.mark.parametrize("line", ['{"step": 1', '{"step": 1}', '{"data": {}}', "3"])
def test_bad_metrics_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "data": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: "):
        list(read_metrics(tmp_path))


def test_metrics_of_a_resumed_run_are_merged_and_the_later_file_holds(tmp_path):
    """Step 3 was logged before the crash and after the resumption from step 2; names do not say which is later."""
    write_lines(tmp_path / "metrics.jsonl", [{"step": s, "data": {"a": 10 + s}} for s in (3, 4)])
    write_lines(tmp_path / "metrics_before.jsonl", [{"step": s, "data": {"a": s}} for s in (1, 2, 3)])
    assert read_curves(tmp_path) == {"a": {1: 1.0, 2: 2.0, 3: 13.0, 4: 14.0}}


def test_nan_which_verl_logs_as_null_and_text_are_no_points_of_a_curve(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "data": {"a": None, "b": "x", "c": 2}}])
    assert read_curves(tmp_path) == {"c": {1: 2.0}}


def test_truncated_line_costs_that_line_alone(tmp_path):
    path = write_lines(tmp_path / "0.jsonl", [sample(), sample(acc=0.0)])
    path.write_text(path.read_text() + json.dumps(sample())[:50])
    complaints: list[str] = []
    (problem,) = problems_in(path, complaints=complaints)
    assert (problem.total, problem.correct) == (2, 1)
    (complaint,) = complaints
    assert complaint.startswith(f"{path}, line 3: malformed JSON")
    assert "cut off" in complaint


def test_foreign_file_is_named_with_a_few_of_its_lines_and_their_number(tmp_path):
    path = tmp_path / "0.jsonl"
    path.write_text("not json\n" * 1000)
    complaints: list[str] = []
    assert problems_in(path, complaints=complaints) == []
    assert len(complaints) == MAX_NAMED_LINES + 2
    assert complaints[-2:] == [
        f"{path}: 1000 lines were left out, of which the first {MAX_NAMED_LINES} are named",
        f"{path}: no line of it is a validation sample",
    ]


def test_samples_without_a_benchmark_are_one_benchmark(tmp_path):
    entries = [sample(benchmark="AIME24"), sample(benchmark=None), sample(), sample(benchmark="MATH500")]
    found = read_validation(write_lines(tmp_path / "0.jsonl", entries)).benchmarks
    assert {benchmark: [p.total for p in problems.values()] for benchmark, problems in found.items()} == {
        "AIME24": [1],
        "validation": [2],
        "MATH500": [1],
    }
    with pytest.raises(ValueError, match='the key "benchmark" must be a string, got 5'):
        read_validation(write_lines(tmp_path / "1.jsonl", [sample(benchmark=5)]))


def test_one_bad_run_costs_nothing_of_the_others(tmp_path):
    write_lines(tmp_path / "good/validation/0.jsonl", [sample()])
    write_lines(tmp_path / "later/validation/5.jsonl", [sample(step=5)])
    write_lines(tmp_path / "empty/validation/0.jsonl", [])
    complaints: list[str] = []
    runs = load_runs([tmp_path / name for name in ("good", "later", "empty", "nowhere")], complain=complaints.append)
    assert [(run.algorithm, list(run.validations)) for run in runs] == [("good", [0]), ("later", [5])]
    assert len(complaints) == 3
    for complaint, words in zip(
        sorted(complaints), ("validation dump is empty", "none of step 0", "no such run directory"), strict=True
    ):
        assert words in complaint


def test_directory_given_twice_is_one_run(tmp_path):
    write_lines(tmp_path / "validation/0.jsonl", [sample()])
    assert len(load_runs([tmp_path, tmp_path / "validation" / ".."])) == 1


def experiment(path: Path, steps: range = range(1, 3)) -> Path:
    """A file of verl's file logger."""
    return write_lines(path, [{"step": step, "data": {"actor/entropy": 1 / step}} for step in steps])


def test_verls_own_file_logger_writes_what_is_read(tmp_path, monkeypatch):
    tracking = pytest.importorskip("verl.utils.tracking")
    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    logger = tracking.FileLogger("my_project", "qwen-1.5b_lad")
    logger.log({"actor/entropy": 0.5, "actor/grad_norm": float("nan")}, step=3)
    logger.finish()
    (run,) = load_runs([tmp_path / "my_project/qwen-1.5b_lad.jsonl"])
    assert (run.algorithm, run.curves) == ("qwen-1.5b_lad", {"actor/entropy": {3: 0.5}})


def test_a_damaged_first_line_of_a_log_costs_that_line_alone(tmp_path):
    path = experiment(tmp_path / "metrics.jsonl")
    path.write_text('{"step": 0, "da\n' + path.read_text())
    complaints: list[str] = []
    (run,) = load_runs([tmp_path], complain=complaints.append)
    assert list(run.curves["actor/entropy"]) == [1, 2]
    assert complaints[0].startswith(f"{path}, line 1: malformed JSON")


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "data": {"x": ' + "9" * 400 + "}}",
        '{"step": ' + "9" * 20 + ', "data": {"x": 1}}',
        '{"step": -1, "data": {"x": 1}}',
        "[" * 10**5,
    ],
)
def test_metrics_that_no_float_holds_cost_their_line_alone(tmp_path, line):
    path = experiment(tmp_path / "metrics.jsonl")
    path.write_text(path.read_text() + line + "\n")
    complaints: list[str] = []
    assert list(read_curves(tmp_path, complaints.append)["actor/entropy"]) == [1, 2]
    (complaint,) = complaints
    assert complaint.startswith(f"{path}, line 3: ")


@pytest.mark.parametrize("place", ["run.json", "metrics.jsonl", "validation/0.jsonl", "validation/20.jsonl"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "broken link"])
def test_what_is_no_file_is_named_and_costs_nothing_else(tmp_path, place, kind):
    write_lines(tmp_path / "validation/10.jsonl", [sample()])
    path = tmp_path / place
    {"directory": path.mkdir, "pipe": lambda: os.mkfifo(path), "broken link": lambda: path.symlink_to("nowhere")}[
        kind
    ]()
    complaints: list[str] = []
    (run,) = load_runs([tmp_path], complain=complaints.append)
    assert list(run.validations) == [10]
    assert any(complaint.startswith(f"{path}: cannot be read: not a file") for complaint in complaints)


def test_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "validation/0.jsonl", [sample()])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    complaints: list[str] = []
    assert load_runs([tmp_path], complain=complaints.append) == []
    assert complaints[0] == f"{path}: cannot be read: Permission denied"


def test_half_of_a_surrogate_pair_in_a_name_can_be_printed(tmp_path):
    (tmp_path / "run.json").write_text('{"algo": "a\\ud83d"}')
    assert describe_run(tmp_path) == ("a?", None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.0, 1.0], False),
        ([-1.0, 1.0], False),
        ([0.0], False),
        ([-1.0], False),
        ([1.0], False),
        ([0.0, 0.5], True),
        ([-1.0, 0.0], True),
        ([0.5], True),
        ([0.0, 0.1, 1.0], True),
        ([0.0, 37.0, 100.0], True),
    ],
)
def test_values_that_do_not_say_which_are_right_are_named_unless_there_is_a_threshold(tmp_path, values, said):
    """A run with scores below 1 would have accuracy 0 without a word."""
    for step, chosen in enumerate((values[:1], values)):
        write_lines(tmp_path / f"validation/{step}.jsonl", [sample(acc=None, score=value) for value in chosen])
    (run,) = load_runs([tmp_path])
    assert len(run.remarks) == said
    assert all("--threshold" in remark and f"to {values[-1]:g}" in remark for remark in run.remarks if len(values) > 1)
    (run,) = load_runs([tmp_path], Rules(threshold=0.5))
    assert run.remarks == []
