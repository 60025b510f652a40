"""The patch for OpenRLHF, applied to a copy of the installed one; patched.py then runs with the copy."""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from patches.released import PATCHES, apply, copied

from .conftest import PYTHONPATH

HERE = Path(__file__).parent
PATCH = PATCHES / "openrlhf-0.11.2.patch"


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    directory = copied(Path(find_spec("openrlhf").origin).parent, tmp_path_factory.mktemp("patched"))
    apply("patch", PATCH, directory)
    return directory


def test_it_is_for_the_installed_release():
    assert PATCH.stem == f"openrlhf-{version('openrlhf')}"


@pytest.mark.timeout(600)
def test_flags_gradients_and_advantages_are_the_launchers(patched):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(patched), PYTHONPATH])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "patched.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


def test_it_takes_nothing_away():
    lines = PATCH.read_text().splitlines()
    removed = [line.removeprefix("-").strip() for line in lines if line.startswith("-") and "/" not in line[:8]]
    assert removed == [
        "self.experience_maker = RemoteExperienceMaker(",
        "self.trainer = ActorPPOTrainer(",
    ]
