"""docs/theory.md names a test for every statement, every test that it names exists, and none of ours is left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTES = (REPOSITORY / "docs" / "theory.md").read_text(encoding="utf-8")
TEST_ID = re.compile(r"`(tests/[\w/]+\.py::test_\w+)`")
ROW = re.compile(r"^\| (\d+\.\d+) \| (.*) \|$", re.MULTILINE)
"""Groups: a statement's number, and its tests, in the table at the end."""


def statements() -> dict[str, str]:
    """Number -> text, up to the next statement or section."""
    parts = re.split(r"^\*\*(\d+\.\d+) ", re.sub(r"^## .*$", "**0.0 ", NOTES, flags=re.MULTILINE), flags=re.MULTILINE)
    found: dict[str, str] = {}
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        if number != "0.0":
            assert number not in found, f"{number} is there twice"
            found[number] = text
    return found


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """Every test that pytest collects from the files that the notes name, and from this folder."""
    files = {name.split("::")[0] for name in TEST_ID.findall(NOTES)} | {"tests/theory"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(files)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return {line.split("[")[0] for line in run.stdout.splitlines() if "::" in line}


def test_statements_are_numbered_in_order_and_each_names_a_test():
    numbers = [tuple(map(int, number.split("."))) for number in statements()]
    sections = sorted({section for section, _ in numbers})
    assert sections == list(range(1, len(sections) + 1))
    expected = [(s, i + 1) for s in sections for i in range(sum(section == s for section, _ in numbers))]
    assert numbers == expected
    rows = ROW.findall(NOTES.partition("\n## Tests\n")[2])
    assert [number for number, _ in rows] == list(statements())
    for number, tests in rows:
        assert TEST_ID.search(tests), f"{number} names no test"
    for number, text in statements().items():
        assert not TEST_ID.search(text), f"{number} names a test outside the table"
        assert "*Proof.*" in text or "not a proof" in text, f"{number} has no proof"


def test_every_named_test_exists(collected):
    named = set(TEST_ID.findall(NOTES))
    assert len(named) > 50
    assert sorted(named - collected) == []


def test_every_test_of_this_folder_is_named(collected):
    ours = {name for name in collected if name.startswith("tests/theory/") and "/test_notes.py" not in name}
    assert sorted(ours - set(TEST_ID.findall(NOTES))) == []


def test_every_cross_reference_is_a_statement():
    # "by 1.3", "(2.1)": any d.d that stands alone and is neither a statement nor part of an arXiv number
    prose = re.sub(r"arXiv\s[\d.]+|https?\S+|`[^`]*`|\$[^$]*\$", "", NOTES)
    referred = set(re.findall(r"(?<![\w.])(\d{1,2}\.\d{1,2})(?![\w])", prose))
    assert referred <= set(statements()), referred - set(statements())
