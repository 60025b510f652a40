"""MATH-500 for validation: 500 problems of MATH (Hendrycks et al. 2021), chosen by Lightman et al. 2023.

Columns read: problem, answer, unique_id, subject, level.
"""

import argparse
from typing import Any

from instructions import math_prompt
from preparation import Problem, Recipe, answer, run, text
from source import DataSet

DATA_SET = DataSet(
    name="math500",
    repository="HuggingFaceH4/MATH-500",
    split="test",
    columns=("problem", "answer", "unique_id", "subject", "level"),
    local_files=("test",),
    licence="none stated on the card that we know of; MATH itself (github.com/hendrycks/math) is MIT: check",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of MATH-500."""
    question = text(row, "problem")
    metadata = {"subject": row["subject"], "level": row["level"]}
    prompt = math_prompt(question, arguments.instruction)
    return Problem(question, prompt, answer(row, "answer"), str(row["unique_id"]), metadata)


RECIPE = Recipe(DATA_SET, data_source="math500", ability="math", split="test", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
