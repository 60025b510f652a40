"""GSM8K (Cobbe et al. 2021) for training and, with `--split test`, for validation: word problems answered by a number.

Columns read: question, answer. The answer is a worked solution that ends in "#### NUMBER". The ground truth is this
number without its commas, as verl's reward for "openai/gsm8k" compares it.
"""

import argparse
import re
from dataclasses import replace
from typing import Any

from errors import MalformedRowError
from instructions import GSM8K_SUFFIX
from preparation import Problem, Recipe, run, text
from source import DataSet

NUMBER = re.compile(r"#### (-?[0-9.,]*[0-9])$")
SPLITS = ("train", "test")
DATA_SET = DataSet(
    name="gsm8k",
    repository="openai/gsm8k",
    split="train",
    columns=("question", "answer"),
    local_files=("main/train-*", "train"),
    licence="mit",
    configs=("main",),
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of GSM8K."""
    question = text(row, "question")
    number = NUMBER.search(text(row, "answer"))
    if number is None:
        raise MalformedRowError('answer does not end in "#### NUMBER"')
    return Problem(question, question + GSM8K_SUFFIX, number[1].replace(",", ""))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, default="train", help="the hub's: train or test")


RECIPE = Recipe(
    DATA_SET,
    data_source="openai/gsm8k",
    ability="math",
    split="train",
    parse=parse,
    add_arguments=_add_arguments,
    one_instruction=True,
)


def main(argv: list[str] | None = None) -> int:
    """Run the program. The split decides about the other options, so it is read first."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_arguments(parser)
    split = parser.parse_known_args(argv)[0].split
    data_set = replace(DATA_SET, split=split, local_files=(f"main/{split}-*", split))
    return run(replace(RECIPE, data_set=data_set, split=split), __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
