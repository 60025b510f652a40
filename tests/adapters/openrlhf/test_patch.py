"""The patch for OpenRLHF, applied to a copy of the installed one; patched.py then runs with the copy."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from verl_lad.patches import carried_patches, find_installation

from .conftest import PYTHONPATH

HERE = Path(__file__).parent
FILE = HERE.parents[2] / "patches/openrlhf-0.11.2.patch"
(PATCH,) = (patch for patch in carried_patches() if patch.distribution == "openrlhf")
SOURCE = Path(find_spec("openrlhf").origin).parent


def copy_to(directory):
    shutil.copytree(SOURCE, directory / "openrlhf", ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def content(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in (directory / "openrlhf").rglob("*.py")
    }  # fmt: skip


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    directory = copy_to(tmp_path_factory.mktemp("patched"))
    find_installation(PATCH, directory).apply(PATCH)
    return directory


def test_it_is_for_the_installed_release(patched):
    assert find_installation(PATCH).version == PATCH.version
    assert find_installation(PATCH).state(PATCH) == "not applied"
    assert find_installation(PATCH, patched).state(PATCH) == "applied"


def test_git_apply_does_the_same_and_both_go_back(patched, tmp_path):
    before = content(copy_to(tmp_path))
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(["git", "apply", str(FILE)], cwd=tmp_path, check=True, env=environment)
    assert content(tmp_path) == content(patched)
    find_installation(PATCH, tmp_path).revert(PATCH)
    assert content(tmp_path) == before


def test_flags_gradients_and_advantages_are_the_launchers(patched):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(patched), PYTHONPATH])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "patched.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


def test_it_imports_nothing_of_ours_and_takes_nothing_away():
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith(("+++ ", "--- "))]
    assert not [line for line in lines if line.startswith("+") and "verl_lad" in line]
    removed = [line.strip("- ") for line in lines if line.startswith("-") and not line.startswith("--actor")]
    assert removed == [
        'parser.add_argument("--actor.policy_loss_type", type=str, default="ppo", choices=["ppo", "gspo"])',
        'if self.is_correction_level != "off" and self.policy_loss_type == "ppo":',
    ]
