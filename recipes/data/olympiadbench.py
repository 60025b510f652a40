"""OlympiadBench for validation: its 674 open-ended English competition problems in text (He et al. 2024, 2402.14008).

Columns read: question, context, final_answer, id, answer_type, is_multiple_answer, unit, error, subfield. The last four
tell a judge how an answer should look; they go into the row's metadata, and the prompt does not mention them, unlike
that of the authors' own evaluator.
"""

import argparse
import re
from typing import Any

from errors import MalformedRowError
from instructions import math_prompt
from preparation import Problem, Recipe, run, text, typed
from source import DataSet

DATA_SET = DataSet(
    name="olympiadbench",
    repository="Hothan/OlympiadBench",
    split="train",
    columns=(
        "question",
        "context",
        "final_answer",
        "id",
        "answer_type",
        "is_multiple_answer",
        "unit",
        "error",
        "subfield",
    ),
    local_files=("OE_TO_maths_en_COMP*", "**/OE_TO_maths_en_COMP/*"),
    licence="apache-2.0 as far as we know: check",
    configs=("OE_TO_maths_en_COMP",),
)
DOLLAR = re.compile(r"(?<!\\)\$")


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of OlympiadBench. Several answers are one, joined by commas, as in the source."""
    question = text(row, "question")
    if context := typed(row, "context", str, type(None)):
        question = f"{context.strip()}\n{question}"
    final_answer = typed(row, "final_answer", list, type(None)) or []
    answers = [DOLLAR.sub("", answer).strip() for answer in final_answer if isinstance(answer, str)]
    if not answers or not all(answers) or len(answers) < len(final_answer):
        raise MalformedRowError("no text in column final_answer")
    columns = ("answer_type", "is_multiple_answer", "unit", "error", "subfield")
    metadata = {column: row[column] for column in columns}
    prompt = math_prompt(question, arguments.instruction)
    return Problem(question, prompt, ", ".join(answers), str(row["id"]), metadata)


RECIPE = Recipe(DATA_SET, data_source="olympiadbench", ability="math", split="test", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
