r"""Compare two answers in LaTeX or plain text: the whole of one with the whole of the other.

`same` asks, in this order:

1. Text: are both the same but for white space, delimiters, sizes, fonts and emphasis? Words are compared in no other
   way.
2. Numbers: are both the same exact value? A base is a part of a number: 52_8 is neither 52 nor 52_9.
3. Structure: lists, sets, tuples, intervals, unions, matrices, equations and inequalities are compared part by part.
   Lists without brackets and sets have no order; \pm makes two elements. "x=5" is 5, and it is not "y=5". A unit counts
   where both answers have one.
4. Formulas: two formulas that are left go to a callback, which asks math-verify (formulas.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from verl_lad.rewards.notation import GREEK, NO_UNITS, canonical, number

# Decides whether a formula of the answer is "equal" to one of the truth, "proportional" to it or a "positive multiple".
Decide = Callable[[str, str, str], bool]

TOKEN = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
OPENING = ("(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\begin")
CLOSING = (")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\end")
EQUALITIES = ("=", r"\approx", r"\equiv")
INEQUALITIES = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}  # and how each reads from right to left
RELATIONS = (*EQUALITIES, *INEQUALITIES, r"\ne", r"\in")
MATRIX = re.compile(r"\\begin\{[pbB]?(matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{[pbB]?\1\}", re.DOTALL)
UNIT = re.compile(
    r"(.+?)((?:\\text\{[^{}]*\})+(?:\^[23])?|\\pmod\{?\w+\}?|\\b?mod ?\w+|\((?:\\text\{mod\}|\\?mod) ?\w+\))", re.DOTALL
)
TEXT = re.compile(r"\\text\{([^{}]*)\}")
SYMBOL = rf"(?:\\(?:{GREEK})|[A-Za-z])"
SUBSCRIPT = r"(?:_(?:\{[^{}]*\}|\\[A-Za-z]+|\w))?"
NAME = (
    rf"(?:{SYMBOL}{SUBSCRIPT}(?:\^\{{(?:\\prime)+\}})? ?(?:\([^()=]*\))?"
    r"|\\(?:angle|triangle|overline|vec|hat) ?\{?[A-Za-z0-9_]+\}?|\\text\{[^{}]*\})"
)
ONE_NAME = re.compile(rf"{NAME}|\([A-Za-z](?:,[A-Za-z])+\)")
NAMES = re.compile(rf"{NAME}(?:[+-]?{NAME})*|\|{NAME}+\||\([A-Za-z](?:,[A-Za-z])+\)")

SAME_UNIT = {
    "millimeter": "mm", "centimeter": "cm", "kilometer": "km", "meter": "m", "inche": "in", "inch": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mile": "mi", "kilogram": "kg", "gram": "g", "second": "s", "sec": "s", "minute": "min",
    "hour": "h", "hr": "h", "deg": "degree", "liter": "l", "sq": "square", "cu": "cubic",
}  # fmt: skip


@dataclass(frozen=True)
class Elements:
    """A list, set, tuple or interval.

    Attributes:
        brackets: the two brackets around it; "" for a list without any.
        parts: the elements, in canonical form.
    """

    brackets: str
    parts: list[str]

    @property
    def unordered(self) -> bool:
        """Tell whether the order of the elements means nothing."""
        return self.brackets in ("", r"\{\}")


@dataclass(frozen=True)
class Relation:
    """Formulas with relations between them.

    Attributes:
        signs: the relations.
        parts: the formulas before, between and behind them, one more than relations.
    """

    signs: list[str]
    parts: list[str]


def same(answer: str, truth: str, decide: Decide) -> bool:
    """Compare an answer with the true one.

    Args:
        answer: LaTeX or plain text of a model.
        truth: LaTeX or plain text of the data set.
        decide: decides about two formulas in canonical form. Its arguments are "equal", "proportional" or "positive
            multiple", the answer's formula and the truth's formula.

    Returns:
        Whether both mean the same.
    """
    return _same(canonical(answer), canonical(truth), decide)


def without_name(text: str) -> str:
    """Reduce "x=5" to "5".

    Args:
        text: an answer in canonical form.

    Returns:
        What one name is said to be; `text` itself if it says something else.
    """
    relation = _relation(text)
    if relation is not None and relation.signs == ["="] and ONE_NAME.fullmatch(relation.parts[0]):
        return relation.parts[1]
    return text


def without_unit(text: str) -> str:
    """Remove a unit, a percent sign and degrees from an answer in canonical form."""
    return _value_and_unit(text)[0].removesuffix("%").removesuffix(r"^\circ")


def _same(answer: str, truth: str, decide: Decide) -> bool:
    answer, truth = _without_group(answer), _without_group(truth)
    if answer == truth or _plain(answer) == _plain(truth):
        return answer != ""
    if not answer or not truth:
        return False
    if TEXT.fullmatch(truth):
        return _plain(answer).casefold() == _plain(truth).casefold()
    numbers = number(answer), number(truth)
    if numbers[0] is not None and numbers[1] is not None:
        if numbers[0].equals(numbers[1]):
            return True
        if "," not in answer and "," not in truth:
            return False
        # "100,200" is a number or a list.
    relations = _relation(answer), _relation(truth)
    if relations[0] is not None or relations[1] is not None:
        return _same_relations(answer, truth, relations[0], relations[1], decide)
    if _is_union(answer) or _is_union(truth):
        return _same_in_any_order(_parts_of_union(answer), _parts_of_union(truth), decide)
    elements = _elements(answer), _elements(truth)
    if elements[0] is not None or elements[1] is not None:
        return _same_elements(elements[0] or Elements("", [answer]), elements[1] or Elements("", [truth]), decide)
    matrices = MATRIX.fullmatch(answer), MATRIX.fullmatch(truth)
    if matrices[0] and matrices[1]:
        return _same_matrices(matrices[0][2], matrices[1][2], decide)
    (answer_value, unit), (true_value, true_unit) = _value_and_unit(answer), _value_and_unit(truth)
    if unit or true_unit:
        return (not unit or not true_unit or unit == true_unit) and _same(answer_value, true_value, decide)
    return decide("equal", answer, truth)


def _without_group(text: str) -> str:
    """Remove braces around the whole, and parentheses around the whole if it is one element."""
    while text[:1] in ("{", "(") and _closes_at_end(text):
        inner = text[1:-1]
        if text[0] + text[-1] != "{}" and (text[-1] != ")" or len(_parts_of_list(inner)) > 1):
            break
        text = inner
    return text


def _plain(text: str) -> str:
    """Write words without \\text{...}, as a model may write them."""
    return TEXT.sub(lambda match: match[1].replace(" ", ""), text)


def _split(text: str, separators: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Split a text at separators outside brackets; return the parts and the separators between them."""
    parts, between, depth = [""], [], 0
    for token in TOKEN.findall(text):
        kind = token.partition("{")[0] if token.startswith((r"\begin", r"\end")) else token
        depth += (kind in OPENING) - (kind in CLOSING)
        if token in separators and depth == 0:
            between.append(token)
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts], between


def _parts_of_list(text: str) -> list[str]:
    """Split a list. A semicolon stands for a comma with a space behind, and separates 7,500 from 2,500."""
    parts = _split(text, (";",))[0]
    if len(parts) == 1:
        return _split(text, (",",))[0]
    return [one for part in parts for one in ([part] if number(part) else _split(part, (",",))[0])]


def _elements(text: str) -> Elements | None:
    """Read a list, set, tuple or interval; None if the text is something else."""
    brackets = ""
    inner = text
    for opening in (r"\{", "(", "["):
        if text.startswith(opening) and _closes_at_end(text):
            brackets = opening + (r"\}" if text.endswith(r"\}") else text[-1])
            inner = text[len(opening) : -len(r"\}") if text.endswith(r"\}") else -1]
    parts = _parts_of_list(inner)
    if brackets in ("", r"\{\}"):
        parts = [sign for part in parts for sign in _both_signs(part)]
    if len(parts) == 1 and brackets != r"\{\}":
        return None
    return Elements(brackets, parts)


def _closes_at_end(text: str) -> bool:
    """Tell whether the bracket at the start is closed by the end of the text."""
    depth = 0
    tokens = TOKEN.findall(text)
    for place, token in enumerate(tokens):
        depth += (token in OPENING) - (token in CLOSING)
        if depth == 0:
            return place == len(tokens) - 1
    return False


def _both_signs(text: str) -> list[str]:
    r"""Write \pm and \mp as two formulas."""
    if not re.search(r"\\[pm][mp](?![A-Za-z])", text):
        return [text]
    upper = re.sub(r"\\pm ?", "+", re.sub(r"\\mp ?", "-", text))
    lower = re.sub(r"\\pm ?", "-", re.sub(r"\\mp ?", "+", text))
    return [re.sub(r"(^|[=({,])\+", r"\1", sign) for sign in (upper, lower)]


def _same_elements(answer: Elements, truth: Elements, decide: Decide) -> bool:
    if answer.unordered and truth.unordered:
        return _same_in_any_order(answer.parts, truth.parts, decide)
    comparable = answer.brackets == truth.brackets or {answer.brackets, truth.brackets} == {"", "()"}
    if not comparable or len(answer.parts) != len(truth.parts):
        return False
    return all(_same(part, true, decide) for part, true in zip(answer.parts, truth.parts, strict=True))


def _same_in_any_order(answers: list[str], truths: list[str], decide: Decide) -> bool:
    if len(answers) != len(truths):
        return False
    left = list(answers)
    for truth in sorted(truths, key=lambda part: part not in answers):  # what is there as text needs no decision
        match = truth if truth in left else next((part for part in left if _same(part, truth, decide)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_matrices(answer: str, truth: str, decide: Decide) -> bool:
    rows, true_rows = ([_split(row, ("&",))[0] for row in _split(cells, (r"\\",))[0]] for cells in (answer, truth))
    rows, true_rows = ([row for row in matrix if row != [""]] for matrix in (rows, true_rows))
    return [len(row) for row in rows] == [len(row) for row in true_rows] and all(
        _same(cell, true, decide)
        for row, true_row in zip(rows, true_rows, strict=True)
        for cell, true in zip(row, true_row, strict=True)
    )


def _is_union(text: str) -> bool:
    return len(_split(text, (r"\cup",))[0]) > 1


def _parts_of_union(text: str) -> list[str]:
    """Split a union; "x<2 or x>3" is one, too."""
    parts = _parts_of_list(text)
    return parts if all(map(_relation, parts)) else _split(text, (r"\cup",))[0]


def _relation(text: str) -> Relation | None:
    """Read a relation; None if the text is something else, or a list."""
    if len(_parts_of_list(text)) > 1:
        return None
    parts, signs = _split(text, RELATIONS)
    return Relation(["=" if sign in EQUALITIES else sign for sign in signs], parts) if signs else None


def _same_relations(answer: str, truth: str, said: Relation | None, true: Relation | None, decide: Decide) -> bool:
    """Compare two answers of which one is a relation at least."""
    if said is not None and true is not None and said.signs == ["="] and true.signs == ["="]:
        return _same_equations(said.parts, true.parts, decide)
    name, value = _named(answer, said)
    true_name, true_value = _named(truth, true)
    if value is not None and true_value is not None:
        return (not name or not true_name or name == true_name) and _same(value, true_value, decide)
    if said is None or true is None or len(said.signs) != 1 or len(true.signs) != 1:
        return said is not None and true is None and _says(said, truth, decide)
    for sign, parts in ((said.signs[0], said.parts), (INEQUALITIES.get(said.signs[0]), said.parts[::-1])):
        if sign == true.signs[0]:
            multiple = "proportional" if sign not in INEQUALITIES else "positive multiple"
            return decide(multiple, _difference(parts), _difference(true.parts))
    return False


def _same_equations(parts: list[str], true_parts: list[str], decide: Decide) -> bool:
    if parts[0] == true_parts[0]:
        return _same(parts[1], true_parts[1], decide)
    return decide("proportional", _difference(parts), _difference(true_parts))


def _difference(parts: list[str]) -> str:
    """Write an equation's left side minus its right side."""
    return f"({parts[0]})-({parts[1]})"


def _named(text: str, relation: Relation | None) -> tuple[str, str | None]:
    """Read what is said of one name: the name or "", and its value or interval; None if something else is said."""
    if relation is None:
        return "", text
    parts, signs = relation.parts, relation.signs
    if signs in (["="], [r"\in"]) and _is_name(parts[0], parts[1]):
        return parts[0], parts[1]
    if len(signs) == 1 and signs[0] in INEQUALITIES:
        if not _is_name(parts[0], parts[1]):
            parts, signs = parts[::-1], [INEQUALITIES[signs[0]]]
        if _is_name(parts[0], parts[1]):
            closed = signs[0] in (r"\le", r"\ge")
            if signs[0] in ("<", r"\le"):
                return parts[0], rf"(-\infty,{parts[1]}{']' if closed else ')'}"
            return parts[0], rf"{'[' if closed else '('}{parts[1]},\infty)"
    if len(signs) == 2 and _is_name(parts[1], parts[0]):
        if signs[0] in (">", r"\ge"):
            parts, signs = parts[::-1], [INEQUALITIES.get(sign, "") for sign in signs[::-1]]
        if set(signs) <= {"<", r"\le"}:
            brackets = "[" if signs[0] == r"\le" else "(", "]" if signs[1] == r"\le" else ")"
            return parts[1], f"{brackets[0]}{parts[0]},{parts[2]}{brackets[1]}"
    return "", None


def _is_name(text: str, value: str) -> bool:
    """Tell whether a text is a name; two letters are one where a number is said of them, as in AB=5."""
    return bool(ONE_NAME.fullmatch(text) or (NAMES.fullmatch(text) and number(without_unit(value)) is not None))


def _says(said: Relation, truth: str, decide: Decide) -> bool:
    """Tell whether an equation says the truth, which is none: each part is a name or the truth, as in m+n=3+4=7."""
    if set(said.signs) != {"="}:
        return False
    true = [not NAMES.fullmatch(part) and _same(part, truth, decide) for part in said.parts]
    return any(true) and all(is_true or NAMES.fullmatch(part) for is_true, part in zip(true, said.parts, strict=True))


def _value_and_unit(text: str) -> tuple[str, str]:
    """Split a unit off; "square inches" and "inches^2" are one. Words that change the value are none."""
    match = UNIT.fullmatch(text)
    words = re.findall(r"[a-z]+|\d+", TEXT.sub(r"\1 ", match[2]).lower()) if match else []
    if match is None or not NO_UNITS.isdisjoint(words):
        return text, ""
    words = [SAME_UNIT.get(word, word) for word in (word.rstrip("s") or word for word in words)]
    power = {"square": "2", "cubic": "3"}.get(words[0]) if words else None
    return match[1], " ".join([*words[1:], power] if power else words)
