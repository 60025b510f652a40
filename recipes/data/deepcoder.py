"""DeepCoder-Preview for training: its training splits primeintellect (SYNTHETIC-1), taco (TACO Verified) and lcbv5.

Columns read: problem, tests, and of lcbv5 starter_code and metadata. The set's fourth configuration, codeforces, and
lcbv5's split "test" are for validation and not read.
"""

import argparse
import json
from typing import Any

from code_tests import add_limits, function_tests, load_tests, stdin_tests
from errors import MalformedRowError
from instructions import function_prompt, named_function_prompt, stdin_prompt
from preparation import Problem, Recipe, run, text, typed
from source import DataSet

DATA_SET = DataSet(
    name="deepcoder",
    repository="agentica-org/DeepCoder-Preview-Dataset",
    split="train",
    columns=("problem", "tests"),
    local_files=("primeintellect/train*", "taco/train*", "lcbv5/train*"),
    licence="mit as far as we know; its sources have their own: check",
    configs=("primeintellect", "taco", "lcbv5"),
)
# DeepCoder's own reward runs the 15 tests with the longest inputs (rllm/rewards/code_reward.py, check_correctness).
MAX_TESTS = 15
# Ours: of the problems with a test of megabytes, the other tests remain.
MAX_TEST_BYTES = 1_000_000


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of any of the three configurations, which differ in how they write tests."""
    question = text(row, "problem")
    tests = load_tests(row["tests"])
    try:
        if isinstance(tests, dict):  # taco
            fn_name = tests.get("fn_name")
            pairs = list(zip(tests["inputs"], tests["outputs"], strict=True))
        else:  # primeintellect: fn_name; lcbv5: testtype, and the name in metadata
            fn_name = tests[0].get("fn_name")
            if tests[0].get("testtype") == "functional":
                fn_name = _function_name(row, tests[0])
            pairs = [(test["input"], test["output"]) for test in tests]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MalformedRowError("tests in a format unknown to us") from None
    if not isinstance(fn_name, (str, type(None))):
        raise MalformedRowError("tests in a format unknown to us")
    starter_code = typed(row, "starter_code", str, type(None)) or ""
    if not fn_name:
        return Problem(question, stdin_prompt(question), stdin_tests(pairs, arguments))
    prompt = function_prompt(question, starter_code) if starter_code else named_function_prompt(question, fn_name)
    return Problem(question, prompt, function_tests(fn_name, pairs, arguments))


def _function_name(row: dict[str, Any], test: dict[str, Any]) -> str:
    """Of a functional test of lcbv5: in the row's metadata, or in the test's."""
    for metadata in (row.get("metadata"), test.get("metadata")):
        if isinstance(metadata, str):
            metadata = json.loads(metadata)
        if metadata and metadata.get("func_name"):
            return metadata["func_name"]
    raise MalformedRowError("functional tests without a function's name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the limits of tests."""
    add_limits(parser, MAX_TESTS, MAX_TEST_BYTES, "default: DeepCoder's 15")


RECIPE = Recipe(DATA_SET, "deepcoder", ability="code", split="train", parse=parse, add_arguments=add_arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
