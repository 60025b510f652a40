r"""Read LaTeX and plain text: one notation for what looks different and means the same, and numbers as exact values."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

GREEK = (
    r"alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|"
    r"phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega"
)
ACCENTS = "dot|ddot|hat|bar|tilde|vec|overline"
FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"

CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\n\t\r", " "), **dict.fromkeys("\u2032\u2019", "'"), "\uff0c": ",",
        "\u3001": ",", "\u3002": ".", "\u00f7": "/", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ",
        "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u2264": r"\le ", "\u2265": r"\ge ",
        "\u2260": r"\ne ", "\u00b1": r"\pm ", "\u2208": r"\in ", "\u222a": r"\cup ", "\u2248": r"\approx ",
        "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03b8": r"\theta ",
    }
)  # fmt: skip
RAISED_DIGITS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-")
RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
SYNONYMS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom", "leq": r"\le",
    "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "neq": r"\ne", "lt": "<", "gt": ">", "times": "*",
    "cdot": "*", "ast": "*", "div": "/", "lbrace": r"\{", "rbrace": r"\}", "langle": "(", "rangle": ")",
    "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "degree": r"^\circ",
    "lor": ",", "land": ",", "percent": "%", "left": "", "right": "", "middle": "", "big": "", "Big": "", "bigg": "",
    "Bigg": "", "bigl": "", "bigr": "", "Bigl": "", "Bigr": "", "displaystyle": "", "textstyle": "", "limits": "",
    "rm": "", "bf": "", "quad": " ", "qquad": " ",
}  # fmt: skip
COMMAND = re.compile(r"\\([A-Za-z]+)")
THOUSANDS_MARK = re.compile(r"\{,\}|,\s*\\!\s*")
SPACE = re.compile(r"(?<!\\)\\[;: ]|~")
THIN_SPACE = re.compile(r"(?<!\\)\\,")
DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]|\\?[$\u00a3\u20ac]|\\(?:text)?color\s*\{\w+\}")
FONT = re.compile(
    r"\\(?:math(?:bf|rm|it|sf|tt|normal)|boldsymbol|bm|text(?:bf|it|rm|sf|tt|up|normal)?|[mh]box|boxed|fbox|underline|operatorname)\*?"
    r"\s*\{([^{}]*)\}"
)
EDGES = re.compile(r"^[\s*`]+|(?:[\s*`.,;:]|\\\\)+$")
LEADING_EQUALITY = re.compile(r"^(?:=|\\(?:approx|sim|simeq)(?![A-Za-z]) ?)+")
WORDS = re.compile(r"[A-Za-z]{2}")
LETTER_UNIT = re.compile(r"[mgslhJNWVACKL](?:[/*^-]*[A-Za-z\d])*")
FUNCTION_NAME = re.compile(FUNCTIONS)
# A name without its backslash, as plain text and Python write it.
BARE_NAME = re.compile(rf"(?<![A-Za-z\\])(?:np\.|math\.)?({FUNCTIONS}|sqrt|infty|infinity|{GREEK})(?![A-Za-z])")
PLAIN_ROOT = re.compile(r"(?:\u221a|(?<![A-Za-z\\])sqrt)\s*(\d+(?:\.\d+)?)")
PLAIN_SCRIPT = re.compile(r"([\^_])\s*(-?\d+)")
LIST_COMMA = re.compile(r"(?<=\d),\s+(?=\d)")
AND_OR = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\text\{(?:and|or)\}")
PERCENT = re.compile(r"\\%|(?<![A-Za-z\\])[Pp]er\s?cent(?![A-Za-z])|\\text\{(?:[Pp]er\s?cent|%)\}")
PRIMES = re.compile(r"'+|\^\s*\{?\s*\\prime(?:\s*\\prime)*\s*\}?")

# Words that may stand behind a number without \text{...}: any of four letters and more, and these.
SHORT_UNITS = "mm|cm|km|in|ft|yd|kg|lb|lbs|oz|sec|min|hr|hrs|day|way|ways|men|cup|box|mph|rad|deg|sq|cu"
PLAIN_UNIT = re.compile(rf"(?<=[\d)}}])\s+((?:[A-Za-z]{{4,}}|{SHORT_UNITS})(?:\s+[A-Za-z]+)*)(\s*\^\s*\{{?[23]\}}?)?$")
# Words that change the number before them.
NO_UNITS = {
    "or", "and", "plus", "minus", "times", "over", "squared", "cubed", "factorial", "choose", "base", "octal",
    "binary", "decimal", "hundred", "thousand", "million", "billion", "trillion", "dozen", "half", "halves", "third",
    "thirds", "quarter", "quarters", "tenth", "tenths", "hundredth", "hundredths", "thousandths", "percent", "not",
    "to", "negative", "modulo",
}  # fmt: skip

DIGITS = r"\d{1,3}(?:\{,\}\d{3})+|\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
DECIMAL = re.compile(
    rf"([+-]?)(?:10\^\{{?(?P<ten>[+-]?\d{{1,4}})\}}?"
    rf"|(?P<whole>{DIGITS})?(?P<point>\.(?P<decimals>\d*)(?:\\overline\{{(?P<repeated>\d{{1,100}})\}})?)?"
    r"(?:[eE](?P<e>[+-]?\d{1,4})|\*10\^\{?(?P<power>[+-]?\d{1,4})\}?)?)"
)
FRACTION = re.compile(
    r"([+-]?)(?:(\d+) ?(?=\\frac)|(\d+) (?=\d+/))?(?:\\frac\{([^{}]+)\}\{([^{}]+)\}|([^{}/]+)/([^{}/]+))"
)
BASED = re.compile(r"([+-]?)\(?([0-9A-Z]+)\)?_(?:\{\(?(\d{1,2})\)?\}|(\d))")


@dataclass(frozen=True)
class Number:
    """A number as it is written.

    Attributes:
        value: the exact value; of a percentage, the number before the sign.
        base: the base that a subscript names, or None.
        percent: whether a percent sign follows.
    """

    value: Fraction
    base: int | None = None
    percent: bool = False

    def equals(self, other: "Number") -> bool:
        """Compare two numbers. A percentage is also its hundredth, and without a sign also the number before it."""
        if self.base != other.base:
            return False
        if self.percent == other.percent:
            return self.value == other.value
        percentage, plain = (self, other) if self.percent else (other, self)
        return plain.value in (percentage.value, percentage.value / 100)


def canonical(text: str) -> str:
    r"""Write an answer in one notation, without white space and decoration.

    Args:
        text: LaTeX or plain text.

    Returns:
        The text without delimiters, sizes and fonts. Only words have \text{...}, products have `*`, arguments of \frac
        and \sqrt have braces, and an exponent or subscript of one character has none.
    """
    text = RAISED.sub(lambda match: "^{" + match[0].translate(RAISED_DIGITS) + "}", text)
    text = _without_layout(text.translate(CHARACTERS))
    for _ in range(3):  # a font within a font
        text = FONT.sub(_without_font, text)
    text = AND_OR.sub(",", PERCENT.sub("%", text))
    text = LIST_COMMA.sub(";", PLAIN_SCRIPT.sub(r"\1{\2}", text))
    text = PLAIN_UNIT.sub(_unit_as_text, text)
    text = _outside_text(text, _with_commands)
    text = _outside_text(_with_braces(text), _without_space)
    return LEADING_EQUALITY.sub("", re.sub(r",+", ",", text).strip(","))


def _without_layout(text: str) -> str:
    text = THOUSANDS_MARK.sub("{,}", text).replace(r"\!", "")
    text = THIN_SPACE.sub(" ", SPACE.sub(" ", DELIMITER.sub(" ", text)))
    text = COMMAND.sub(lambda match: SYNONYMS.get(match[1], match[0]), text)
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ")
    text = re.sub(r"(?<=\d)\s*x\s*(?=10\s*\^)", "*", text)
    return re.sub(r"(?<=[\w)}])\s*\*\*\s*(?=[\w({-])", "^", EDGES.sub("", text))


def _without_font(font: re.Match[str]) -> str:
    content, before = font[1].strip(), font.string[: font.start()].rstrip()
    if FUNCTION_NAME.fullmatch(content):
        return f"\\{content} "
    is_unit = before.endswith((*"0123456789}",)) and LETTER_UNIT.fullmatch(content)
    if before.rstrip("{").endswith("_") or content[:1].isdigit() or not (is_unit or WORDS.search(content)):
        return font[1]
    return rf"\text{{{content}}}"


def _unit_as_text(unit: re.Match[str]) -> str:
    words = re.findall("[a-z]+", unit[1].lower())
    if NO_UNITS.isdisjoint(words) and not re.search(rf"\b(?:{GREEK}|{FUNCTIONS}|sqrt|inf\w*)\b", unit[1]):
        return rf"\text{{{unit[1]}}}{unit[2] or ''}"
    return unit[0]


def _outside_text(text: str, change: Callable[[str], str]) -> str:
    return "".join(
        part if part.startswith(r"\text{") else change(part) for part in re.split(r"(\\text\{[^{}]*\})", text)
    )


def _with_commands(text: str) -> str:
    text = PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    text = BARE_NAME.sub(lambda match: "\\" + ("infty" if match[1] == "infinity" else match[1]) + " ", text)
    return PRIMES.sub(lambda match: "^{" + r"\prime" * max(match[0].count("'"), match[0].count("prime")) + "}", text)


def _with_braces(text: str) -> str:
    r"""Put braces around the arguments of \frac, \binom and \sqrt, and in place of parentheses after `^` and \sqrt."""
    parts: list[str] = []
    end = 0
    for command in re.finditer(rf"\\(frac|binom|sqrt|{ACCENTS})(?![A-Za-z])\s*(\[[^\[\]]*\])?|(\^)\s*(?=\()", text):
        if command.start() < end:
            continue
        parts.append(text[end : command.start()] + command[0].strip())
        end = command.end()
        for _ in range({"frac": 2, "binom": 2}.get(command[1], 1)):
            argument, end = _argument(text, end)
            parts.append("{" + _with_braces(argument) + "}")
    return "".join(parts) + text[end:]


def _argument(text: str, start: int) -> tuple[str, int]:
    """Read the argument at `start`: a group in braces or parentheses, a command, or a character; and where it ends."""
    match = re.compile(r"\s*(\\[A-Za-z]+|\d|\S|)").match(text, start)
    assert match is not None
    if match[1] in ("{", "("):
        end = _closing(text, match.start(1))
        return text[match.end() : end], end + 1
    return match[1], match.end()


def _closing(text: str, start: int) -> int:
    """Find the bracket that closes the one at `start`; the end of the text without one."""
    depth = 0
    for token in re.finditer(r"\\.|[(\[{)\]}]", text[start:]):
        if token[0] in ("(", "[", "{"):
            depth += 1
        elif token[0] in (")", "]", "}"):
            depth -= 1
            if depth == 0:
                return start + token.start()
    return len(text)


def _without_space(text: str) -> str:
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|(?<=\d)\s+(?=\d)|\s+", _space_left, text)
    return re.sub(r"([\^_])\{(\w|\\(?!prime)[A-Za-z]+)\}(?!\d)(?=([A-Za-z]?))", _unbraced, text)


def _space_left(space: re.Match[str]) -> str:
    if space[1]:
        return f"{space[1]} "
    before, after = space.string[: space.start()][-1:], space.string[space.end() :][:1]
    return " " if before.isdigit() and after.isdigit() else ""


def _unbraced(group: re.Match[str]) -> str:
    return group[1] + group[2] + (" " if group[2].startswith("\\") and group[3] else "")


def number(text: str) -> Number | None:
    """Read a number.

    Args:
        text: an answer in canonical form.

    Returns:
        The number, or None if the text is not one number.
    """
    if match := BASED.fullmatch(text):
        return _based(match)
    percent = text.endswith("%")
    value = _value(text.removesuffix("%").removesuffix(r"^\circ"))
    return None if value is None else Number(value, percent=percent)


def _value(text: str) -> Fraction | None:
    value = _decimal(text)
    if value is not None:
        return value
    match = FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, whole = match[1], match[2] or match[3]
    numerator, denominator = (_decimal(part) for part in (match[4] or match[6], match[5] or match[7]))
    if numerator is None or not denominator or (whole and numerator < 0):
        return None
    value = numerator / denominator + int(whole or 0)
    return -value if sign == "-" else value


def _decimal(text: str) -> Fraction | None:
    match = DECIMAL.fullmatch(text)
    if match is None:
        return None
    if match["ten"]:
        value = Fraction(10) ** int(match["ten"])
    elif match["whole"] or match["decimals"] or match["repeated"]:
        whole, decimals, repeated = (
            re.sub(r"\D", "", match["whole"] or ""),
            match["decimals"] or "",
            match["repeated"] or "",
        )
        value = Fraction(int(f"0{whole}{decimals}"), 10 ** len(decimals))
        if repeated:
            value += Fraction(int(repeated), 10 ** len(decimals) * (10 ** len(repeated) - 1))
        value *= Fraction(10) ** int(match["e"] or match["power"] or 0)
    else:
        return None
    return -value if match[1] == "-" else value


def _based(match: re.Match[str]) -> Number | None:
    base = int(match[3] or match[4])
    try:
        value = Fraction(int(match[1] + match[2], base)) if base else None
    except ValueError:  # a digit that the base does not have, or a base that nobody writes
        return None
    return None if value is None else Number(value, None if base == 10 else base)
