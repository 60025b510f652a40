"""Copies of released packages, and the programs that apply a patch to one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PATCHES = Path(__file__).parents[2] / "patches"
WHEELS = Path(sys.prefix) / "released"
"""Releases of verl that are not installed; `make install` downloads their wheels."""
PROGRAMS = {"git": ("git", "apply"), "patch": ("patch", "-p1", "--fuzz=0", "--input")}
"""Programs that apply a patch (patches/README.md); --reverse reverts it. Without fuzz each line must fit."""


def copied(package: Path, directory: Path) -> Path:
    """Copy an installed package into the directory; return the directory."""
    shutil.copytree(package, directory / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def released_verl(release: str, directory: Path) -> Path:
    """Unpack the wheel of a release of verl into the directory; return the directory."""
    wheel = WHEELS / f"verl-{release}-py3-none-any.whl"
    assert wheel.exists(), f"{wheel} is missing: `make install` downloads it"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def apply(program: str, patch: Path, directory: Path, *options: str) -> None:
    """Apply a patch as patches/README.md says, in the directory that holds the package."""
    command = [*PROGRAMS[program][:2], *options, *PROGRAMS[program][2:], str(patch)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)}
    subprocess.run(command, cwd=directory, check=True, env=environment, capture_output=True)
