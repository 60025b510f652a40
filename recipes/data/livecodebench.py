"""LiveCodeBench for validation: code_generation_lite, by default the window on which DeepCoder reports.

Columns read: question_title, question_content, question_id, contest_date, starter_code, public_test_cases,
private_test_cases, metadata, platform, difficulty. Private tests are JSON, or base64 of zlib of a pickled JSON string.
"""

import argparse
import base64
import datetime
import io
import json
import pickle
import zlib
from typing import Any

from code_tests import add_limits, function_tests, load_tests, stdin_tests
from errors import LeftOutError, MalformedRowError
from instructions import function_prompt, stdin_prompt
from preparation import Problem, Recipe, run, text
from source import DataSet

DATA_SET = DataSet(
    name="livecodebench",
    repository="livecodebench/code_generation_lite",
    split="test",
    columns=(
        "question_content",
        "question_id",
        "contest_date",
        "starter_code",
        "public_test_cases",
        "private_test_cases",
        "metadata",
        "platform",
        "difficulty",
    ),
    local_files=("test*",),
    licence="cc, without a version, as others quote the card; the problems are the contests': check",
    hub_files="test*.jsonl",
)


# What a pickle that is none, or of something else, raises (documentation of pickle, and KeyError for its memo).
UNPICKLING_ERRORS = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError, OverflowError,
)  # fmt: skip


class _StringUnpickler(pickle.Unpickler):
    """A pickle can run any code while it is loaded, by naming a class or function. A string needs none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def private_tests(encoded: str) -> list[dict[str, str]]:
    """Decode private tests.

    Args:
        encoded: JSON, or base64 of zlib of a pickled JSON string.

    Returns:
        The tests.

    Raises:
        MalformedRowError: if it is anything else, also a pickle of anything but a string.
    """
    if encoded.lstrip().startswith("["):
        return load_tests(encoded)
    try:
        compressed = base64.b64decode(encoded, validate=True)
        content = _StringUnpickler(io.BytesIO(zlib.decompress(compressed))).load()
    except (ValueError, zlib.error, *UNPICKLING_ERRORS) as error:
        raise MalformedRowError(f"private tests cannot be decoded: {type(error).__name__}") from None
    if not isinstance(content, str):
        raise MalformedRowError(f"private tests are a pickled {type(content).__name__}, not a string")
    return load_tests(content)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of code_generation_lite."""
    try:
        date = datetime.date.fromisoformat(str(row["contest_date"])[:10])  # a time or text, by how the file was read
    except ValueError:
        raise MalformedRowError("contest_date is not a date") from None
    if not arguments.first_date <= date.isoformat() <= arguments.last_date:
        raise LeftOutError(f"contest outside {arguments.first_date} to {arguments.last_date}")
    question = text(row, "question_content")
    tests = [load_tests(text(row, "public_test_cases")), private_tests(text(row, "private_test_cases"))]
    if not all(isinstance(part, list) for part in tests):
        raise MalformedRowError("tests are not a list")
    tests = [test for part in tests for test in part]
    try:
        pairs = [(test["input"], test["output"]) for test in tests]
        on_stdin = tests[0]["testtype"] == "stdin"
        fn_name = None if on_stdin else json.loads(row["metadata"])["func_name"]
    except (KeyError, TypeError, ValueError):
        raise MalformedRowError("tests or metadata in a format unknown to us") from None
    metadata = {"platform": row["platform"], "difficulty": row["difficulty"], "contest_date": date.isoformat()}
    if not isinstance(fn_name, (str, type(None))):
        raise MalformedRowError("tests or metadata in a format unknown to us")
    if fn_name is None:
        prompt, ground_truth = stdin_prompt(question), stdin_tests(pairs, arguments)
    else:
        prompt = function_prompt(question, text(row, "starter_code"))
        ground_truth = function_tests(fn_name, pairs, arguments)
    return Problem(question, prompt, ground_truth, str(row["question_id"]), metadata)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the window and the limits of tests."""
    window = "contests from this day to the last; default: DeepCoder's, 2024-08-01 to 2025-02-01"
    parser.add_argument("--first-date", type=_date, default="2024-08-01", help=window)
    parser.add_argument("--last-date", type=_date, default="2025-02-01")
    add_limits(parser, None, None, "default: all, as in the benchmark")


def _date(argument: str) -> str:
    try:
        return datetime.date.fromisoformat(argument).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument!r} is not allowed: a date, YYYY-MM-DD") from None


RECIPE = Recipe(DATA_SET, "livecodebench", ability="code", split="test", parse=parse, add_arguments=add_arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
