"""A verl with patches/verl-*.patch finds the plugin by itself. `make matrix` tries more of it."""

import os
import subprocess
import sys
import textwrap
from importlib import metadata
from types import SimpleNamespace

import pytest

from .released import PATCHES, apply, released_verl

RELEASES = ("0.7.1", "0.8.0")
REPOSITORY = PATCHES.parent
FIND = """
import verl
from verl.trainer.ppo.core_algos import get_policy_loss_fn
print(verl.__version__, get_policy_loss_fn("lad").__module__)
"""


@pytest.fixture(scope="module", params=RELEASES)
def verl_of(request, tmp_path_factory):
    """(release, directory of its verl, unpatched)."""
    return request.param, released_verl(request.param, tmp_path_factory.mktemp(request.param))


def find_the_loss(directory) -> subprocess.CompletedProcess:
    """`import verl` from the directory, in a process of its own, and look up the loss."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VERL_USE_EXTERNAL")}
    environment["PYTHONPATH"] = os.pathsep.join([str(directory), str(REPOSITORY)])
    command = [sys.executable, "-c", FIND]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_import_verl_registers_the_loss_with_the_patch_alone(verl_of):
    release, directory = verl_of
    without = find_the_loss(directory)
    assert without.returncode != 0
    assert "lad" in without.stderr
    apply("patch", PATCHES / f"verl-{release}.patch", directory)
    done = find_the_loss(directory)
    assert done.stdout.split() == [release, "verl_lad.adapters.verl.policy_loss"], done.stderr[-3000:]


def run_inserted(release, monkeypatch, policy, points):
    """Run the lines that the patch inserts, with these entry points installed."""
    lines = (PATCHES / f"verl-{release}.patch").read_text().splitlines(keepends=True)
    inserted = "".join(line[1:] for line in lines if line.startswith("+") and not line.startswith("+++ "))
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "verl.plugins" else [])
    if policy is None:
        monkeypatch.delenv("VERL_USE_EXTERNAL_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    exec(textwrap.dedent(inserted), {"os": os})


def point(name, load):
    return SimpleNamespace(name=name, value=f"{name}.plugin", load=load)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("policy", "loaded"), [(None, ["a", "b"]), ("auto", ["a", "b"]), ("none", []), ("b", ["b"]), ("b, a", ["b", "a"])]
)
def test_it_loads_what_verl_090_would(release, policy, loaded, monkeypatch):
    seen = []
    points = [point(name, lambda name=name: seen.append(name)) for name in ("a", "b")]
    run_inserted(release, monkeypatch, policy, points)
    assert seen == loaded


@pytest.mark.parametrize("release", RELEASES)
def test_a_plugin_that_fails_or_is_missing_stops_the_import_with_the_cause(release, monkeypatch):
    def broken():
        raise RuntimeError("the cause")

    with pytest.raises(ImportError, match=r"verl plugin 'a' \(a.plugin\) failed to load: RuntimeError: the cause"):
        run_inserted(release, monkeypatch, None, [point("a", broken)])
    with pytest.raises(ImportError, match=r"names the plugin 'gone', which is not installed; installed: a"):
        run_inserted(release, monkeypatch, "gone", [point("a", broken)])
