"""Every truth of a small file in each benchmark's format: right in twenty forms, wrong with one change (generated)."""

import importlib
import json
import random
import re
import sys
from argparse import Namespace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_lad.rewards.math import DAPO_SOURCES, compute_score
from verl_lad.rewards.notation import canonical, number

PROGRAMS = Path(__file__).parents[2] / "recipes" / "data"
FILES = sorted((Path(__file__).parent / "benchmarks").glob("*.jsonl"))
COMMAND = re.compile(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|np\.arctan")
LETTERS = "abcghkmnpqrsuvwxzABCDFGHKPQSUVWXYZ"


def truths(file):
    """The data source and the ground truths that the benchmark's own program makes of a file."""
    sys.path.insert(0, str(PROGRAMS))
    recipe = importlib.import_module(file.stem).RECIPE
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    options = Namespace(instruction="boxed")
    return recipe.data_source, [recipe.parse(row, options).ground_truth for row in rows]


TRUTHS = [(source, truth) for source, answers in map(truths, FILES) for truth in answers]


def is_right(source, answer, truth):
    return compute_score(source, f"So \\boxed{{{answer}}}.", truth, time_limit=60)["score"] == 1.0


def decorated(truth):
    """Forms that differ in decoration alone."""
    yield from (truth, f" {truth} ", f"${truth}$", f"\\({truth}\\)", f"\\[{truth}\\]", f"$${truth}$$", f"\n{truth}\n")
    yield from (f"{truth}.", f"**{truth}**", f"{{{truth}}}", f"\\displaystyle {truth}", f"\\, {truth}", f"~{truth}\\;")
    yield from (f"\\!{truth}", f"{truth}\\quad", f"`{truth}`", truth.replace("\\frac", "\\dfrac"), f"\\ {truth}")
    yield truth.replace("-", "\u2212")
    yield re.sub(r"\\(left|right)(?![A-Za-z])", "", truth)
    yield re.sub(r"(?<!\\left)([(])", r"\\left\1", re.sub(r"(?<!\\right)([)])", r"\\right\1", truth))
    yield re.sub(r"_(\d)(?!\d)", r"_{\1}", truth)
    yield re.sub(r"\s*([+=])\s*", r"  \1  ", truth)


def numbers(value):
    """Other notations of a number."""
    yield from (f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{2 * value.numerator}/{2 * value.denominator}")
    digits = next((d for d in range(40) if (value * 10**d).denominator == 1), None)
    if digits is not None:
        scaled = value * 10**digits
        yield f"{scaled} \\times 10^{{{-digits}}}"
        yield f"{scaled}e{-digits}"
        yield f"{scaled}0 \\cdot 10^{{{-digits - 1}}}"
    if value.denominator == 1:
        value = int(value)
        yield from (f"{value}.0", f"{value:,}", f"{value:,}".replace(",", "{,}"), f"{value:,}".replace(",", "\\,"))
        yield from (f"{value:,}".replace(",", ",\\!"), f"\\mathbf{{{value}}}", f"({value})", f"n = {value}")


def forms(source, truth):
    """Forms that mean the same."""
    yield from decorated(truth)
    text = canonical(truth)
    read = number(text)
    if read is not None and read.base is None and not read.percent:
        yield from numbers(read.value)
    if read is not None and read.percent:
        yield from (str(read.value / 100), f"{float(read.value)} \\%", f"{float(read.value)} percent")
    if re.fullmatch(r"-?[\d.,]+(,-?[\d.]+)+", text):
        elements = text.replace(";", ",").split(",")
        yield from (", ".join(elements[::-1]), "\\{" + ", ".join(elements) + "\\}", " and ".join(elements))
    if "=" in truth and "," not in truth:
        left, right = truth.split("=")
        yield from (f"{right} = {left}", f"({left}) - ({right}) = 0", f"3({right}) = 3({left})")
    if not re.search(r"[=,_%$]|\\(?:text|mbox|begin|cup|pm|in|ge|circ)|prime", truth) and source not in DAPO_SOURCES:
        yield from (f"\\frac{{2({truth})}}{{2}}", f"0 + ({truth})", f"1 \\cdot ({truth})", f"z_1 = {truth}")


@pytest.mark.parametrize(("source", "truth"), TRUTHS)
def test_a_truth_is_right_in_twenty_forms_and_more(source, truth):
    written = list(forms(source, truth))
    assert len(written) > 20
    assert [form for form in written if not is_right(source, form, truth)] == []


def changed(truth, choose):
    """Forms with one digit, sign, letter, bracket or element changed."""
    commands = [match.span() for match in COMMAND.finditer(truth)]
    for place, character in enumerate(truth):
        before, after = truth[:place], truth[place + 1 :]
        if any(start <= place < end for start, end in commands):
            continue
        if character.isdigit():
            yield before + choose([digit for digit in "0123456789" if digit != character]) + after
        elif character.isalpha() and not re.search(r"\d$", before + character):
            if re.fullmatch(r"e[+-]?\d.*", character + after) and before[-1:].isdigit():
                continue  # 3.7e33: the notation, not a name
            yield before + choose([letter for letter in LETTERS if letter != character]) + after
        elif character in "+-":
            yield before + "+-"[character == "+"] + after
        elif character in "([" and "," in truth:
            yield before + "(["[character == "("] + after
    yield f"-({truth})" if number(canonical(truth)) is None else f"-{truth}"
    if "," in truth:
        parts = truth.split(",")
        dropped = choose(range(len(parts)))
        yield ",".join(parts[:dropped] + parts[dropped + 1 :])
        yield f"{truth}, 17"
    yield f"{truth} + 1"
    yield f"{truth}_9"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_truth_with_one_change_is_wrong(file):
    source, answers = truths(file)

    @settings(max_examples=10 * len(answers), deadline=None, database=None)
    @given(st.data())
    def check(data):
        truth = data.draw(st.sampled_from(answers))
        chooser = random.Random(data.draw(st.integers(0, 2**32)))
        answer = data.draw(st.sampled_from(list(changed(truth, chooser.choice))))
        assert not is_right(source, answer, truth), (answer, truth)

    check()


@st.composite
def calculations(draw, depth=3):
    """LaTeX of a calculation, and its exact value."""
    kind = draw(
        st.sampled_from(
            ["integer", "decimal", "fraction", "sum", "difference", "product", "juxtaposed", "over", "power"]
        )
    )
    first, second = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    if depth == 0 or kind in ("integer", "decimal", "fraction"):
        if kind == "decimal":
            return f"{first}.{second:02}", first + Fraction(second, 100)
        return (
            (f"\\frac{{{first}}}{{{second}}}", Fraction(first, second))
            if kind == "fraction"
            else (str(first), Fraction(first))
        )
    (left, a), (right, b) = draw(calculations(depth - 1)), draw(calculations(depth - 1))
    if kind == "sum":
        return f"{left} + {right}", a + b
    if kind == "difference":
        return f"{left} - ({right})", a - b
    if kind == "product":
        return f"({left}) \\cdot ({right})", a * b
    if kind == "juxtaposed":
        return f"{first}({right})", first * b
    if kind == "over" and b:
        return f"\\frac{{{left}}}{{{right}}}", a / b
    return f"({left})^{{2}}", a**2


@settings(max_examples=60, deadline=None, database=None)
@given(calculations())
def test_a_calculation_is_right_for_its_value_and_for_no_other(calculation):
    latex, value = calculation
    truth = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert is_right("math500", latex, truth), (latex, truth)
    other = f"\\frac{{{value.numerator + 1}}}{{{value.denominator}}}"
    assert not is_right("math500", latex, other), (latex, other)


def test_numbers_are_read_as_exact_values():
    for text, value in (
        ("4.5e33", Fraction(45 * 10**32)),
        ("4.5 \\times 10^{33}", Fraction(45 * 10**32)),
        ("4.5 x 10^33", Fraction(45 * 10**32)),
        ("10^{-3}", Fraction(1, 1000)),
        ("2.88E-19", Fraction(288, 10**21)),
        ("-1./3", Fraction(-1, 3)),
        ("137 \\frac{1}{2}", Fraction(275, 2)),
        ("1 4/5", Fraction(9, 5)),
        ("0.\\overline{3}", Fraction(1, 3)),
        ("1.2\\overline{34}", Fraction(1222, 990)),
        ("11,\\! 111,\\! 100", Fraction(11111100)),
        (".35625", Fraction(35625, 10**5)),
    ):
        assert number(canonical(text)).value == value, text
    for text in ("1,2345", "1,23,456", "3 4", "2e", "e5", "1/0", "\\overline{34}", "12km", "1e99999", "A_1", "9_8"):
        assert number(canonical(text)) is None, text
