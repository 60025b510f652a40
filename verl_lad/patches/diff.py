"""A unified diff, applied exactly or not at all.

`patch` applies with fuzz and `git apply` at other line numbers, and both may be absent where models are trained. Here
each line of a hunk must stand at the line that the hunk names. tests/patches compares the results with both programs'.
"""

import re
from dataclasses import dataclass

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NO_NEWLINE = "\\ No newline at end of file"


class Mismatch(ValueError):
    """A file is not the one that a diff was made for. The message names file, line, and both contents."""


@dataclass(frozen=True)
class Hunk:
    """Lines, with their ends, that follow each other in a file.

    Attributes:
        old_start, new_start: number of the first line, from 1; of the line before it if there is none.
        old, new: the lines before and after.
    """

    old_start: int
    new_start: int
    old: tuple[str, ...]
    new: tuple[str, ...]

    def reversed(self) -> "Hunk":
        """The hunk that undoes this one."""
        return Hunk(self.new_start, self.old_start, self.new, self.old)


@dataclass(frozen=True)
class FileDiff:
    """What a diff does to one file.

    Attributes:
        path: relative, with forward slashes.
        creates, deletes: whether the file is absent before, or after.
        hunks: in the order of the file.
    """

    path: str
    creates: bool
    deletes: bool
    hunks: tuple[Hunk, ...]

    def reversed(self) -> "FileDiff":
        """The diff that undoes this one."""
        return FileDiff(self.path, self.deletes, self.creates, tuple(hunk.reversed() for hunk in self.hunks))

    def apply(self, content: str | None) -> str | None:
        """The file afterwards.

        Args:
            content: the file, with its line ends; None if there is none.

        Returns:
            The new content; None if the diff deletes the file.

        Raises:
            Mismatch: if anything is not as the diff says.
        """
        if self.creates:
            if content is not None:
                raise Mismatch(f"{self.path} exists already")
            return "".join(self.hunks[0].new)
        if content is None:
            raise Mismatch(f"{self.path} does not exist")
        lines = re.findall(r"[^\n]*\n|[^\n]+", content)  # splitlines would also split at \f and its like
        result: list[str] = []
        done = 0
        for hunk in self.hunks:
            first = hunk.old_start - 1 if hunk.old else hunk.old_start
            for offset, expected in enumerate(hunk.old):
                number = first + offset
                found = lines[number] if number < len(lines) else "(end of file)"
                if found != expected:
                    raise Mismatch(f"{self.path}:{number + 1} is {found.rstrip()!r}, expected {expected.rstrip()!r}")
            result += lines[done:first]
            result += hunk.new
            done = first + len(hunk.old)
        result += lines[done:]
        if self.deletes:
            if result:
                raise Mismatch(f"{self.path} has {len(result)} lines that the patch does not know of")
            return None
        return "".join(result)


def parse_diff(text: str) -> tuple[FileDiff, ...]:
    """Reads a unified diff as `git diff` or `diff -u` write it: text files only, no renames.

    Args:
        text: the diff; what stands before the first `--- ` is ignored.

    Returns:
        One FileDiff for each file, in the diff's order.

    Raises:
        ValueError: naming the line, if this is not such a diff, or a path leaves the directory.
    """
    lines = text.split("\n")
    files: list[FileDiff] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith(("rename ", "GIT binary patch", "Binary files ")):
            raise ValueError(f"line {number + 1}: {line!r} is not supported")
        if not (line.startswith("--- ") and number + 1 < len(lines) and lines[number + 1].startswith("+++ ")):
            number += 1
            continue
        old_path, new_path = _path(line, number), _path(lines[number + 1], number + 1)
        path = new_path or old_path
        if path is None or (old_path and new_path and old_path != new_path):
            raise ValueError(f"line {number + 1}: from {old_path} to {new_path} is not supported")
        number += 2
        hunks = []
        while number < len(lines) and lines[number].startswith("@@"):
            hunk, number = _parse_hunk(lines, number)
            hunks.append(hunk)
        if not hunks:
            raise ValueError(f"line {number + 1}: no hunk for {path}")
        files.append(FileDiff(path, old_path is None, new_path is None, tuple(hunks)))
    if not files:
        raise ValueError("no file in it")
    return tuple(files)


def _path(line: str, number: int) -> str | None:
    name = line[4:].split("\t")[0].strip()
    if name == "/dev/null":
        return None
    prefix, _, path = name.partition("/")
    if prefix not in ("a", "b") or not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"line {number + 1}: path {name!r} is not allowed: a/... and b/..., within the directory")
    return path


def _parse_hunk(lines: list[str], number: int) -> tuple[Hunk, int]:
    head = HUNK.match(lines[number])
    if head is None:
        raise ValueError(f"line {number + 1}: {lines[number]!r} is not the head of a hunk")
    old_start, new_start = int(head[1]), int(head[3])
    old_count, new_count = int(head[2] or 1), int(head[4] or 1)
    old: list[str] = []
    new: list[str] = []
    last = ""
    number += 1
    while len(old) < old_count or len(new) < new_count or lines[number : number + 1] == [NO_NEWLINE]:
        if number >= len(lines):
            raise ValueError(f"line {number}: the hunk is cut off")
        line = lines[number]
        mark, rest = line[:1] or " ", line[1:] + "\n"
        if line == NO_NEWLINE:
            for side in (old, new) if last == " " else (old,) if last == "-" else (new,):
                side[-1] = side[-1].removesuffix("\n")
        elif mark in " -+":
            if mark in " -":
                old.append(rest)
            if mark in " +":
                new.append(rest)
            last = mark
        else:
            raise ValueError(f"line {number + 1}: {line!r} is not a line of a hunk")
        number += 1
    if (len(old), len(new)) != (old_count, new_count):
        raise ValueError(f"line {number}: the hunk has other lengths than its head says")
    return Hunk(old_start, new_start, tuple(old), tuple(new)), number
