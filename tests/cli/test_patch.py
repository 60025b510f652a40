"""The command `verl-lad patch`; the work is tested in tests/patches."""

import pytest

from verl_lad.cli.main import main
from verl_lad.patches import carried_patches


def make_verl(site, version):
    """As much of verl as its patch sees: blank lines up to the hunk, and the hunk's lines."""
    patch = next(patch for patch in carried_patches() if patch.name == "verl-0.8.0")
    ((hunk,),) = (diff.hunks for diff in patch.files)
    (site / "verl").mkdir()
    (site / "verl/__init__.py").write_text("\n" * (hunk.old_start - 1) + "".join(hunk.old))
    (site / f"verl-{version}.dist-info").mkdir()
    (site / f"verl-{version}.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: verl\nVersion: {version}\n")


def files(site):
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path):
    make_verl(tmp_path, "0.8.0")
    return tmp_path


def test_check_apply_revert(target, capsys):
    before = files(target)
    where = ["--target", str(target)]
    assert main(["patch", "check", *where]) == 0
    assert capsys.readouterr().out == f"verl-0.8.0: not applied in {target}\n"
    assert main(["patch", "apply", *where]) == 0
    assert f"verl-0.8.0: applied in {target}\n    {target / 'verl/__init__.py'}\n" == capsys.readouterr().out
    assert main(["patch", "apply", *where]) == 0
    assert "applied already" in capsys.readouterr().out
    assert main(["patch", "check", "verl-0.8.0", *where]) == 0
    assert capsys.readouterr().out == f"verl-0.8.0: applied in {target}\n"
    assert main(["patch", "revert", *where]) == 0
    assert files(target) == before
    assert main(["patch", "revert", *where]) == 0
    assert "not applied already" in capsys.readouterr().out


def test_list_says_what_each_is_for_and_whether_it_is_here(target, capsys):
    assert main(["patch", "list", "--target", str(target)]) == 0
    printed = capsys.readouterr().out
    for patch in carried_patches():
        assert f"{patch.name}: {patch.title}\n" in printed
    assert f"    here: not applied, {target}\n" in printed
    assert "verl-0.7.1 is for verl 0.7.1, and 0.8.0 is in" in printed


def test_changed_files_are_refused(target, capsys):
    text = (target / "verl/__init__.py").read_text()
    (target / "verl/__init__.py").write_text(text.replace("import_external_libs(modules)", "nothing()"))
    before = files(target)
    assert main(["patch", "apply", "--target", str(target)]) == 1
    error = capsys.readouterr().err
    assert "refused, nothing changed" in error
    assert "nothing()" in error
    assert files(target) == before


def test_another_version_has_no_patch_and_is_refused_by_name(tmp_path, capsys):
    make_verl(tmp_path, "0.9.1")
    assert main(["patch", "apply", "--target", str(tmp_path)]) == 2
    assert "verl 0.9.1 is there" in capsys.readouterr().err
    assert main(["patch", "apply", "verl-0.8.0", "--target", str(tmp_path)]) == 1
    assert "verl-0.8.0 is for verl 0.8.0, and 0.9.1 is in" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_those_that_exist(capsys):
    assert main(["patch", "apply", "nonsense"]) == 2
    assert "verl-0.8.0" in capsys.readouterr().err
