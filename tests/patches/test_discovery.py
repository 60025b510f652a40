"""The inserted lines of patches/verl-*.patch, run on their own: CI has no old verl. tests/matrix runs the whole."""

import os
import textwrap
from importlib import metadata
from types import SimpleNamespace

import pytest

from verl_lad.patches import carried_patches

PATCHES = [patch for patch in carried_patches() if patch.distribution == "verl"]


def run_inserted(patch, monkeypatch, policy, points):
    ((hunk,),) = (diff.hunks for diff in patch.files)
    inserted = "".join(line for line in hunk.new if line not in hunk.old or not line.strip())
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "verl.plugins" else [])
    if policy is None:
        monkeypatch.delenv("VERL_USE_EXTERNAL_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    exec(textwrap.dedent(inserted), {"os": os})


def point(name, load):
    return SimpleNamespace(name=name, value=f"{name}.plugin", load=load)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
@pytest.mark.parametrize(
    ("policy", "loaded"), [(None, ["a", "b"]), ("auto", ["a", "b"]), ("none", []), ("b", ["b"]), ("b, a", ["b", "a"])]
)
def test_it_loads_what_verl_090_would(patch, policy, loaded, monkeypatch):
    seen = []
    points = [point(name, lambda name=name: seen.append(name)) for name in ("a", "b")]
    run_inserted(patch, monkeypatch, policy, points)
    assert seen == loaded


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_plugin_that_fails_or_is_missing_stops_the_import_with_the_cause(patch, monkeypatch):
    def broken():
        raise RuntimeError("the cause")

    with pytest.raises(ImportError, match=r"verl plugin 'a' \(a.plugin\) failed to load: RuntimeError: the cause"):
        run_inserted(patch, monkeypatch, None, [point("a", broken)])
    with pytest.raises(ImportError, match=r"names the plugin 'gone', which is not installed; installed: a"):
        run_inserted(patch, monkeypatch, "gone", [point("a", broken)])
