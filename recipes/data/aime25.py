"""AIME 2025 for validation: the 30 problems of AIME I and II.

Columns read: problem, answer, id.
"""

import argparse
from typing import Any

from errors import MalformedRowError
from instructions import math_prompt
from preparation import Problem, Recipe, answer, run, text
from source import DataSet

DATA_SET = DataSet(
    name="aime25",
    repository="math-ai/aime25",
    split="test",
    columns=("problem", "answer", "id"),
    local_files=("test*", "data/test*"),
    licence="apache-2.0, as others quote the card; the problems are the MAA's: check",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of math-ai/aime25."""
    question = text(row, "problem")
    integer = answer(row, "answer")
    if not integer.isdecimal() or int(integer) > 999:
        raise MalformedRowError("answer is not an integer from 0 to 999")
    prompt = math_prompt(question, arguments.instruction)
    return Problem(question, prompt, str(int(integer)), str(row["id"]))


RECIPE = Recipe(DATA_SET, data_source="aime25", ability="math", split="test", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
