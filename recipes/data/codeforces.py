"""Codeforces for validation: open-r1/codeforces's test split, contests of late 2024 and early 2025.

Columns read: id, title, description, input_format, output_format, interaction_format, note, examples, rating,
contest_id, index, time_limit, memory_limit, official_tests, official_tests_complete, input_mode, generated_checker,
executable.
Left out, because comparing outputs with complete official tests could not judge them: problems with a checker (several
right outputs), with incomplete tests, interactive ones, those on files, and those marked as not executable. A pass
rate on the rest is not a Codeforces rating; `extra_info.metadata` has what an estimate of one needs.
"""

import argparse
from typing import Any

from code_tests import add_limits, stdin_tests
from errors import LeftOutError, MalformedRowError
from instructions import stdin_prompt
from preparation import Problem, Recipe, run, text, typed
from source import DataSet

DATA_SET = DataSet(
    name="codeforces",
    repository="open-r1/codeforces",
    split="test",
    columns=(
        "id",
        "title",
        "description",
        "input_format",
        "output_format",
        "interaction_format",
        "note",
        "examples",
        "rating",
        "contest_id",
        "index",
        "time_limit",
        "memory_limit",
        "official_tests",
        "official_tests_complete",
        "input_mode",
        "generated_checker",
        "executable",
    ),
    local_files=("test*", "data/test*"),
    licence="cc-by-4.0",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of open-r1/codeforces."""
    for unsuitable, reason in (
        (not row["executable"], "not executable"),
        (row["interaction_format"], "interactive"),
        (row["input_mode"] != "stdio", "reads or writes files"),
        (row["generated_checker"], "needs a checker"),
        (not row["official_tests_complete"], "official tests incomplete"),
    ):
        if unsuitable:
            raise LeftOutError(reason)
    parts = [f"# {text(row, 'title')}", text(row, "description")]
    for title, column in (("Input", "input_format"), ("Output", "output_format")):
        if content := typed(row, column, str, type(None)):
            parts.append(f"## {title}\n{content.strip()}")
    question = "\n\n".join(parts)
    for given, expected in _pairs(row, "examples"):
        parts.append(f"## Example\nInput:\n```\n{given}\n```\nOutput:\n```\n{expected}\n```")
    if note := typed(row, "note", str, type(None)):
        parts.append(f"## Note\n{note.strip()}")
    pairs = _pairs(row, "official_tests")
    columns = ("rating", "contest_id", "index", "time_limit", "memory_limit")
    metadata = {column: row[column] for column in columns}
    prompt = stdin_prompt("\n\n".join(parts))
    return Problem(question, prompt, stdin_tests(pairs, arguments), str(row["id"]), metadata)


def _pairs(row: dict[str, Any], column: str) -> list[tuple[Any, Any]]:
    tests = typed(row, column, list, type(None)) or []
    if not all(isinstance(test, dict) and {"input", "output"} <= test.keys() for test in tests):
        raise MalformedRowError(f"column {column} is not a list of input and output")
    return [(test["input"], test["output"]) for test in tests]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the limits of tests."""
    add_limits(parser, None, None, "default: all, as in the contest")


RECIPE = Recipe(DATA_SET, "codeforces", ability="code", split="test", parse=parse, add_arguments=add_arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
