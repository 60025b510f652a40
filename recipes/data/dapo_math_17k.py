"""DAPO-Math-17k for training: 1.79 M rows, of which each of the 17 k problems takes about a hundred.

Columns read: prompt, reward_model, extra_info. The set's instruction is taken off and put on again, or another one. The
processed copies of the set are read as well: their prompt is the problem alone, as text.
"""

import argparse
from typing import Any

from errors import MalformedRowError
from instructions import DAPO_PREFIX, DAPO_SUFFIX, math_prompt
from preparation import Problem, Recipe, answer, run, text, typed
from source import DataSet

DATA_SET = DataSet(
    name="dapo_math_17k",
    repository="BytedTsinghua-SIA/DAPO-Math-17k",
    split="train",
    columns=("prompt", "reward_model", "extra_info"),
    local_files=("data/*", "*"),
    licence="apache-2.0",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of DAPO-Math-17k."""
    question = _question(row)
    ground_truth = answer(typed(row, "reward_model", dict), "ground_truth")
    index = (typed(row, "extra_info", dict, type(None)) or {}).get("index")
    return Problem(question, math_prompt(question, arguments.instruction), ground_truth, str(index or ""))


def _question(row: dict[str, Any]) -> str:
    prompt = typed(row, "prompt", list, str, type(None))
    if not prompt:
        raise MalformedRowError("no message in column prompt")
    if isinstance(prompt, str) and not prompt.startswith(DAPO_PREFIX):
        return text(row, "prompt")
    if isinstance(prompt, str):
        content = prompt
    elif isinstance(prompt[0], dict) and isinstance(prompt[0].get("content"), str):
        content = prompt[0]["content"]
    else:
        raise MalformedRowError("no text in the first message's content of column prompt")
    if not (content.startswith(DAPO_PREFIX) and content.endswith(DAPO_SUFFIX)):
        raise MalformedRowError("prompt without the data set's instruction")
    question = content[len(DAPO_PREFIX) : -len(DAPO_SUFFIX)].strip()
    if not question:
        raise MalformedRowError("prompt without a problem")
    return question


RECIPE = Recipe(DATA_SET, data_source="math_dapo", ability="math", split="train", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
