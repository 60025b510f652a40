"""Every program on a few invented rows in its source's real format."""

import contextlib
import importlib
import io
import json
import math
import re
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import datasets
import pytest
from errors import LeftOutError, MalformedRowError
from instructions import BOXED_SUFFIX, DAPO_PREFIX, DAPO_SUFFIX, GSM8K_SUFFIX
from verl.utils.reward_score import default_compute_score

from .conftest import PROGRAMS, SOURCES, TRAINING_SETS, VALIDATION_SETS, prepare

DATA_SOURCES = {"dapo_math_17k": "math_dapo", "gsm8k": "openai/gsm8k"}
DOMAINS = {name: domain for domain in VALIDATION_SETS for name in (*VALIDATION_SETS[domain], TRAINING_SETS[domain])}
SOLUTIONS = json.loads((Path(__file__).parent / "solutions.json").read_text(encoding="utf-8"))

# Read, kept, duplicates, conflicting rows, contaminated, malformed, left out.
COUNTS = {
    "dapo_math_17k": (19, 12, 2, 2, 1, 2, 0),
    "math500": (7, 5, 1, 0, 0, 1, 0),
    "aime24": (4, 3, 0, 0, 0, 1, 0),
    "aime25": (4, 3, 0, 0, 0, 1, 0),
    "amc": (5, 4, 0, 0, 0, 1, 0),
    "olympiadbench": (5, 4, 0, 0, 0, 1, 0),
    "minerva": (4, 3, 0, 0, 0, 1, 0),
    "deepcoder": (15, 11, 1, 0, 1, 2, 0),
    "livecodebench": (5, 3, 0, 0, 0, 1, 1),
    "humanevalplus": (4, 3, 0, 0, 0, 1, 0),
    "codeforces": (6, 3, 0, 0, 0, 0, 3),
    "gsm8k": (15, 10, 1, 2, 1, 1, 0),
}

# A part of the question, and its answer from Python.
ANSWERS = {
    "tulip bulbs": 17 * 12 + 9,
    "divisors of $84$": sum(d for d in range(6, 85, 6) if 84 % d == 0),
    r"1 \le n \le 200": sum(n % 3 == 0 and n % 5 != 0 for n in range(1, 201)),
    "x^2-6x+11": min(x * x - 6 * x + 11 for x in range(-50, 50)),
    "die is rolled twice": sum(a + b in (2, 3, 5, 7, 11) for a in range(1, 7) for b in range(1, 7)) // 3 + 36 // 3,
    "legs of length $20$ and $21$": 20 + 21 + math.isqrt(20**2 + 21**2),
    "7^{30}": 7**30 % 10,
    "LEVEL": math.factorial(5) // 4,
    "k^2+k=462": next(k for k in range(99) if k * k + k == 462),
    r"5, 9, 13, \ldots": sum(range(5, 5 + 80, 4)),
    "一个数": (38 + 7) // 3,
    "difference $12$": (50 + 12) // 2,
    r"\dbinom{9}{4}": math.comb(9, 4) - math.comb(8, 3),
    "(8,0)": 8 * 5 // 2,
    r"\frac{3}{8}": r"\frac{19}{24}",
    "g(x)=2x-5": next(x for x in range(99) if 2 * (2 * x - 5) - 5 == 9),
    "(2+3i)(4-i)": "11+10i",
    "exactly three positive divisors": sum(n for n in range(500) if sum(n % d == 0 for d in range(1, n + 1)) == 3)
    % 1000,
    "ab=720": sum(720 % a == 0 and math.gcd(a, 720 // a) == 1 for a in range(1, 721)),
    "(x^2-7x+12)": math.prod(x for x in range(-9, 9) if (x * x - 5 * x + 6) * (x * x - 7 * x + 12) == 0),
    "strictly increase": sum(list(str(n)) == sorted(set(str(n))) for n in range(1, 1000)),
    "n^2-40n+336": max(n for n in range(99) if n * n - 40 * n + 336 < 0),
    "a_{10}": (4 * 2**9 - 3) % 1000,
    "five consecutive even": 38 + 4,
    r"k\pi": 10**2 * 2 // 4,
    "odd tens digit": sum(n // 10 % 2 for n in range(14, 100, 7)),
    "median": 2.5,
    "x^2-3x=10": "5,-2",
    "odd positive integers": "n^{2}",
    "divisible by $12$": next(n for n in range(12, 999, 12) if sum(map(int, str(n))) == 12),
    "T+1": 8,
    "thrown straight up": 147 / 98,
    "photon": 1240 / 500,
    "y(0)=2": "2 e^{-3 t}",
    "melons": 14 * 9 - 31,
    "ferry": 85 * 16,
    "valley": 6 - 15,
    "waters 5 beds": 5 * 8 + 3 * 2,
    "4 schools": 7 * 12 // 4,
    "Lena reads": 23 * 6 + 11,
    "theatre": 18 * 24 - 75,
    "Omar runs": (4 + 6) * 5,
    "48 pencils": 48 // 6 - 2,
    "half a liter": 7 / 2,
    "holds 35 books": 35 * 40,
    "3 shirts": 90 - 3 * 17,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_row_is_accounted_for(prepared, name):
    counts = prepared[name].metadata["counts"]
    malformed, left_out = sum(counts["malformed"].values()), sum(counts["left_out"].values())
    numbers = [counts[key] for key in ("read", "kept", "duplicates", "conflicting", "contaminated")]
    assert (*numbers, malformed, left_out) == COUNTS[name]
    assert counts["read"] == sum(numbers[1:]) + malformed + left_out
    assert counts["kept"] == len(prepared[name].rows)


@pytest.mark.parametrize("name", COUNTS)
def test_rows_are_verls(prepared, name):
    split = "train" if name in TRAINING_SETS.values() else "test"
    for row in prepared[name].rows:
        assert row["data_source"] == DATA_SOURCES.get(name, name)
        assert row["ability"] == ("code" if DOMAINS[name] == "code" else "math")
        assert row["reward_model"]["style"] == "rule"
        assert row["extra_info"]["split"] == split
        (message,) = row["prompt"]
        assert message["role"] == "user"
        assert row["extra_info"]["question"] in message["content"]
    indices = [row["extra_info"]["index"] for row in prepared[name].rows]
    assert indices == sorted(set(indices))


@pytest.mark.parametrize("name", COUNTS)
def test_metadata_names_source_licence_and_options(prepared, name):
    metadata = prepared[name].metadata
    assert metadata["revision"] == "local files"
    assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) for file in metadata["files"])
    assert metadata["repository"] == importlib.import_module(name).DATA_SET.repository
    assert metadata["licence"]
    assert metadata["program"].startswith(f"recipes/data/{name}.py of verl-lad ")
    assert metadata["options"].get("instruction") == ("answer" if DOMAINS[name] == "math" else None)


@pytest.mark.parametrize("domain", VALIDATION_SETS)
def test_verl_can_concatenate_the_validation_sets_of_a_domain(prepared, domain, tmp_path):
    """As verl's RLHFDataset does."""
    files = [str(prepared[name].path) for name in VALIDATION_SETS[domain]]
    parts = [datasets.load_dataset("parquet", data_files=file, cache_dir=str(tmp_path))["train"] for file in files]
    assert len(datasets.concatenate_datasets(parts)) == sum(len(prepared[n].rows) for n in VALIDATION_SETS[domain])


@pytest.mark.parametrize("name", [name for name in COUNTS if DOMAINS[name] != "code"])
def test_answers_of_the_invented_problems_are_right(prepared, name):
    for row in prepared[name].rows:
        (answer,) = (value for part, value in ANSWERS.items() if part in row["extra_info"]["question"])
        assert row["reward_model"]["ground_truth"] == str(answer)


def run_program(code: str, stdin: str) -> str:
    output = io.StringIO()
    previous, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(output):
            exec(code, {"__name__": "__main__"})
    finally:
        sys.stdin = previous
    return output.getvalue()


@pytest.mark.parametrize("name", [name for name in COUNTS if DOMAINS[name] == "code"])
def test_tests_of_the_invented_problems_pass_with_a_solution(prepared, name):
    for row in prepared[name].rows:
        (code,) = (code for part, code in SOLUTIONS.items() if part in row["extra_info"]["question"])
        truth = json.loads(row["reward_model"]["ground_truth"])
        if truth["type"] == "stdin":
            for given, expected in zip(truth["inputs"], truth["outputs"], strict=True):
                assert run_program(code, given).split() == expected.split()
            continue
        names: dict[str, object] = {}
        exec(code, names)
        if truth["type"] == "asserts":
            exec(truth["test"], names)
            names["check"](names[truth["entry_point"]])
            continue
        function = getattr(names["Solution"](), truth["fn_name"]) if "Solution" in names else names[truth["fn_name"]]
        for arguments, expected in zip(truth["inputs"], truth["outputs"], strict=True):
            assert function(*arguments) == expected


def test_training_and_validation_prompts_carry_the_same_instruction(prepared):
    for name in (*VALIDATION_SETS["math"], "dapo_math_17k"):
        for row in prepared[name].rows:
            assert row["prompt"][0]["content"] == DAPO_PREFIX + row["extra_info"]["question"] + DAPO_SUFFIX


def test_the_boxed_instruction_replaces_the_data_sets_own(tmp_path):
    made = prepare("dapo_math_17k", tmp_path / "boxed.parquet", "--instruction", "boxed")
    assert made.metadata["options"]["instruction"] == "boxed"
    for row in made.rows:
        assert row["prompt"][0]["content"] == row["extra_info"]["question"] + BOXED_SUFFIX


def test_gsm8k_is_what_verls_reward_for_it_reads(prepared, tmp_path):
    validation = prepare("gsm8k", tmp_path / "val.parquet", "--split", "test")
    assert [row["reward_model"]["ground_truth"] for row in validation.rows] == ["21", "149"]
    assert {row["extra_info"]["split"] for row in validation.rows} == {"test"}
    for row in prepared["gsm8k"].rows + validation.rows:
        truth = row["reward_model"]["ground_truth"]
        assert row["prompt"][0]["content"] == row["extra_info"]["question"] + GSM8K_SUFFIX
        assert default_compute_score(row["data_source"], f"So it is\n#### {truth}", truth) == 1.0
        assert default_compute_score(row["data_source"], f"So it is {truth}", truth) == 0.0
    assert "1360" in [row["reward_model"]["ground_truth"] for row in prepared["gsm8k"].rows]


def test_gsm8k_has_one_instruction_and_no_option_for_it(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "x.parquet"), "--source", str(SOURCES / "gsm8k"), "--instruction", "boxed"]
    with pytest.raises(SystemExit):
        importlib.import_module("gsm8k").main(arguments)
    assert "unrecognized arguments: --instruction boxed" in capsys.readouterr().err


def test_problems_with_two_answers_go_and_duplicates_stay_once(prepared):
    questions = [row["extra_info"]["question"] for row in prepared["dapo_math_17k"].rows]
    assert not any("diagonals of a convex decagon" in question for question in questions)
    assert sum("tulip bulbs" in question for question in questions) == 1
    assert prepared["dapo_math_17k"].metadata["counts"]["conflicting_problems"] == 1


@pytest.mark.parametrize(
    ("training", "validation", "index", "n_gram"),
    [
        ("dapo_math_17k", "aime24", 9, "let s be the set of positive integers less than 500 that have"),
        ("deepcoder", "codeforces", 5, "mila has n jars with a i marbles each she repeatedly moves one"),
        ("gsm8k", "gsm8k", 4, "a baker makes 7 trays with 12 rolls on each tray and gives"),
    ],
)
def test_a_training_problem_from_a_validation_set_goes_and_is_reported(prepared, training, validation, index, n_gram):
    (line,) = prepared[training].path.with_suffix(".contamination.jsonl").read_text(encoding="utf-8").splitlines()
    report = json.loads(line)
    assert (report["index"], report["n_gram"]) == (index, n_gram)
    assert (report["validation"]["file"], report["validation"]["index"]) == (f"{validation}.parquet", 0)
    assert index not in [row["extra_info"]["index"] for row in prepared[training].rows]
    against = prepared[training].metadata["decontamination"]["against"]
    domain = DOMAINS[training]
    assert {file: one["overlapping"] for file, one in against.items()} == {
        f"{name}.parquet": int(name == validation) for name in VALIDATION_SETS[domain]
    }


def test_without_decontamination_nothing_is_removed_and_a_warning_says_so(tmp_path, capsys):
    made = prepare("dapo_math_17k", tmp_path / "all.parquet")
    assert made.metadata["counts"]["kept"] == COUNTS["dapo_math_17k"][1] + 1
    assert made.metadata["decontamination"]["against"] == {}
    assert "warning: --decontaminate was not given" in capsys.readouterr().err


def test_the_same_sources_give_the_same_bytes_wherever_they_lie(prepared, tmp_path):
    shutil.copytree(SOURCES / "deepcoder", tmp_path / "elsewhere")
    files = [prepared[name].path for name in VALIDATION_SETS["code"]]
    options = ("--decontaminate", *files)
    made = prepare("deepcoder", tmp_path / "again.parquet", *options, source=tmp_path / "elsewhere")
    assert made.path.read_bytes() == prepared["deepcoder"].path.read_bytes()


def test_limit_stops_after_different_problems(tmp_path):
    made = prepare("dapo_math_17k", tmp_path / "few.parquet", "--limit", 3)
    assert len(made.rows) == 3
    assert made.metadata["counts"]["read"] == 4


def test_deepcoder_keeps_the_fifteen_tests_with_the_longest_inputs(prepared, tmp_path):
    def inputs(made):
        return json.loads(made.by_question("multiples of 3")["reward_model"]["ground_truth"])["inputs"]

    everything = inputs(prepare("deepcoder", tmp_path / "all.parquet", "--max-tests", "all"))
    kept = inputs(prepared["deepcoder"])
    assert (len(everything), len(kept)) == (21, 15)
    assert sorted(map(len, kept)) == sorted(map(len, everything))[-15:]


def test_starter_code_and_function_names_are_in_the_prompt(prepared):
    def prompt(name, part):
        return prepared[name].by_question(part)["prompt"][0]["content"]

    assert prompt("deepcoder", "largest gap").endswith("def largestGap(self, nums: List[int]) -> int:\n```")
    assert "Python function named `digit_product`" in prompt("deepcoder", "digit_product")
    assert "reads the input from stdin" in prompt("deepcoder", "every vowel")
    assert prompt("livecodebench", "pairs of indices").endswith(
        "def countPairs(self, nums: List[int], target: int) -> int:\n```"
    )
    assert 'swap_ends("abc")' in prompt("humanevalplus", "swap_ends")
    assert "Input:\n```\n3\n1 2 9\n" in prompt("codeforces", "Mila")
    assert "In the example five marbles" in prompt("codeforces", "Mila")


def test_the_window_of_livecodebench_can_be_moved(tmp_path):
    made = prepare("livecodebench", tmp_path / "x.parquet", "--first-date", "2023-05-01", "--last-date", "2023-12-31")
    assert [row["extra_info"]["id"] for row in made.rows] == ["inv_c"]


def test_private_tests_cannot_run_code(prepared):
    """The source has a pickle that would make this file."""
    assert "UnpicklingError" in str(prepared["livecodebench"].metadata["counts"]["malformed"])
    assert not Path("/tmp/verl_lad_pickle_was_run").exists()


def test_what_a_codeforces_rating_needs_is_in_the_metadata(prepared):
    row = prepared["codeforces"].by_question("Mila")
    assert json.loads(row["extra_info"]["metadata"])["rating"] == 1100
    assert row["extra_info"]["id"] == "9001/A"


def test_a_source_without_a_usable_row_is_an_error_and_leaves_nothing(tmp_path, capsys):
    source = tmp_path / "test.jsonl"
    source.write_text('{"problem": "1+1", "answer": "two", "id": "0"}\n')
    arguments = ["--output", str(tmp_path / "made" / "x.parquet"), "--source", str(source)]
    assert importlib.import_module("aime25").main(arguments) == 1
    error = "error: aime25: none of 1 rows can be used: {'answer is not an integer from 0 to 999': 1}\n"
    assert capsys.readouterr().err == error
    assert list((tmp_path / "made").iterdir()) == []


VALUES = [None, 5, 2.5, True, "text", "", [], {}, [5], ["a"], [{"a": 1}], {"a": 1}, [None]]
OPTIONS = Namespace(
    instruction="boxed", max_tests=None, max_test_bytes=None, first_date="2000-01-01", last_date="2030-01-01"
)


@pytest.mark.parametrize("name", COUNTS)
def test_a_column_of_any_other_type_is_a_malformed_row_and_no_traceback(name):
    recipe = importlib.import_module(name).RECIPE
    file = next((SOURCES / name).rglob("*.jsonl"))
    row = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    assert recipe.parse(row, OPTIONS).question
    for column in recipe.data_set.columns:
        for value in (*VALUES, *map(json.dumps, VALUES)):
            with contextlib.suppress(MalformedRowError, LeftOutError):
                problem = recipe.parse({**row, column: value}, OPTIONS)
                assert all(isinstance(part, str) for part in (problem.question, problem.prompt, problem.ground_truth))


def test_a_wrong_type_is_named_with_its_column_and_what_is_allowed():
    row = {"prompt": "What is 1+1?", "reward_model": {"ground_truth": "2"}, "extra_info": None}
    parse = importlib.import_module("dapo_math_17k").RECIPE.parse
    for column, value, message in (
        ("reward_model", "2", "column reward_model must be dict, got str"),
        ("extra_info", [1], "column extra_info must be dict or null, got list"),
        ("prompt", 5, "column prompt must be list or str or null, got int"),
        ("prompt", [5], "no text in the first message's content of column prompt"),
    ):
        with pytest.raises(MalformedRowError, match=message):
            parse({**row, column: value}, OPTIONS)


def test_the_processed_copy_of_dapo_math_has_its_problem_as_text(tmp_path):
    source = tmp_path / "processed.jsonl"
    row = {"prompt": "Find 1+1.", "solution": "2", "data_source": "math_dapo", "ability": "MATH"}
    row |= {"reward_model": {"ground_truth": "2", "style": "rule"}, "extra_info": {"index": "a"}}
    source.write_text(json.dumps(row) + "\n")
    made = prepare("dapo_math_17k", tmp_path / "x.parquet", source=source)
    (made_row,) = made.rows
    assert made_row["extra_info"]["question"] == "Find 1+1."
    assert made_row["prompt"][0]["content"] == DAPO_PREFIX + "Find 1+1." + DAPO_SUFFIX
    assert made_row["reward_model"]["ground_truth"] == "2"


@pytest.mark.parametrize("name", ["aime25", "math500", "minerva"])
def test_an_answer_that_a_reader_made_an_integer_is_read(name):
    row = {"problem": "1+1", "question": "1+1", "answer": 2, "id": "0", "unique_id": "0", "subject": "", "level": 1}
    assert importlib.import_module(name).RECIPE.parse(row, OPTIONS).ground_truth == "2"


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for output, message in (
        (tmp_path, "is a directory; allowed is the path of a parquet file"),
        (tmp_path / "file" / "x.parquet", "its directory cannot be made: "),
    ):
        arguments = ["--output", str(output), "--source", str(SOURCES / "aime25")]
        assert importlib.import_module("aime25").main(arguments) == 1
        assert capsys.readouterr().err.startswith(f"error: aime25: --output {output}: {message}")


def test_a_source_without_rows_is_named(tmp_path, capsys):
    (tmp_path / "test.csv").write_text("problem,answer,id\n")
    arguments = ["--output", str(tmp_path / "x.parquet"), "--source", str(tmp_path / "test.csv")]
    assert importlib.import_module("aime25").main(arguments) == 1
    assert capsys.readouterr().err == f"error: aime25: {tmp_path}/test.csv: has no rows\n"


def test_a_training_set_that_is_all_contaminated_is_an_error(prepared, tmp_path, capsys):
    source = tmp_path / "train.jsonl"
    (line,) = (line for line in (SOURCES / "dapo_math_17k/data/dapo-math-17k.jsonl").open() if "three positive" in line)
    source.write_text(line)
    arguments = ["--output", str(tmp_path / "x.parquet"), "--source", str(source)]
    arguments += ["--decontaminate", str(prepared["aime24"].path)]
    assert importlib.import_module("dapo_math_17k").main(arguments) == 1
    assert "all 1 problems conflict or overlap with a validation set" in capsys.readouterr().err


def test_every_program_is_tested_and_in_the_readme():
    programs = {path.stem for path in PROGRAMS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert programs == set(COUNTS)
    readme = (PROGRAMS / "README.md").read_text(encoding="utf-8")
    for name in programs:
        assert f"`{name}.py`" in readme
        assert importlib.import_module(name).DATA_SET.repository in readme
