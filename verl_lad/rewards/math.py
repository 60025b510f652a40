r"""Reward an answer to a mathematics problem: 1.0 if it is right, else 0.0.

The answer is the last complete \boxed{...} or the last line "Answer: ..." of the response, whichever comes last. The
whole answer is compared with the whole truth, by the first of these that decides (answers.py):

1. text, but for white space and decoration;
2. exact values of numbers in any notation, with a base as a part of the number;
3. structure: lists, intervals, matrices and equations part by part; formulas by math-verify 0.9.0;
4. DAPO's rule for integers, in place of 3.

| data_source | decides where the truth is an integer | decides elsewhere | agrees with |
|---|---|---|---|
| math_dapo, aime24, aime25 | 1, 2, 4 | 1, 2, 3 | verl's math_dapo |
| math500, amc, olympiadbench, minerva | 1, 2, 3 | 1, 2, 3 | math-verify |

Where the rule differs from the evaluator that it agrees with:

- verl's math_dapo glues a list of integers; here 1,2345 is not 12345. It compares text; here 034, 34.0 and \frac{68}{2}
  are 34.
- math-verify rounds decimals to six places, drops the base of a number and the case of letters, and removes letters
  that look like units. None of these decides here.
- Qwen2.5-Math's evaluator takes numbers within a relative 1e-4, OlympiadBench's within a row's "error". Here numbers
  are exact: an answer must be rounded as the truth is.
"""

import re
from typing import Any

from verl.utils.reward_score.math_dapo import normalize_final_answer

from verl_lad.rewards.answers import same, without_name, without_unit
from verl_lad.rewards.equivalence import MathVerifyWorkers
from verl_lad.rewards.notation import canonical, number

DATA_SOURCES = ("math_dapo", "math500", "aime24", "aime25", "amc", "olympiadbench", "minerva")
DAPO_SOURCES = ("math_dapo", "aime24", "aime25")
MAX_ANSWER = 1000  # characters; verl: "The longest answer in MATH-500 has 159 characters"
BRACES = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
# What a line may have before the word "answer". "This answer: ..." is a sentence.
ANSWER_LINE = re.compile(
    r"^[ \t>#*_\\-]{0,20}(?:text(?:bf)?\{)?(?:(?:so|thus|hence|therefore|the|my|our|final|correct)\b[ \t,*]{1,5}){0,4}"
    r"answers?[ \t*_]{0,5}(?:is[ \t*_]{0,5})?[:\uff1a]",
    re.IGNORECASE | re.MULTILINE,
)
ANSWER_IN_LINE = re.compile(r"\banswer[ \t*]{0,5}[:\uff1a]", re.IGNORECASE)
DISPLAY = re.compile(r"\$\$.*?\$\$|\\\[.*?\\\]", re.DOTALL)
INTEGER = re.compile(r"([+-]?)0*(\d+)(\.0*)?")
GLUED = re.compile(r"\d,\d")
MAX_LABEL_DIGITS = 1000

_workers = MathVerifyWorkers()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    time_limit: float = 5.0,
    **kwargs: Any,
) -> dict[str, float | str]:
    """Score a response that should end in an answer. For verl's `reward.custom_reward_function`.

    Args:
        data_source: name of the data set or benchmark, one of DATA_SOURCES.
        solution_str: the response; what a last </think> ends is ignored.
        ground_truth: the true answer, in LaTeX or plain text.
        extra_info: not used.
        time_limit: CPU seconds that math-verify may take; wall time is limited to four times as much. Default:
            math-verify's own.
        **kwargs: what else verl passes; not used.

    Returns:
        The keys that the package's docstring names; "solution" is the normalised answer, "" if there is none.

    Raises:
        ValueError: if the data source is not allowed, or the ground truth is no text or empty.
        RuntimeError: if math-verify's workers cannot start.
    """
    if data_source not in DATA_SOURCES:
        raise ValueError(f"data_source must be one of {', '.join(DATA_SOURCES)}, got {data_source!r}")
    if not isinstance(ground_truth, str):
        raise ValueError(f"ground_truth must be a str, got {ground_truth!r:.80} of type {type(ground_truth).__name__}")
    if not canonical(ground_truth):
        raise ValueError(f"ground_truth must not be empty, got {ground_truth!r}")
    answer = extract_answer(solution_str)
    solution = normalise(answer)
    right = bool(solution) and _is_right(answer, ground_truth, data_source in DAPO_SOURCES, time_limit)
    return {"score": float(right), "acc": float(right), "solution": solution, "benchmark": data_source}


def _is_right(answer: str, truth: str, dapo: bool, time_limit: float) -> bool:
    undecided: list[str] = []

    def note(relation: str, said: str, true: str) -> bool:
        undecided.append(relation)
        return False

    if same(answer, truth, note):
        return True
    if dapo and (integer := INTEGER.fullmatch(truth.strip())):
        return _dapo_integer(answer) == _integer(integer)
    return bool(undecided) and _workers.same(answer, truth, time_limit)


def _dapo_integer(answer: str) -> str | None:
    """Normalise an answer as verl's math_dapo does; None if that is no integer, or several that it glued."""
    match = INTEGER.fullmatch(normalize_final_answer(answer.strip(" \t\n*`.")))
    return None if match is None or GLUED.search(answer) else _integer(match)


def _integer(match: re.Match[str]) -> str:
    sign, digits, _ = match.groups()
    return f"-{digits}" if sign == "-" and digits != "0" else digits


def extract_answer(response: str) -> str:
    r"""Find the answer in a response.

    Args:
        response: the text of the model.

    Returns:
        What is in the last complete \boxed{...} or on the last answer line of what follows the last </think>, whichever
        comes last; "" without either, or if it is longer than MAX_ANSWER. An answer line begins with "Answer:",
        "**Final answer**:" or the like; if nothing follows on it, the next line or display counts. Without a box and
        such a line, "Answer:" within a line counts.
    """
    text = response.rpartition("</think>")[2]
    box_start, box = _last_box(text)
    lines = list(ANSWER_LINE.finditer(text))
    if not lines and box_start < 0:
        lines = list(ANSWER_IN_LINE.finditer(text))
    if lines and lines[-1].start() > box_start:
        rest = text[lines[-1].end() :].lstrip(" \t\r\n*_`}")
        display = DISPLAY.match(rest[: 2 * MAX_ANSWER])
        answer = display[0] if display is not None else rest.partition("\n")[0].strip()
    else:
        answer = box
    return answer if len(answer) <= MAX_ANSWER else ""


def _last_box(text: str) -> tuple[int, str]:
    """Find the complete box that starts last; its start and content, or -1 and ""."""
    last, content = -1, ""
    unclosed: list[tuple[int, int] | None] = []  # start and content's start of a box; None for other braces
    for brace in BRACES.finditer(text):
        if brace[1]:
            unclosed.append((brace.start(), brace.end()))
        elif brace[0] == "{":
            unclosed.append(None)
        elif brace[0] == "}" and unclosed and (box := unclosed.pop()) is not None and box[0] > last:
            last, content = box[0], text[box[1] : brace.start()]
    return last, content


def normalise(answer: str) -> str:
    """Write an answer such that answers which differ in form alone become the same text, as far as text can tell.

    Args:
        answer: LaTeX or plain text.

    Returns:
        A number as an integer or a fraction, without name, unit and percent sign; anything else in canonical form.
    """
    text = canonical(answer)
    read = number(without_unit(without_name(text)))
    if read is None:
        return text
    value = read.value
    if max(abs(value.numerator), value.denominator) >= 10**MAX_LABEL_DIGITS:
        return text
    return str(value) if read.base is None else f"{value} in base {read.base}"
