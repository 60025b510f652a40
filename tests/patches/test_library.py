"""Patches against a small installed package, and those that this package carries."""

import os
from pathlib import Path

import pytest

from verl_lad.patches import Installation, Patch, Refused, carried_patches, find_installation

PATCH = """Makes it better

diff --git a/toy/one.py b/toy/one.py
--- a/toy/one.py
+++ b/toy/one.py
@@ -1,3 +1,3 @@
 a = 1
-b = 2
+b = 3
 c = 3
--- a/toy/two.py
+++ b/toy/two.py
@@ -1 +1,2 @@
 x = 1
+y = 2
--- /dev/null
+++ b/toy/three.py
@@ -0,0 +1 @@
+new = True
"""


@pytest.fixture
def patch():
    return Patch.read("toy-1.2", PATCH)


@pytest.fixture
def site(tmp_path):
    write_toy(tmp_path)
    return tmp_path


def write_toy(site: Path, version="1.2") -> None:
    (site / "toy").mkdir()
    (site / "toy/__init__.py").write_text("")
    (site / "toy/one.py").write_text("a = 1\nb = 2\nc = 3\n")
    (site / "toy/two.py").write_text("x = 1\n")
    (site / f"toy-{version}.dist-info").mkdir()
    (site / f"toy-{version}.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n")


def content(site: Path) -> dict[str, str]:
    return {str(path.relative_to(site)): path.read_text() for path in sorted(site.rglob("*")) if path.is_file()}


def test_name_version_and_title_come_from_the_file(patch):
    assert (patch.distribution, patch.version, patch.package, patch.title) == ("toy", "1.2", "toy", "Makes it better")


def test_apply_and_revert_are_exact_and_idempotent_and_keep_a_backup(patch, site):
    before = content(site)
    os.chmod(site / "toy/one.py", 0o640)
    installation = find_installation(patch, site)
    assert installation.version == "1.2"
    assert installation.state(patch) == "not applied"
    assert [path.name for path in installation.apply(patch)] == ["one.py", "two.py", "three.py"]
    assert installation.state(patch) == "applied"
    assert installation.apply(patch) == []
    assert (site / "toy/one.py").read_text() == "a = 1\nb = 3\nc = 3\n"
    assert (site / "toy/three.py").read_text() == "new = True\n"
    assert (site / "toy/one.py").stat().st_mode & 0o777 == 0o640
    assert (site / ".verl-lad-patches/toy-1.2/toy/one.py").read_text() == before["toy/one.py"]
    assert len(installation.revert(patch)) == 3
    assert installation.revert(patch) == []
    assert content(site) == before


def test_a_hard_linked_file_of_an_installers_cache_is_left_as_it_is(patch, site):
    os.link(site / "toy/one.py", site / "cache")
    find_installation(patch, site).apply(patch)
    assert (site / "cache").read_text() == "a = 1\nb = 2\nc = 3\n"


def test_other_content_is_refused_with_the_line_and_nothing_changes(patch, site):
    (site / "toy/two.py").write_text("x = 7\n")
    before = content(site)
    installation = find_installation(patch, site)
    for action in (installation.state, installation.apply, installation.revert):
        with pytest.raises(Refused, match=r"toy/two.py:1 is 'x = 7', expected 'x = 1'"):
            action(patch)
    assert content(site) == before


def test_another_version_is_refused_though_the_files_fit(patch, tmp_path):
    write_toy(tmp_path, version="1.3")
    before = content(tmp_path)
    with pytest.raises(Refused, match=r"toy-1.2 is for toy 1.2, and 1.3 is in"):
        find_installation(patch, tmp_path).apply(patch)
    assert content(tmp_path) == before


def test_a_missing_package_is_refused(patch, tmp_path):
    with pytest.raises(Refused, match="holds no package toy"):
        find_installation(patch, tmp_path)
    with pytest.raises(Refused, match="toy is not installed"):
        find_installation(patch)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_file_that_cannot_be_written_leaves_all_as_they_were(failing, patch, site, monkeypatch):
    before = {name: text for name, text in content(site).items() if name.startswith("toy/")}
    installation, written, replace = find_installation(patch, site), [], os.replace

    def full_disk(source, target):
        written.append(target)
        if len(written) == failing + 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        installation.apply(patch)
    assert {name: text for name, text in content(site).items() if name.startswith("toy/")} == before
    assert installation.state(patch) == "not applied"


@pytest.mark.parametrize("action", ["apply", "revert"])
def test_what_was_killed_half_way_is_finished_or_undone(action, patch, site):
    before = content(site)
    installation = find_installation(patch, site)
    installation.apply(patch)
    (site / "toy/one.py").write_text(before["toy/one.py"])
    assert installation.state(patch) == "half applied"
    getattr(installation, action)(patch)
    assert installation.state(patch) == {"apply": "applied", "revert": "not applied"}[action]


def test_without_a_version_the_files_decide(patch, site):
    assert Installation(site, None).state(patch) == "not applied"


def test_a_name_without_version_is_refused():
    with pytest.raises(ValueError, match="must be <distribution>-<version>"):
        Patch.read("toy", PATCH)


def test_the_carried_patches_are_those_of_the_repository():
    carried = {patch.name: patch for patch in carried_patches()}
    assert {"verl-0.7.1", "verl-0.8.0"} <= set(carried)
    assert set(carried) == {path.stem for path in (Path(__file__).parents[2] / "patches").glob("*.patch")}
    assert all(patch.title for patch in carried.values())
