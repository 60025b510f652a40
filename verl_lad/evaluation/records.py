"""Read JSON lines, and name the file and line of what cannot be read.

The readers of this package take `complaints`. Without it, the first fault raises. With it, each fault is appended as a
sentence, and everything else is kept.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

MAX_NAMED_LINES = 5
"""Bad lines of one file that are named one by one. A foreign file would name thousands."""

MAX_DEPTH = 100
"""Lists and objects within each other in one line."""

MAX_STEP = 2**53
"""Bound on a training step, so that it is exact as a float."""

MAX_NUMBER = 1e300
"""Bound on the size of a number, so that it can be drawn beside others."""

Parsed = TypeVar("Parsed")


def complain(message: str, complaints: list[str] | None) -> None:
    """Raise a ValueError, or append the message to `complaints` if given."""
    if complaints is None:
        raise ValueError(message)
    complaints.append(message)


def open_file(path: Path, complaints: list[str] | None) -> BinaryIO | None:
    """Open a regular file; complain and return None where that is impossible."""
    try:
        if path.is_file():
            return path.open("rb")
        reason = "not a file"
    except OSError as error:
        reason = f"{error.strerror}"
    complain(f"{path}: cannot be read: {reason}", complaints)
    return None


def read_lines(
    path: Path, parse: Callable[[dict[str, Any]], Parsed], complaints: list[str] | None = None
) -> Iterator[tuple[int, Parsed]]:
    """Read a file of one JSON object a line.

    Args:
        path: the file. It streams.
        parse: makes the result of a line's object; raises a ValueError that says what is wrong with it.
        complaints: collects what cannot be read, see the module.

    Yields:
        Offset of the line in bytes, and the result of `parse`.

    Raises:
        ValueError: without `complaints`, at the first line that cannot be read; names file and line.
    """
    lines = open_file(path, complaints)
    if lines is None:
        return
    offset = bad = 0
    with lines:
        for number, line in enumerate(lines, start=1):
            try:
                parsed = parse(parse_object(line))
            except ValueError as error:
                bad += 1
                if bad <= MAX_NAMED_LINES:
                    cut = "" if line.endswith(b"\n") else " (the last line has no end: a write that was cut off?)"
                    complain(f"{path}, line {number}: {error}{cut}", complaints)
            else:
                yield offset, parsed
            offset += len(line)
    if bad > MAX_NAMED_LINES:
        complain(f"{path}: {bad} lines were left out, of which the first {MAX_NAMED_LINES} are named", complaints)


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; a half of a surrogate pair, which no file or screen takes, becomes a question mark.

    Raises:
        ValueError: if the text is malformed or something else than an object.
    """
    try:
        value = json.loads(text.decode("utf-8-sig"))
        if b"\\u" in text:
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("malformed JSON: nested too deeply") from error
    except ValueError as error:  # JSONDecodeError or UnicodeDecodeError
        raise ValueError(f"malformed JSON: {error}") from error
    level, depth = [value], 0
    while level:
        level = [child for node in level for child in _children(node)]
        depth += 1
    if depth > MAX_DEPTH:  # json recurses: it might not write what it read, or not read it again
        raise ValueError("malformed JSON: nested too deeply")
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _children(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


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
