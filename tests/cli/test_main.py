"""The command `verl-lad` without any of its commands names the next steps."""

import shlex

import pytest

from verl_lad.cli.main import main, make_parser


def test_without_a_command_it_names_the_three_next_steps_and_fails_as_argparse_does(capsys):
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    for step in ("verl-lad doctor", "algorithm.policy_loss=lad algorithm.adv_estimator=lad", "verl-lad report"):
        assert step in output.err


def test_each_command_of_the_next_steps_exists(capsys):
    main([])
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if line.startswith("       verl-lad ")]
    assert [line[1] for line in lines] == ["doctor", "report"]
    for _, *arguments in lines:
        make_parser().parse_args(arguments)


@pytest.mark.parametrize("line", ["unknown", "--unknown", "report"])
def test_a_command_line_that_is_wrong_exits_with_2(line, capsys):
    with pytest.raises(SystemExit) as error:
        main(shlex.split(line))
    assert error.value.code == 2
    assert "usage: verl-lad" in capsys.readouterr().err
