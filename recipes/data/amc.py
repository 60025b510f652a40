"""AMC for validation: 83 problems of AMC 12 2022 and 2023 whose answers are numbers, collected by AI-MO (Numina).

Columns read: problem, answer (a float), id, url.
"""

import argparse
import math
from typing import Any

from errors import MalformedRowError
from instructions import math_prompt
from preparation import Problem, Recipe, run, text
from source import DataSet

DATA_SET = DataSet(
    name="amc",
    repository="AI-MO/aimo-validation-amc",
    split="train",
    columns=("problem", "answer", "id", "url"),
    local_files=("train*", "data/train*"),
    licence="apache-2.0 as far as we know; the problems are the MAA's: check",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of AI-MO/aimo-validation-amc; 142.0 becomes "142"."""
    question = text(row, "problem")
    answer = row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
        raise MalformedRowError("answer is not a number")
    ground_truth = str(int(answer)) if answer == int(answer) else str(answer)
    prompt = math_prompt(question, arguments.instruction)
    return Problem(question, prompt, ground_truth, str(row["id"]), {"url": row["url"]})


RECIPE = Recipe(DATA_SET, data_source="amc", ability="math", split="test", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
