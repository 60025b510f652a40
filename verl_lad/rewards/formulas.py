r"""Decide about two formulas by math-verify and its parser (https://github.com/huggingface/Math-Verify).

Three habits of theirs must not decide:

- The parser drops the case of letters, primes, and the subscript of a number. So each name becomes a numbered one, and
  a formula with anything that is not known here is not read. It also takes 2(\frac{1}{2}) for a mixed number.
- The comparison of decimals rounds to six places. So decimals become fractions.
- The comparison of formulas takes what is small for zero. So it gets 400 digits.

Import it in a process that may be killed alone: sympy can take for ever (equivalence.py).
"""

import re

import sympy
from latex2sympy2_extended import latex2sympy
from math_verify import verify
from sympy.polys.polyerrors import BasePolynomialError

from verl_lad.rewards.notation import FUNCTIONS, GREEK, number

NUMERIC_DIGITS = 400
# What sympy raises where it cannot simplify.
CANNOT_SIMPLIFY = (
    ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError, BasePolynomialError,
)  # fmt: skip
DERIVATIVE = r"\\frac\{(?:d|\\partial )(?:\^\w)?(?:\\?[A-Za-z][^{}]*)\}\{(?:d|\\partial )[^{}]+\}"
LETTER = rf"(?:\\(?:dot|ddot|hat|bar|tilde|vec)\{{?\\?[A-Za-z]+\}}?|\\(?:{GREEK}|hbar|ell)(?![A-Za-z])|[A-Za-z])"
SUBSCRIPT = r"(?:_(?:\{[^{}]*\}|\\[A-Za-z]+|\w))?"
# A name, and its value at one letter or number: f(x), I(0). n(n+1) is a product.
NAME = rf"{LETTER} ?{SUBSCRIPT}(?:\^\{{(?:\\prime)+\}})?{SUBSCRIPT}(?:\((?:\d+|\\?[A-Za-z]+)\))?"
TOKEN = re.compile(
    rf"(?P<kept>\\(?:{FUNCTIONS}|frac|binom|sqrt|lfloor|rfloor|lceil|rceil|infty|pi)(?![A-Za-z]) ?)"
    r"|(?P<base>\d_)|(?P<number>(?<![\^_])\d+\\frac\{\d+\}\{\d+\}|\d{1,3}(?:\{,\}\d{3})+"
    r"|(?=\.?\d)\d*\.?\d*(?:\\overline\{\d{1,100}\})?(?:[eE][+-]?\d{1,4}(?![\d^]))?)"
    rf"|(?P<name>{DERIVATIVE}|{NAME})|(?P<sign>[-+*/^()\[\]{{}}|!])|(?P<log>_(?:\d|\{{\d+\}}))",
)


def decide(relation: str, answer: str, truth: str) -> bool:
    """Decide about two formulas.

    Args:
        relation: "equal", "proportional" or "positive multiple".
        answer: the answer's formula in canonical form (notation.py).
        truth: the truth's formula.

    Returns:
        Whether the relation holds. False too if one of them cannot be read.
    """
    names: dict[str, int] = {}
    formulas = [_parse(formula, names) for formula in (answer, truth)]
    if formulas[0] is None or formulas[1] is None:
        return False
    try:
        if relation == "equal":
            return _equal(formulas[0], formulas[1])
        return _multiple(formulas[0], formulas[1], positive=relation == "positive multiple")
    except CANNOT_SIMPLIFY:
        return False


def _multiple(answer: sympy.Expr, truth: sympy.Expr, positive: bool) -> bool:
    factor = sympy.simplify(answer / truth)
    if not factor.is_number or not factor.is_finite or factor.is_zero is not False:
        return False
    return not positive or bool(factor.is_positive)


def _equal(answer: sympy.Expr, truth: sympy.Expr) -> bool:
    if verify([truth], [answer], numeric_precision=NUMERIC_DIGITS, timeout_seconds=None):
        return True
    # math-verify compares a single letter with anything by its text.
    letter = isinstance(answer, sympy.Symbol) or isinstance(truth, sympy.Symbol)
    return letter and sympy.simplify(answer - truth) == 0


def _parse(formula: str, names: dict[str, int]) -> sympy.Expr | None:
    """Read a formula; None if it has a part that the parser would drop or misread."""
    latex = _latex(formula, names)
    if latex is None:
        return None
    try:
        parsed = latex2sympy(latex, is_real=True, convert_degrees=False, normalization_config=None)
    except Exception:  # the parser raises bare Exceptions, and its own errors, for what it cannot read
        return None
    if not isinstance(parsed, sympy.Expr):
        return None
    imaginary = {symbol: sympy.I for symbol in parsed.free_symbols if symbol.name == "i"}
    return parsed.subs(imaginary) if imaginary else parsed


def _latex(formula: str, names: dict[str, int]) -> str | None:
    """Write a formula for the parser, with {x_{1}}, {x_{2}}, ... for names; None if a part is not known here."""
    parts: list[str] = []
    end = 0
    for token in TOKEN.finditer(formula):
        text = token[0]
        if token.start() != end or token["base"] or (token["log"] and not parts[-1].startswith(r"\log")):
            return None
        end = token.end()
        if token["number"]:
            # A product must have a sign: the parser takes 2(\frac{1}{2}) for a mixed number.
            product = r"\cdot " if formula.startswith(("(", r"\frac"), end) else ""
            parts.append(f"{{{_fraction(text)}}}" if parts[-1:] == ["^"] else _fraction(text) + product)
        elif token["name"] and text not in ("e", "i"):
            parts.append(f"{{x_{{{names.setdefault(text.replace(' ', ''), len(names) + 1)}}}}}")
        else:
            parts.append(r"\cdot " if text == "*" else text)
    return "".join(parts) if end == len(formula) else None


def _fraction(text: str) -> str:
    value = number(text).value  # type: ignore[union-attr]
    return str(value) if value.denominator == 1 else rf"(\frac{{{value.numerator}}}{{{value.denominator}}})"
