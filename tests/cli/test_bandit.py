"""The command `verl-lad bandit`; the numbers are tested in tests/bandit."""

import json
import subprocess
import sys

import pytest

import verl_lad.cli.bandit
from verl_lad.cli.main import main

SHORT = ("--seeds", "1", "--steps", "3")


def test_command_prints_the_table_and_writes_numbers_and_figure(tmp_path, capsys):
    directory = tmp_path / "new" / "out"
    assert main(["bandit", "--output", str(directory), "--eta", "0.5", *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "lad-js-anchored" in printed
    assert f"numbers: {directory / 'bandit.json'}" in printed
    assert f"figure: {directory / 'bandit.png'}" in printed
    configuration = json.loads((directory / "bandit.json").read_text())["configuration"]
    assert (configuration["eta"], configuration["seeds"], configuration["steps"]) == (0.5, 1, 3)
    assert (directory / "bandit.png").read_bytes().startswith(b"\x89PNG")


def test_no_figure_needs_no_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verl_lad.cli.bandit, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bandit", "--output", str(tmp_path), "--no-figure", *SHORT]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bandit.json"]
    assert "figure:" not in capsys.readouterr().out


def test_missing_matplotlib_is_named_before_anything_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verl_lad.cli.bandit, "find_spec", lambda name: None)
    assert main(["bandit", "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'verl-lad[report]', or --no-figure" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--eta", "0"], "eta=0.0 is not allowed: a finite number greater than 0"),
        (["--eta", "nan"], "eta=nan is not allowed"),
        (["--seeds", "0"], "seeds=0 is not allowed: an integer of at least 1"),
        (["--steps", "-5"], "steps=-5 is not allowed"),
    ],
)
def test_setting_that_is_not_allowed_is_named_and_exits_with_two(tmp_path, capsys, arguments, named):
    assert main(["bandit", "--output", str(tmp_path / "out"), *arguments]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_named_and_exits_with_two(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert main(["bandit", "--output", str(tmp_path / "out"), *SHORT]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err


def test_what_is_no_number_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as refused:
        main(["bandit", "--seeds", "many"])
    assert refused.value.code == 2
    assert "--seeds" in capsys.readouterr().err


def test_without_a_figure_it_imports_torch_and_neither_matplotlib_nor_verl(tmp_path):
    script = (
        "import sys\nfrom verl_lad.cli.main import main\n"
        f"assert main(['bandit', '--output', {str(tmp_path)!r}, '--no-figure', '--seeds', '1', '--steps', '1']) == 0\n"
        "print(sorted({'matplotlib', 'verl', 'ray', 'hydra', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "[]"
