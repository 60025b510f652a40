"""Each patch against the release that it is for, by both programs that patches/README.md names."""

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from .released import PATCHES, PROGRAMS, apply, copied, released_verl

RELEASED = {
    "verl-0.7.1": partial(released_verl, "0.7.1"),
    "verl-0.8.0": partial(released_verl, "0.8.0"),
    "upstream/verl-0.9.1-lad": partial(copied, Path(find_spec("verl").origin).parent),
    "openrlhf-0.11.2": partial(copied, Path(sys.prefix) / "frameworks" / "openrlhf"),
}
"""Patch -> a function that puts the package that it is for into a directory."""


def content(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyc")
    }


@pytest.fixture(scope="module", params=RELEASED)
def patch_and_package(request, tmp_path_factory):
    return PATCHES / f"{request.param}.patch", RELEASED[request.param](tmp_path_factory.mktemp("package"))


def test_every_patch_of_the_folder_is_tested():
    assert {str(path.relative_to(PATCHES).with_suffix("")) for path in PATCHES.rglob("*.patch")} == set(RELEASED)


def test_both_programs_apply_it_without_fuzz_and_revert_it(patch_and_package):
    patch, package = patch_and_package
    before, after = content(package), []
    for program in PROGRAMS:
        apply(program, patch, package)
        after.append(content(package))
        assert after[-1] != before
        apply(program, patch, package, "--reverse")
        assert content(package) == before
    assert after[0] == after[1]
