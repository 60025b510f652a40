"""The reward of answers: against hand-made cases, from threads, and with hostile answers."""

import importlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from verl_lad.rewards import equivalence, math
from verl_lad.rewards.answers import same
from verl_lad.rewards.math import compute_score, extract_answer, normalise


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def hundred_thousand_texts():
    """Work that is linear in 100 KB: what is quadratic takes a thousand times as long, on any machine."""
    return [str(number) for number in range(100_000)]


def score(answer, truth, **options):
    return compute_score("math500", answer, truth, **options)["score"]


@pytest.mark.parametrize(
    "answer",
    ["34", "034", "34.0", "34.", "+34", " 34 ", "$34$", "\\(34\\)", "x=34", "34^\\circ", "34 degrees", "34\\%",
     "34\\text{ cm}", "\\text{34}", "**34**", "34\\text{}", "n = 34.00"],
)  # fmt: skip
def test_integers_are_equal_as_integers_however_written(answer):
    for response in (f"So \\boxed{{{answer}}}.", f"Thus\nAnswer: {answer}", f"**Answer:** \\boxed{{{answer}}}"):
        assert score(response, "34") == 1.0, response
        assert score(response, "35") == 0.0, response
    assert normalise(answer) == "34"


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("1/2", "\\frac12"),
        ("\\dfrac{3}{4}", "\\frac{3}{4}"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("(0, 1]", "\\left(0,1\\right]"),
        ("\\{2, 1\\}", "\\{1,2\\}"),
        ("2,1", "1,2"),
        ("x^2+2x+1", "(x+1)^2"),
        ("x=\\frac{1}{3}", "\\frac13"),
        ("Monday", "\\text{Monday}"),
        ("\\frac{\\pi}{3}", "\\pi/3"),
        ("12,345.5", "12345.5"),
        ("18.90", "\\$18.9"),
        ("2.5\\%", "2.5"),
        ("\\frac{2}{\\sqrt{2}}", "\\sqrt{2}"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("(1, 2)", "(1,2)"),
    ],
)
def test_equivalent_answers_are_right(answer, truth):
    assert score(f"\\boxed{{{answer}}}", truth) == 1.0


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("1,2", "12"),
        ("1,2", "1,3"),
        ("(2,1)", "(1,2)"),
        ("[0,1]", "(0,1]"),
        ("\\frac{1}{3}", "0.5"),
        ("3", "-3"),
        ("340", "34"),
        ("3.4", "34"),
        ("34.5", "34"),
        ("\\sqrt{3}", "\\sqrt{2}"),
        ("x", "\\pi"),
        ("", "\\pi"),
        ("]][[", "\\pi"),
    ],
)
def test_other_answers_are_wrong(answer, truth):
    assert score(f"\\boxed{{{answer}}}", truth) == 0.0


def test_negative_zero_and_thousands_separators():
    assert score("\\boxed{-0}", "0") == score("\\boxed{0}", "-0.0") == 1.0
    for answer in ("12{,}000", "12,000", "12\\,000", "12\\!000", "12,\\!000", "12 000"):
        assert score(f"\\boxed{{{answer}}}", "12000") == 1.0, answer


def test_the_last_of_box_and_answer_line_counts_and_only_after_thinking():
    assert extract_answer("\\boxed{1} \\boxed{\\frac{2}{3}}") == "\\frac{2}{3}"
    assert extract_answer("\\boxed{1}\nAnswer: 2\nmore") == "2"
    assert extract_answer("Answer: 2\n\\boxed{1}") == "1"
    assert extract_answer("Answer: 2\nAnswer: \\boxed{1}") == "1"
    assert extract_answer("Answer:\n3") == "3"
    assert extract_answer("\\boxed{1</think>Answer: 2") == "2"
    assert extract_answer("<think>\\boxed{1}</think> done") == ""
    assert extract_answer("\\boxed{1") == extract_answer("") == extract_answer("no") == ""
    assert extract_answer("\\boxed{" + "1" * 1001 + "}") == ""


@pytest.mark.parametrize(
    "response",
    [
        "Answer:\n\n42", "Answer: \n \n42", "**Answer**: 42", "**Answer:**\n\n42", "Answer:\n\n$$42$$",
        "Answer:\n\\[\n42\n\\]", "### Final Answer: 42", "So the final answer is: 42", "> Answer : **42**",
        "\\textbf{Answer:} 42", "ANSWER: $42$.", "Answer\uff1a42", "Answer: 41\nAnswer: 42", "We get 41. Answer: 42",
        "\\boxed {42}", "\\fbox{42}", "\\boxed{\\boxed{42}}", "\\boxed{41} and \\boxed{42}",
        "So \\boxed{42}. Let me check: \\boxed{4", "\\boxed{42}\n\nThis answer: it satisfies both equations.",
        "Answer: 41\n\\boxed{42}", "\\boxed{41}\nAnswer: 42",
    ],
)  # fmt: skip
def test_the_last_box_or_answer_line_is_found_however_it_is_laid_out(response):
    for source in ("math_dapo", "math500"):
        assert compute_score(source, response, "42")["score"] == 1.0
        assert compute_score(source, response, "41")["score"] == 0.0


def test_braces_that_belong_to_a_set_do_not_end_a_box():
    assert extract_answer("\\boxed{\\{1,2\\}}") == "\\{1,2\\}"
    assert extract_answer("a } stray one, \\boxed{\\left\\{ x \\right.} and {") == "\\left\\{ x \\right."


def test_dapos_rule_for_integers_decides_for_its_sources_alone():
    """The rule is verl's math_dapo; where it is no integer, or another source asks, math-verify decides."""
    for response, source, right in (
        ("\\boxed{m+n=34}", "aime24", 1.0),
        ("Answer: 34 dollars", "math_dapo", 1.0),
        ("\\boxed{2^{5}+2}", "aime25", 0.0),
        ("\\boxed{2^{5}+2}", "amc", 1.0),
        ("\\boxed{3,4}", "aime24", 0.0),
        ("\\boxed{34,}", "math_dapo", 1.0),
        ("\\boxed{1,0234}", "math_dapo", 0.0),
    ):
        assert compute_score(source, response, "34")["score"] == right, (source, response)
    assert compute_score("math_dapo", "Answer: $\\frac{2}{4}$", "\\frac12")["score"] == 1.0


def test_an_answer_that_text_or_numbers_decide_needs_no_worker(monkeypatch):
    monkeypatch.setattr(math, "_workers", None)
    assert score("\\boxed{0.5}", "\\frac12") == 1.0
    assert score("\\boxed{0.51}", "\\frac12") == 0.0
    assert score("\\boxed{x+1}", "x + 1") == 1.0
    assert score("\\boxed{even}", "\\text{odd}") == 0.0


def test_the_keys_are_always_the_same():
    for response in ("", "\\boxed{3}", "Answer: x"):
        scored = compute_score("aime24", response, "3", {"num_turns": 1}, reward_router_address=None)
        assert list(scored) == ["score", "acc", "solution", "benchmark"]
        assert scored["benchmark"] == "aime24"
    assert compute_score("amc", "nothing", "3")["solution"] == ""
    assert compute_score("minerva", "\\boxed{03.}", "4") == {
        "score": 0.0,
        "acc": 0.0,
        "solution": "3",
        "benchmark": "minerva",
    }


@pytest.mark.parametrize(
    "garbage",
    ["\\boxed{" * 14_000, "\\boxed{" + "{" * 99_000, "Answer:" * 14_000, "Answer: " + " " * 99_000, "$" * 100_000,
     "answer \n" * 12_000, "a" * 100_000, "\\boxed{" + "1" * 100_000 + "}", "\\boxed{" + "$" * 990 + "}",
     "</think>" * 12_000],
)  # fmt: skip
def test_garbage_of_100_kb_is_wrong_at_once(garbage):
    assert score(garbage, "34") == 0.0
    assert cpu_seconds(lambda: score(garbage, "34")) < 5 * cpu_seconds(hundred_thousand_texts)


@pytest.mark.parametrize(
    "nested",
    ["(" * 490 + ")" * 490, "^(" * 490, "\\pm1," * 190, "\\frac{" * 160, "(1," * 330, "[(" * 490, "{" * 490 + "}" * 490,
     "\\text{a}" * 140, "(mod1)" * 160, "x=" * 490, "1 a" + "b " * 490, "\\begin{x}" * 110],
)  # fmt: skip
@pytest.mark.parametrize("truth", ["34", "x+1", "(1,2)", "x=1", "x<1", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"])
def test_a_nested_answer_of_1000_characters_is_wrong_soon(nested, truth):
    def compare():
        assert not same(nested, truth, lambda relation, answer, true: False)

    compare()
    assert cpu_seconds(compare) < 50 * cpu_seconds(hundred_thousand_texts)


def test_a_hostile_answer_ends_in_time_is_counted_and_logged_and_the_next_one_is_graded(caplog):
    judge = equivalence.MathVerifyWorkers(workers=1)
    assert not judge.same("9^{9^{9^{9}}}", "\\pi", 0.5)
    assert judge.killed == 1
    assert "math-verify exceeded 0.5 CPU seconds" in caplog.text
    assert "9^{9^{9^{9}}}" in caplog.text
    assert judge.same("\\pi+\\pi", "2\\pi", 5.0)
    assert judge.killed == 1


def test_threads_at_once_get_each_its_own_score():
    cases = [(f"\\boxed{{\\frac{{{i}}}{{7}}}}", f"{i}/7" if i % 2 else "1/9", float(i % 2)) for i in range(1, 17)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda case: score(case[0], case[1]), cases)) == [case[2] for case in cases]
    assert threading.active_count() < 20


def test_no_worker_outlives_its_trainer():
    script = (
        "from verl_lad.rewards.equivalence import MathVerifyWorkers\njudge = MathVerifyWorkers(1)\n"
        "assert judge.same('1/2', '0.5', 5.0)\nprint('x', flush=True)\njudge.same('9^{9^{9^{9}}}', '1.5', 1.0)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"x\n"
    workers = psutil.Process(trainer.pid).children()
    assert len(workers) == 1
    time.sleep(0.3)  # it is at work on the hostile answer
    trainer.kill()
    trainer.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive


def test_without_math_verify_the_import_fails_and_names_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="math-verify is not installed: pip install math-verify"):
        importlib.reload(equivalence)


def test_a_foreign_data_source_and_an_empty_ground_truth_are_refused():
    with pytest.raises(ValueError, match=r"data_source must be one of math_dapo.*got 'gsm8k'"):
        compute_score("gsm8k", "\\boxed{3}", "3")
    for empty in (" ", "$$", "**"):
        with pytest.raises(ValueError, match="ground_truth must not be empty"):
            compute_score("amc", "\\boxed{3}", empty)
    assert score("\\boxed{km}", "km") == 1.0


@pytest.mark.parametrize("truth", [5, 2.5, True, None, ["5"], {"answer": "5"}, b"5"])
def test_a_ground_truth_that_is_no_text_is_refused_with_its_type(truth):
    with pytest.raises(ValueError, match=f"ground_truth must be a str, got .* of type {type(truth).__name__}"):
        compute_score("aime24", "\\boxed{5}", truth)
