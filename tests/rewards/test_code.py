"""The reward of programs: right ones get 1.0, wrong ones 0.0, and what cannot be graded is an error."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from verl_lad.rewards import code
from verl_lad.rewards.code import compute_score, extract_program, parse_tests, same_output, same_value

STDIN = json.dumps({"type": "stdin", "inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
FUNCTION = json.dumps({"type": "function", "fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]})
ASSERTS = json.dumps({"type": "asserts", "entry_point": "add", "test": "def check(c):\n    assert c(1, 2) == 3"})


def answer(program):
    return f"<think>```python\nno\n```</think>Here it is:\n```python\n{program}\n```\nDone."


@pytest.mark.parametrize(
    ("tests", "right", "wrong"),
    [
        (STDIN, "print(sum(map(int, input().split())))", "print(3)"),
        (
            FUNCTION,
            "class Solution:\n    def add(self, a: int, b: int):\n        return a + b",
            "def add(a, b): return 3",
        ),
        (ASSERTS, "def add(a, b): return a + b", "def add(a, b): return a - b"),
    ],
)
def test_right_and_wrong_programs_of_each_type(tests, right, wrong):
    scored = compute_score("deepcoder", answer(right), tests)
    assert {**scored, "solution": ""} == {"score": 1.0, "acc": 1.0, "solution": "", "benchmark": "deepcoder"}
    assert len(str(scored["solution"])) == 16
    for program in (wrong, "1 / 0", "def add(", "import sys\nsys.exit(0)", "import os\nos._exit(0)", "", "exit()"):
        scored = compute_score("deepcoder", answer(program), tests, {"num_turns": None}, reward_router_address=None)
        assert (scored["score"], scored["acc"], set(scored)) == (0.0, 0.0, {"score", "acc", "solution", "benchmark"})


def test_a_program_that_prints_the_right_thing_and_fails_is_wrong():
    assert compute_score("x", answer("print(sum(map(int, input().split())))\n1 / 0"), STDIN)["score"] == 0.0
    assert compute_score("x", answer("add = int.__add__\nprint('[3]')"), FUNCTION)["score"] == 1.0  # printing is free


def test_a_function_cannot_return_what_equals_everything():
    equal = "class Equal(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Equal(9)"
    assert compute_score("x", answer(equal), FUNCTION)["score"] == 0.0
    assert (
        compute_score("x", answer("def add(a, b):\n    print(3); print(7)\n    raise SystemExit"), FUNCTION)["score"]
        == 0.0
    )


def test_no_program_scores_0_and_has_no_label():
    assert compute_score("lcb", "I do not know.", STDIN) == {
        "score": 0.0,
        "acc": 0.0,
        "solution": "",
        "benchmark": "lcb",
    }


def test_the_last_complete_python_block_after_thinking_is_the_program():
    assert extract_program("```python\na\n```\n```py\nb\n```\n```\nc\n```") == "b\n"
    assert extract_program("```\na\n```\n```cpp\nb\n```") == "a\n"
    assert extract_program("<think>```python\na\n```</think> none") is None
    assert extract_program("```python\na\n```\n```python\nunfinished") == "a\n"
    assert extract_program("1. So:\n   ```python\n   if a:\n       b\n   ```") == "if a:\n    b\n"
    assert extract_program("``` no\n" * 3 + "`" * 1000) is None
    start = time.process_time()
    linear = [str(number) for number in range(500_000)]
    reference = time.process_time() - start
    assert linear
    start = time.process_time()
    for hostile in ("```python\n" * 20_000, "`" * 100_000, " " * 100_000, "```" + " " * 100_000, "\n```" * 30_000):
        extract_program(hostile)
    assert time.process_time() - start < 10 * reference  # quadratic work takes a thousand times as long


@pytest.mark.parametrize(
    "response",
    [
        "```python\nCODE```", "```python\nCODE\n``` This prints one.\n", "Solution: ```python\nCODE\n```",
        "<answer>```python\nCODE\n```</answer>", "```python\nCODE```</answer>", "```py3\nCODE\n```",
        "````python\nCODE\n````", "```Python\nCODE\n```", "``` python\nCODE\n```", "```python3.11\nCODE\n```",
        "```python title=x\nCODE\n```", "```python\r\nCODE\r\n```\r\n", "1. So: ```\nCODE\n```",
        "```python\nno\n```\nBetter:```python\nCODE\n```.", "````python\nCODE\n#```\n````",
        "  ```python\n  CODE\n  ```", "```python\nCODE\n```\nIt prints:\n```\n1\n```",
    ],
)  # fmt: skip
def test_a_fence_need_not_be_alone_on_its_line(response):
    program = extract_program(response.replace("CODE", "print(1)"))
    assert program is not None
    assert program.splitlines()[0] == "print(1)"
    assert compute_score("x", response.replace("CODE", "print(1)"), ONE)["score"] == 1.0


def test_backticks_within_a_line_of_code_close_nothing():
    assert extract_program("```python\na = '```'\nb = f(\"``` x\")\n```") == "a = '```'\nb = f(\"``` x\")\n"
    assert extract_program("Use ```code``` and then nothing") is None
    assert extract_program("````python\nprint(1)\n```\n") is None


ONE = json.dumps({"type": "stdin", "inputs": [""], "outputs": ["1"]})
GUARDED = "import sys\ndef add(a, b): return a + b\nif __name__ == '__main__':\n    "


@pytest.mark.parametrize(
    "program",
    [
        "import fileinput\nprint(sum(int(line) for line in fileinput.input()))",
        "import sys\nif len(sys.argv) > 1: sys.stdin = open(sys.argv[1])\nprint(input())",
        "import sys\ninput()\nprint(len(sys.argv))",
        "import sys\nprint(input() if sys.argv == sys.orig_argv[1:] else sys.orig_argv)",
        "import argparse\nargparse.ArgumentParser().parse_args()\nprint(input())",
        "print(input())\nexit(1)",
        "import sys\nprint(input())\nsys.exit('done')",
        "def main():\n    print(input())\n    raise SystemExit(3)\nif __name__ == '__main__': main()",
    ],
)
def test_a_program_sees_a_command_line_of_its_own_and_may_exit_as_it_likes(program, fusion_url):
    tests = json.dumps({"type": "stdin", "inputs": ["1\n"], "outputs": ["1\n"]})
    assert compute_score("x", answer(program), tests)["score"] == 1.0
    assert compute_score("x", answer(program), tests, sandbox_fusion_url=fusion_url)["score"] == 1.0


@pytest.mark.parametrize(
    "guarded",
    [
        "print(add(*map(int, input().split())))",
        "sys.exit(0)",
        "sys.exit(add(1, 2))",
        "import unittest; unittest.main()",
    ],
)
def test_a_main_guard_does_not_run_where_a_function_is_wanted(guarded, fusion_url):
    for tests in (FUNCTION, ASSERTS):
        assert compute_score("x", answer(GUARDED + guarded), tests)["score"] == 1.0
        assert compute_score("x", answer(GUARDED + guarded), tests, sandbox_fusion_url=fusion_url)["score"] == 1.0


def test_a_function_may_come_from_a_program_with_dataclasses_and_pickle():
    program = (
        "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: int\n"
        "def add(a, b): return pickle.loads(pickle.dumps(P(a + b))).x"
    )
    for tests in (FUNCTION, ASSERTS):
        assert compute_score("x", answer(program), tests)["score"] == 1.0


def test_integers_of_many_digits_are_read_and_printed():
    digits = "1" + "0" * 20_000
    stdin = json.dumps({"type": "stdin", "inputs": [digits], "outputs": [digits]})
    function = f'{{"type": "function", "fn_name": "f", "inputs": [[{digits}]], "outputs": [{digits}]}}'
    assert compute_score("x", answer("print(int(input()))"), stdin)["score"] == 1.0
    assert compute_score("x", answer("print(int(input()) + 1)"), stdin)["score"] == 0.0
    assert compute_score("x", answer("def f(n): return n"), function)["score"] == 1.0
    assert compute_score("x", answer("def f(n): return n + 1"), function)["score"] == 0.0


@pytest.mark.parametrize(
    ("output", "expected", "livecodebench", "elsewhere"),
    [
        ("3.0", "3", True, True),
        ("1e3", "1000", True, True),
        ("1.50 2", "1.5 2.00", True, True),
        ("-0", "0", True, True),
        ("  1 2 \r\n3", "1 2\n3\n\n", True, True),
        ("0.3333333", "0.33333333333", False, True),
        ("x 3.0", "x 3", False, True),
        ("a  b", "a b", False, True),
        ("3.0000001", "3", False, False),
        ("50000000000000000", "50000000000000001", False, False),
        ("nan", "nan ", True, True),
        ("nan 1", "NaN 1", False, False),
        ("1\n\n2", "1\n2", False, False),
        ("YES", "Yes", False, False),
    ],
)
def test_output_is_compared_as_in_livecodebench_or_more_leniently(output, expected, livecodebench, elsewhere):
    assert same_output(output, expected, 0) == livecodebench
    assert same_output(output, expected) == elsewhere
    tests = json.dumps({"type": "stdin", "inputs": [""], "outputs": [expected]})
    for source, right in (("livecodebench", livecodebench), ("deepcoder", elsewhere)):
        assert compute_score(source, answer(f"print({output!r})"), tests)["score"] == float(right)


def test_floats_of_a_function_are_exact_for_livecodebench_alone():
    tests = '{"type": "function", "fn_name": "f", "inputs": [[]], "outputs": [0.3]}'
    program = answer("def f(): return 0.1 + 0.2")
    assert compute_score("livecodebench", program, tests)["score"] == 0.0
    assert compute_score("deepcoder", program, tests)["score"] == 1.0


def test_output_is_compared_word_by_word_with_a_tolerance_for_decimals_alone():
    assert same_output("1  2 \r\n3\n\n", "1 2\n3")
    assert same_output("0.3333333", "0.33333333333")
    assert same_output("1e3", "1000.0")
    assert not same_output("1000000000", "1000000001")
    assert not same_output("0.334", "0.333")
    assert not same_output("1 2", "1\n2")
    assert not same_output("yes", "YES")
    assert not same_output("nan", "1.0")
    assert not same_output("", "1")


def test_values_are_compared_as_json_with_a_tolerance_for_floats_alone():
    assert same_value([1, [2.0000000001, {"a": None}]], [1, [2.0, {"a": None}]])
    assert not same_value([1, 2], [1])
    assert not same_value({"a": 1}, {"a": 1, "b": 2})
    assert not same_value(10**9, 10**9 + 1)
    assert not same_value("1", 1)
    assert same_value(3, 3.0)
    assert not same_value(10**400, 3.0)


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        ("{", "must be JSON"),
        ("[1]", '"type" must be one of stdin, function, asserts, got None'),
        ('{"type": "x"}', "got 'x'"),
        ('{"type": "stdin", "inputs": [], "outputs": []}', "not empty; got 0 and 0"),
        ('{"type": "stdin", "inputs": ["1"], "outputs": []}', "got 1 and 0"),
        ('{"type": "asserts", "entry_point": "f"}', '"test" must be a str, got None'),
        ('{"type": ["stdin"]}', r"got \['stdin'\]"),
        ({"type": "stdin"}, "must be JSON in a str, got .* of type dict"),
        (7, "must be JSON in a str, got 7 of type int"),
        (None, "must be JSON in a str, got None of type NoneType"),
        ('{"type": "stdin", "inputs": [""], "outputs": [1]}', r'"outputs"\[0\] must be a str, got 1 of type int'),
        (
            '{"type": "stdin", "inputs": ["", ["1"]], "outputs": ["", ""]}',
            r'"inputs"\[1\] must be a str, got .* of type list',
        ),
        ('{"type": "function", "fn_name": "f", "inputs": [5], "outputs": [1]}', r'"inputs"\[0\] must be a list, got 5'),
    ],
)
def test_a_wrong_ground_truth_is_refused_even_for_a_response_without_program(ground_truth, message):
    with pytest.raises(ValueError, match=message):
        compute_score("x", "none", ground_truth)


def test_options_take_effect_and_are_checked():
    assert len(parse_tests(STDIN, 1)["inputs"]) == 1
    assert compute_score("x", answer("print(3)"), STDIN, max_tests=1)["score"] == 1.0
    assert compute_score("x", answer("x = bytearray(3 * 10**8)\n" + "print(3)"), STDIN, max_tests=1)["score"] == 1.0
    hog = answer("x = bytearray(3 * 10**8)\nprint(3)")
    assert compute_score("x", hog, STDIN, max_tests=1, memory_mb=128)["score"] == 0.0
    assert compute_score("x", answer("while True: pass"), STDIN, time_limit=0.3)["score"] == 0.0
    assert compute_score("x", answer("def add(a, b):\n    while True: pass"), FUNCTION, time_limit=0.3)["score"] == 0.0
    assert compute_score("x", answer("def add(a, b):\n    while True: pass"), ASSERTS, time_limit=0.3)["score"] == 0.0
    for option in ("max_tests", "max_concurrent", "time_limit", "memory_mb"):
        with pytest.raises(ValueError, match="must be"):
            compute_score("x", answer("print(3)"), STDIN, **{option: 0})


def test_sixteen_threads_at_once_get_each_its_own_score():
    programs = [
        (answer(f"a, b = map(int, input().split())\nprint(a + b + {i % 2})"), float(i % 2 == 0)) for i in range(16)
    ]
    with ThreadPoolExecutor(16) as pool:
        scores = pool.map(lambda one: compute_score("x", one[0], STDIN, max_concurrent=4)["score"], programs)
    assert list(scores) == [score for _, score in programs]


class Fusion(BaseHTTPRequestHandler):
    """Answers as Sandbox Fusion does, by running the code right here; only for the programs of this file."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        outcome = code.sandbox.run_program(request["code"], request["stdin"] or "", code.sandbox.Limits())
        result = {"status": "Finished", "stdout": outcome.output.decode(), "return_code": outcome.exit_code}
        body = json.dumps({"status": "Failed" if outcome.exit_code else "Success", "run_result": result}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def fusion_url():
    with HTTPServer(("127.0.0.1", 0), Fusion) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/run_code"
        server.shutdown()


def test_verls_sandbox_fusion_grades_in_its_place(fusion_url):
    strings = json.dumps({"type": "function", "fn_name": "add", "inputs": [["a", "b"]], "outputs": ["ab"]})
    for tests in (STDIN, FUNCTION, ASSERTS, strings):
        right = (
            "def add(a, b): return a + b\nif __name__ == '__main__' and STDIN: print(add(*map(int, input().split())))"
        )
        for operator, score in (("+", 1.0), ("*", 0.0)):
            program = right.replace("STDIN", str(tests is STDIN)).replace("+", operator)
            scored = compute_score("x", answer(program), tests, sandbox_fusion_url=fusion_url)
            assert scored["score"] == score, (tests, program)
            assert len(str(scored["solution"])) == 16


def test_a_sandbox_fusion_that_does_not_answer_is_an_error_and_not_a_wrong_program():
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9/run_code"):
        compute_score("x", answer("print(3)"), STDIN, sandbox_fusion_url="http://127.0.0.1:9/run_code")
