"""Tests of programming problems in the format of our code reward: a JSON string of one of three types.

{"type": "stdin", "inputs": [str, ...], "outputs": [str, ...]}
{"type": "function", "fn_name": str, "inputs": [[argument, ...], ...], "outputs": [value, ...]}
{"type": "asserts", "entry_point": str, "test": str}
"""

import argparse
import json
from typing import Any

from errors import LeftOutError, MalformedRowError


def add_limits(parser: argparse.ArgumentParser, max_tests: int | None, max_test_bytes: int | None, source: str) -> None:
    """Add the options --max-tests and --max-test-bytes.

    Args:
        parser: the program's parser.
        max_tests: default; None for all tests.
        max_test_bytes: default; None for tests of any size.
        source: where the defaults come from, for the help.
    """
    parser.add_argument(
        "--max-tests", type=_limit, default=max_tests, help=f"tests a problem, those with the longest inputs; {source}"
    )
    parser.add_argument(
        "--max-test-bytes", type=_limit, default=max_test_bytes, help="larger tests, input and output, are left out"
    )


def _limit(argument: str) -> int | None:
    if argument == "all":
        return None
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument!r} is not allowed: a whole number from 1, or all")
    return int(argument)


def load_tests(content: Any) -> Any:
    """Parse a column that holds JSON.

    Args:
        content: the column's value.

    Returns:
        What the JSON says.

    Raises:
        MalformedRowError: if it is no JSON, or empty.
    """
    try:
        tests = json.loads(content)
    except (TypeError, ValueError):
        raise MalformedRowError("tests are not JSON") from None
    if not tests:
        raise MalformedRowError("no tests")
    return tests


def stdin_tests(pairs: list[tuple[Any, Any]], arguments: argparse.Namespace) -> str:
    """Return the tests of a program.

    Args:
        pairs: what is on stdin, and what must be on stdout; a list of lines is joined.
        arguments: the options of `add_limits`.

    Returns:
        JSON of type "stdin".

    Raises:
        MalformedRowError: if there is no test, or one is no text.
        LeftOutError: if all tests are too large.
    """
    texts = [(_lines(given), _lines(expected)) for given, expected in pairs]
    chosen = _choose(texts, arguments)
    return json.dumps({"type": "stdin", "inputs": [i for i, _ in chosen], "outputs": [o for _, o in chosen]})


def function_tests(fn_name: str, pairs: list[tuple[Any, Any]], arguments: argparse.Namespace) -> str:
    """Return the tests of a function, as APPS and its descendants (TACO, SYNTHETIC-1) and LiveCodeBench write them.

    LiveCodeBench writes one JSON value a line for the arguments and JSON for the result. APPS writes a list of
    arguments, and mostly a list of one result: if the expected outputs of all tests are lists of one, they are
    unwrapped. A problem whose right results are such lists in every single test would suffer.

    Args:
        fn_name: name of the function, or of the method of class Solution.
        pairs: arguments and result.
        arguments: the options of `add_limits`.

    Returns:
        JSON of type "function".

    Raises:
        MalformedRowError: if there is no test, or one is not in either format.
        LeftOutError: if all tests are too large.
    """
    if all(isinstance(given, str) for given, _ in pairs):
        pairs = [([_value(line) for line in given.split("\n")], _value(expected)) for given, expected in pairs]
    elif not all(isinstance(given, list) for given, _ in pairs):
        raise MalformedRowError("arguments of a function are not a list")
    elif all(isinstance(expected, list) and len(expected) == 1 for _, expected in pairs):
        pairs = [(given, expected[0]) for given, expected in pairs]
    chosen = _choose(pairs, arguments)
    inputs, outputs = [i for i, _ in chosen], [o for _, o in chosen]
    return json.dumps({"type": "function", "fn_name": fn_name, "inputs": inputs, "outputs": outputs})


def _choose(pairs: list[tuple[Any, Any]], arguments: argparse.Namespace) -> list[tuple[Any, Any]]:
    """Return the tests with the longest inputs among those that are not too large, in their order."""
    if not pairs:
        raise MalformedRowError("no tests")
    sizes = [(_size(given), _size(expected)) for given, expected in pairs]
    limit = arguments.max_test_bytes
    fitting = [i for i, (given, expected) in enumerate(sizes) if limit is None or given + expected <= limit]
    if not fitting:
        raise LeftOutError(f"all tests larger than {limit} bytes")
    longest = sorted(fitting, key=lambda i: sizes[i][0], reverse=True)[: arguments.max_tests]
    return [pairs[i] for i in sorted(longest)]


def _size(value: Any) -> int:
    return len((value if isinstance(value, str) else json.dumps(value)).encode("utf-8"))


def _lines(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise MalformedRowError("input or output of a program is not text")
    return value


def _value(line: Any) -> Any:
    try:
        return json.loads(line)
    except (TypeError, ValueError):
        raise MalformedRowError("argument or result of a function is not JSON") from None
