"""HumanEval+ for validation: HumanEval's 164 functions with EvalPlus's tests (Liu et al. 2023, 2305.01210).

Columns read: task_id, prompt, entry_point, test.
"""

import argparse
import ast
import json
from typing import Any

from errors import MalformedRowError
from instructions import function_prompt
from preparation import Problem, Recipe, run, text
from source import DataSet

DATA_SET = DataSet(
    name="humanevalplus",
    repository="evalplus/humanevalplus",
    split="test",
    columns=("task_id", "prompt", "entry_point", "test"),
    local_files=("test*", "data/test*"),
    licence="apache-2.0 as far as we know; HumanEval itself is MIT: check",
)


def parse(row: dict[str, Any], arguments: argparse.Namespace) -> Problem:
    """Make a problem of a row of HumanEval+. The statement is the docstring, so the code is the whole problem."""
    code = text(row, "prompt")
    entry_point = text(row, "entry_point")
    test = text(row, "test")
    if entry_point not in _functions(code, "prompt"):
        raise MalformedRowError("prompt does not define the entry point")
    if "check" not in _functions(test, "test"):
        raise MalformedRowError("test does not define check(candidate)")
    ground_truth = json.dumps({"type": "asserts", "entry_point": entry_point, "test": test})
    return Problem(code, function_prompt("", code).lstrip(), ground_truth, text(row, "task_id"))


def _functions(code: str, column: str) -> set[str]:
    try:
        return {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
    except (SyntaxError, ValueError, RecursionError):
        raise MalformedRowError(f"column {column} is not Python") from None


RECIPE = Recipe(DATA_SET, data_source="humanevalplus", ability="code", split="test", parse=parse)


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
