"""Read JSON lines, and name the file and line of what cannot be read.

The readers of this package take `complain`, which they call with a sentence on each fault; everything else is kept. By
default it raises, so that the first fault ends the reading. The report collects with `list.append`.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

MAX_NAMED_LINES = 5
"""Bad lines of one file that are named one by one. A foreign file would name thousands."""

MAX_NUMBER = 1e300
"""Bound on the size of a number, so that it can be drawn beside others."""

Complain = Callable[[str], None]
Parsed = TypeVar("Parsed")


def refuse(message: str) -> None:
    """Raise a ValueError with the message."""
    raise ValueError(message)


def read_file(path: Path, complain: Complain = refuse) -> list[bytes] | None:
    """Return the lines of a regular file; complain and return None where that is impossible."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.readlines()
        reason = "not a file"
    except OSError as error:
        reason = f"{error.strerror}"
    complain(f"{path}: cannot be read: {reason}")
    return None


def read_lines(path: Path, parse: Callable[[dict[str, Any]], Parsed], complain: Complain = refuse) -> list[Parsed]:
    """Read a file of one JSON object a line.

    Args:
        path: the file.
        parse: makes the result of a line's object; raises a ValueError that says what is wrong with it.
        complain: called with the file, line and fault of what cannot be read, see the module.

    Returns:
        What `parse` made of each line that can be read.
    """
    results, bad = [], 0
    for number, line in enumerate(read_file(path, complain) or [], start=1):
        try:
            results.append(parse(parse_object(line)))
        except (ValueError, RecursionError) as error:
            bad += 1
            fault = "malformed JSON: nested too deeply" if isinstance(error, RecursionError) else error
            cut = "" if line.endswith(b"\n") else " (the last line has no end: a write that was cut off?)"
            if bad <= MAX_NAMED_LINES:
                complain(f"{path}, line {number}: {fault}{cut}")
    if bad > MAX_NAMED_LINES:
        complain(f"{path}: {bad} lines were left out, of which the first {MAX_NAMED_LINES} are named")
    return results


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; a half of a surrogate pair, which no file or screen takes, becomes a question mark.

    Raises:
        ValueError: if the text is malformed or something else than an object.
        RecursionError: if it is nested too deeply.
    """
    try:
        value = json.loads(text.decode("utf-8-sig"))
        if b"\\u" in text:
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except ValueError as error:  # JSONDecodeError or UnicodeDecodeError
        raise ValueError(f"malformed JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def text_under(entry: dict[str, Any], key: str) -> str:
    """Return the string under a key, or raise a ValueError that names the key."""
    value = entry.get(key)
    if not isinstance(value, str):
        raise ValueError(f'the key "{key}" must be a string, got {value!r:.200}')
    return value


def number_under(entry: dict[str, Any], key: str) -> float:
    """Return the number under a key, or raise a ValueError that names the key."""
    value = entry.get(key)
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= MAX_NUMBER:
        raise ValueError(f'the key "{key}" must be a finite number, at most {MAX_NUMBER:g}, got {value!r:.200}')
    return number
