"""The diffs of verl_lad.patches.diff, against git's and patch's own."""

import subprocess

import pytest

from verl_lad.patches.diff import Mismatch, parse_diff

BEFORE = "".join(f"line {n}\n" for n in range(1, 31))
AFTER = "zero\n" + BEFORE.replace("line 10\n", "line ten\nand more\n").replace("line 20\n", "").replace(
    "line 30\n", "the end"
)


def git_diff(directory, before, after):
    """What git writes for a file x that changes; None means that it is absent."""
    for name, content in (("a", before), ("b", after)):
        (directory / name).mkdir(parents=True)
        if content is not None:
            (directory / name / "x").write_bytes(content.encode())
    sides = [f"{name}/x" if content is not None else "/dev/null" for name, content in (("a", before), ("b", after))]
    command = ["git", "diff", "--no-index", "--no-prefix", "--no-color", *sides]
    return subprocess.run(command, cwd=directory, capture_output=True, check=False).stdout.decode()


CASES = {
    "several hunks": (BEFORE, AFTER),
    "end of file gains its newline": ("a\nb", "a\nb\n"),
    "end of file loses its newline": ("a\nb\n", "a\nb"),
    "both ends without newline": ("a\nb", "a\nc"),
    "carriage returns and form feeds": ("a\r\nb\x0cc\r\nd\n", "a\r\nB\x0cc\r\nd\n"),
    "a file that looks like a diff": ("-- a\n@@ b\n", "-- a\n++ c\n@@ b\n-- d\n"),
    "a new file": (None, "one\ntwo\n"),
    "a file that goes": ("one\ntwo\n", None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_does_what_git_wrote_forwards_and_backwards(case, tmp_path):
    before, after = CASES[case]
    (diff,) = parse_diff(git_diff(tmp_path, before, after))
    assert diff.path == "x"
    assert diff.apply(before) == after
    assert diff.reversed().apply(after) == before


@pytest.mark.parametrize("program", [["git", "apply"], ["patch", "-p1", "--fuzz=0", "-i"]], ids=["git", "patch"])
def test_it_does_what_the_programs_do(program, tmp_path):
    text = git_diff(tmp_path / "made", BEFORE, AFTER)
    (tmp_path / "x").write_text(BEFORE)
    (tmp_path / "x.patch").write_text(text)
    subprocess.run([*program, "x.patch"], cwd=tmp_path, check=True, env={"PATH": "/usr/bin:/bin"}, capture_output=True)
    assert (tmp_path / "x").read_text() == parse_diff(text)[0].apply(BEFORE) == AFTER


def test_a_line_that_differs_is_named_with_both_contents(tmp_path):
    (diff,) = parse_diff(git_diff(tmp_path, BEFORE, AFTER))
    with pytest.raises(Mismatch, match=r"x:11 is 'LINE 11', expected 'line 11'"):
        diff.apply(BEFORE.replace("line 11\n", "LINE 11\n"))


def test_lines_elsewhere_than_named_and_files_cut_short_are_refused(tmp_path):
    (diff,) = parse_diff(git_diff(tmp_path, BEFORE, AFTER))
    for content in ("moved down\n" + BEFORE, BEFORE[:60], "", None, AFTER):
        with pytest.raises(Mismatch):
            diff.apply(content)


def test_a_new_file_does_not_replace_another(tmp_path):
    (diff,) = parse_diff(git_diff(tmp_path, None, "one\n"))
    with pytest.raises(Mismatch, match="x exists already"):
        diff.apply("one\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no diff\n",
        "--- a/x\n+++ b/x\n",
        "--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n a\n",
        "--- a/x\n+++ b/x\n@@ -1 +1 @@\n?a\n",
        "--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n",
        "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n",
        "--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b\n",
        "rename from x\nrename to y\n",
    ],
)
def test_what_is_not_a_diff_of_text_within_the_directory_is_refused(text):
    with pytest.raises(ValueError, match=r"line \d+|no file in it"):
        parse_diff(text)
