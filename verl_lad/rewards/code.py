"""Reward a program: 1.0 if it passes all tests, else 0.0 (the sparse reward of DeepCoder).

Ground truth: a JSON object in a string, one of

    {"type": "stdin", "inputs": [str, ...], "outputs": [str, ...]}
    {"type": "function", "fn_name": str, "inputs": [[argument, ...], ...], "outputs": [value, ...]}
    {"type": "asserts", "entry_point": str, "test": "source that defines check(candidate)"}

Programs run in sandbox.py, or in verl's Sandbox Fusion if `sandbox_fusion_url` is given. Which evaluator each benchmark
agrees with:

| data_source | evaluator | outputs and values |
|---|---|---|
| livecodebench | LiveCodeBench's testing_util.py | a line is the same text, or the same numbers: 3.0 is 3 |
| humanevalplus | EvalPlus | the test source decides |
| any other | LiveCodeBench's, more lenient | besides, white space, and 1e-6 for an expected decimal fraction |

As in LiveCodeBench, white space around the output and each line does not matter, `exit(1)` after the right output is
right, integers may have 50,000 digits, and a wanted function comes from a module that is not `__main__`, so that what
follows `if __name__ == "__main__":` does not run. Values are compared as JSON sees them: a tuple is a list, also within
a list, and a key is a string.
"""

import functools
import json
import math
import os
import re
import secrets
import sys
import textwrap
import threading
from decimal import Decimal, InvalidOperation
from typing import Any

from verl_lad.rewards import sandbox

FIELDS: dict[str, dict[str, type]] = {
    "stdin": {"inputs": list, "outputs": list},
    "function": {"fn_name": str, "inputs": list, "outputs": list},
    "asserts": {"entry_point": str, "test": str},
}
TOLERANCE = 1e-6
EXACT_SOURCES = ("livecodebench",)
# verl starts 8 reward workers (reward.num_workers), on one node or several.
MAX_CONCURRENT = max(1, (os.cpu_count() or 1) // 8)
OPENING_FENCE = re.compile(r"^[ \t]*(`{3,})[ \t]*([\w.#+-]*)[^`\n]*$|(?<!`)(`{3,})[ \t]*([\w.#+-]*)[ \t]*$")
CLOSING_FENCE = re.compile(r"^(.*?)(`{3,})[ \t]*(?:</?\w+>[ \t]*)*$|^([ \t]*)(`{3,})(?!`)")
RESTART = re.compile(r"^[ \t]*`{3,}[ \t]*\w[\w.#+-]*[ \t]*$")
PYTHON = re.compile(r"py(thon)?[\d.]*")
DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
# Runs the program as a module, and hands its names to what follows.
FUSION_PROGRAM = """
import sys, types
if sys.version_info >= (3, 10, 7):
    sys.set_int_max_str_digits({digits})
_module = types.ModuleType({name!r})
_module.__dict__.update({{key: value for key, value in globals().items() if not key.startswith("_")}})
sys.modules.setdefault({name!r}, _module)
try:
    exec(compile({program!r}, "<program>", "exec"), _module.__dict__)
except SystemExit:
    if {name!r} != "__main__":
        raise
globals().update({{key: value for key, value in vars(_module).items() if not key.startswith("__")}})
"""

# Ground truths and answers with long integers are JSON that this process reads.
if sys.version_info >= (3, 10, 7) and 0 < sys.get_int_max_str_digits() < sandbox.INTEGER_DIGITS:
    sys.set_int_max_str_digits(sandbox.INTEGER_DIGITS)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    time_limit: float = 10.0,
    memory_mb: int = 1024,
    max_tests: int | None = None,
    max_concurrent: int = MAX_CONCURRENT,
    sandbox_fusion_url: str | None = None,
    **kwargs: Any,
) -> dict[str, float | str]:
    """Score a response that should contain a program. For verl's `reward.custom_reward_function`.

    Args:
        data_source: name of the data set or benchmark.
        solution_str: the response; see `extract_program`.
        ground_truth: the tests, as above.
        extra_info: not used.
        time_limit: CPU seconds a test ("asserts": of all together); wall time is limited to four times as much.
            Default: that of verl's sandbox_fusion.
        memory_mb: address space of a program. Default: verl's `reward.sandbox_fusion.memory_limit_mb`.
        max_tests: how many of the tests count, from the first; None: all.
        max_concurrent: programs that run at once in this process; verl starts `reward.num_workers` of them.
        sandbox_fusion_url: address of a Sandbox Fusion service, ending in /run_code; None: run programs here.
        **kwargs: what else verl passes; not used.

    Returns:
        The keys that the package's docstring names; "solution" is a digest of the program without comments, docstrings,
        formatting and choice of names (of its stripped text, if Python cannot parse it), "" without a program.

    Raises:
        ValueError: if the ground truth is not as above, or an option is out of range.
        SandboxError: if model-written code cannot be confined here.
        ConnectionError: if Sandbox Fusion does not answer.
    """
    tests = parse_tests(ground_truth, max_tests)
    tolerance = 0.0 if data_source in EXACT_SOURCES else TOLERANCE
    limits = sandbox.Limits(time_limit, memory_mb)
    program = extract_program(solution_str)
    passed, label = False, ""
    if program is not None and sandbox_fusion_url is not None:
        passed = _passes_in_fusion(program, tests, tolerance, limits, sandbox_fusion_url, _slots(max_concurrent))
        label = sandbox.label(program, limits)
    elif program is not None:
        with _slots(max_concurrent):
            passed, label = _passes(program, tests, tolerance, limits)
    return {"score": float(passed), "acc": float(passed), "solution": label, "benchmark": data_source}


def extract_program(response: str) -> str | None:
    """Find the program in a response.

    A fence opens at the start of a line, or at its end behind other text. It closes at the start of a line, whatever
    follows, or at the end of a line behind code, with as many backticks or more.

    Args:
        response: the text of the model.

    Returns:
        The last complete block fenced with ```python, ```py or the like after the last </think>; else the last fenced
        without a language; None without either. Its common indentation is removed.
    """
    last: dict[str, str] = {}  # block by language
    language: str | None = None  # of the block that is open
    ticks = 0
    block: list[str] = []
    for line in response.rpartition("</think>")[2].splitlines():
        if language is not None and not RESTART.match(line):
            code = _before_closing_fence(line, ticks)
            if code is None:
                block.append(line)
                continue
            block += [code] if code.strip() else []
            last[language] = "".join(f"{one}\n" for one in block)
            language = None
        elif fence := OPENING_FENCE.search(line):
            name = (fence[2] or fence[4] or "").lower()
            language, block = "python" if PYTHON.fullmatch(name) else name, []
            ticks = len(fence[1] or fence[3])
    program = last.get("python", last.get(""))
    return None if program is None else textwrap.dedent(program)


def _before_closing_fence(line: str, ticks: int) -> str | None:
    """Return the code before the fence that closes a block; None if the line has none."""
    match = CLOSING_FENCE.match(line)
    if match is None or len(match[2] or match[4]) < ticks:
        return None
    return match[1] or ""


def parse_tests(ground_truth: str, max_tests: int | None = None) -> dict[str, Any]:
    """Read the tests of a problem.

    Args:
        ground_truth: JSON, as the module's docstring says.
        max_tests: how many to keep, from the first; None: all.

    Returns:
        The JSON object, with "inputs" and "outputs" cut to `max_tests`.

    Raises:
        ValueError: if it is something else, or there is no test.
    """
    if max_tests is not None and max_tests < 1:
        raise ValueError(f"max_tests must be at least 1, or None for all, got {max_tests!r}")
    if not isinstance(ground_truth, str):
        raise ValueError(f"ground_truth must be JSON in a str, got {_described(ground_truth)}")
    try:
        tests = json.loads(ground_truth)
    except ValueError as error:
        raise ValueError(f"ground_truth must be JSON, got {ground_truth[:80]!r}: {error}") from error
    kind = tests.get("type") if isinstance(tests, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError(f'ground_truth: "type" must be one of {", ".join(FIELDS)}, got {kind!r}')
    for field, wanted in FIELDS[kind].items():
        if not isinstance(tests.get(field), wanted):
            raise ValueError(
                f'ground_truth of type {kind!r}: "{field}" must be a {wanted.__name__}, got {tests.get(field)!r}'
            )
    if kind != "asserts":
        if not tests["inputs"] or len(tests["inputs"]) != len(tests["outputs"]):
            count = f"{len(tests['inputs'])} and {len(tests['outputs'])}"
            raise ValueError(f'ground_truth: "inputs" and "outputs" must be as many, and not empty; got {count}')
        elements = {"inputs": str, "outputs": str} if kind == "stdin" else {"inputs": list}
        for field, wanted in elements.items():
            for index, value in enumerate(tests[field]):
                if not isinstance(value, wanted):
                    raise ValueError(
                        f'ground_truth of type {kind!r}: "{field}"[{index}] must be a {wanted.__name__}, '
                        f"got {_described(value)}"
                    )
        tests["inputs"], tests["outputs"] = tests["inputs"][:max_tests], tests["outputs"][:max_tests]
    return tests


def _described(value: Any) -> str:
    return f"{value!r:.80} of type {type(value).__name__}"


def same_output(output: str, expected: str, tolerance: float = TOLERANCE) -> bool:
    """Tell whether a program's standard output is the expected one (the module's docstring says what counts).

    Args:
        output: what the program printed.
        expected: what it should have printed.
        tolerance: absolute and relative difference that an expected decimal fraction allows; 0 compares as
            LiveCodeBench does.

    Returns:
        True if so.
    """
    lines, expected_lines = (text.strip().split("\n") for text in (output, expected))
    return len(lines) == len(expected_lines) and all(
        _same_line(line.strip(), expected_line.strip(), tolerance)
        for line, expected_line in zip(lines, expected_lines, strict=True)
    )


def _same_line(line: str, expected: str, tolerance: float) -> bool:
    if line == expected:
        return True
    words, expected_words = line.split(), expected.split()
    if len(words) != len(expected_words):
        return False
    pairs = list(zip(words, expected_words, strict=True))
    if all(_same_number(*pair) for pair in pairs):
        return True
    return tolerance > 0 and all(_same_word(*pair, tolerance) for pair in pairs)


def _same_number(word: str, expected: str) -> bool:
    try:
        value, expected_value = Decimal(word), Decimal(expected)
    except InvalidOperation:
        return False
    return not value.is_nan() and not expected_value.is_nan() and value == expected_value


def _same_word(word: str, expected: str, tolerance: float) -> bool:
    if word == expected or _same_number(word, expected):
        return True
    if not DECIMAL.fullmatch(expected):
        return False
    try:
        value = float(word)
    except ValueError:
        return False
    return math.isclose(value, float(expected), rel_tol=tolerance, abs_tol=tolerance)


def same_value(value: Any, expected: Any, tolerance: float = TOLERANCE) -> bool:
    """Tell whether a function returned the expected value, both as read from JSON.

    Args:
        value: what it returned.
        expected: what it should have returned.
        tolerance: absolute and relative difference that two floats may have.

    Returns:
        True if so.
    """
    if isinstance(expected, list):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(same_value(one, other, tolerance) for one, other in zip(value, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(same_value(value[key], expected[key], tolerance) for key in expected)
        )
    if isinstance(expected, float) and isinstance(value, float):
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    return bool(value == expected)


@functools.cache
def _slots(number: int) -> threading.BoundedSemaphore:
    if number < 1:
        raise ValueError(f"max_concurrent must be at least 1, got {number!r}")
    return threading.BoundedSemaphore(number)


def _passes(program: str, tests: dict[str, Any], tolerance: float, limits: sandbox.Limits) -> tuple[bool, str]:
    """Run the tests on this machine up to the first that fails; return whether all pass, and the program's label."""
    if tests["type"] == "asserts":
        passed, outcome = sandbox.check_function(program, tests["entry_point"], tests["test"], limits)
        return passed, outcome.label
    if tests["type"] == "function":
        outcome = sandbox.call_function(program, tests["fn_name"], tests["inputs"], limits, label=True)
        answers = outcome.output.decode(errors="replace").splitlines()
        passed = len(answers) == len(tests["outputs"]) and all(
            _same_json(line, expected, tolerance) for line, expected in zip(answers, tests["outputs"], strict=True)
        )
        return passed and outcome.exit_code == 0, outcome.label
    label = ""
    for stdin, expected in zip(tests["inputs"], tests["outputs"], strict=True):
        outcome = sandbox.run_program(program, stdin, limits, label=not label)
        label = label or outcome.label
        if outcome.exit_code != 0 or not same_output(outcome.output.decode(errors="replace"), expected, tolerance):
            return False, label
    return True, label


def _same_json(line: str, expected: Any, tolerance: float) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # a program can write there what it likes
        return False
    return same_value(value, expected, tolerance)


def _passes_in_fusion(
    program: str,
    tests: dict[str, Any],
    tolerance: float,
    limits: sandbox.Limits,
    url: str,
    slots: threading.BoundedSemaphore,
) -> bool:
    """Run the tests in verl's Sandbox Fusion; what it answers is compared here.

    For "asserts" program and test share a process there, and a program that looks for it can find the word whose
    printing means success.
    """
    from verl.utils.reward_score.sandbox_fusion.utils import check_correctness  # brings torch, so not at the top

    cases: dict[str, Any] = {"inputs": tests.get("inputs", [""])}
    if tests["type"] == "function":
        # verl's wrapper reads a line of JSON for each argument, and prints the value.
        cases = {"inputs": ["\n".join(map(json.dumps, arguments)) for arguments in tests["inputs"]]}
        cases["fn_name"] = tests["fn_name"]
    passed = secrets.token_hex(16)
    if tests["type"] == "asserts":
        cases["assert_case"] = [f"{tests['test']}\ncheck({tests['entry_point']})\nprint({passed!r})\n"]
    cases["outputs"] = [None] * len(cases["inputs"])  # "anything": it compares exactly, which fits none of our types
    name = "__main__" if tests["type"] == "stdin" else sandbox.MODULE
    program = FUSION_PROGRAM.format(digits=sandbox.INTEGER_DIGITS, name=name, program=program)
    _, results = check_correctness(
        url, cases, program, math.ceil(limits.seconds), limits.memory_mb, concurrent_semaphore=slots
    )
    for result, expected in zip(results, tests.get("outputs", [passed]), strict=True):
        if result["status"] == "api_error":
            raise ConnectionError(f"sandbox_fusion_url={url!r}: {result['api_request_error']}")
        if result["status"] != "success":
            return False
        output = result["stdout"] or ""
        if tests["type"] == "stdin":
            same = same_output(output, expected, tolerance)
        elif tests["type"] == "function" and not isinstance(expected, str):
            same = _same_json(output.rstrip("\n").rpartition("\n")[2], expected, tolerance)
        else:  # after whatever the program printed itself
            same = f"\n{output.rstrip(chr(10))}".endswith(f"\n{expected}")
        if not same:
            return False
    return True
