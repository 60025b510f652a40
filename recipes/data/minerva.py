"""Minerva's OCWCourses for validation: 272 undergraduate problems of MIT courses (Lewkowycz et al. 2022, 2206.14858).

Columns read: question, answer.
"""

import argparse
from typing import Any

from instructions import math_prompt
from preparation import Problem, Recipe, answer, run, text
from source import DataSet

DATA_SET = DataSet(
    name="minerva",
    repository="math-ai/minervamath",
    split="test",
    columns=("question", "answer"),
    local_files=("test*", "data/test*"),
    licence="not known to us; MIT OpenCourseWare is CC BY-NC-SA 4.0: check",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of math-ai/minervamath."""
    question = text(row, "question")
    return Problem(question, math_prompt(question, arguments.instruction), answer(row, "answer"))


RECIPE = Recipe(DATA_SET, data_source="minerva", ability="math", split="test", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
