"""Entry point of the console script `verl-lad`: arguments in, text and an exit status out."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from verl_lad.cli.report import add_arguments
from verl_lad.version import __version__

NEXT_STEPS = """\
verl-lad needs a COMMAND. What to do next:

  1. Is LAD ready in this environment?
       verl-lad doctor
  2. Train: two keys behind your own verl command turn LAD on.
       python3 -m verl.trainer.main_ppo ... algorithm.policy_loss=lad algorithm.adv_estimator=lad
  3. See accuracy and diversity of what the runs wrote.
       verl-lad report OUTPUT_DIR

All commands: verl-lad --help"""


def _next_steps(arguments: argparse.Namespace) -> int:
    print(NEXT_STEPS, file=sys.stderr)
    return 2


def _report(arguments: argparse.Namespace) -> int:
    from verl_lad.cli.report import run

    return run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from verl_lad.cli.doctor import examine, format_findings

    findings = examine(arguments.ray)
    broken = any(finding.status == "broken" for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not broken, "findings": [vars(finding) for finding in findings]}, indent=1))
    else:
        print(format_findings(findings))
    return 1 if broken else 0


def _bandit(arguments: argparse.Namespace) -> int:
    from verl_lad.cli.bandit import run

    return run(arguments.output, arguments.eta, arguments.seeds, arguments.steps, arguments.figure)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `verl-lad`."""
    parser = argparse.ArgumentParser(prog="verl-lad", description="LAD (arXiv 2602.20132) for verl.")
    parser.add_argument("--version", action="version", version=f"verl-lad {__version__}")
    parser.set_defaults(run=_next_steps)
    commands = parser.add_subparsers(metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="is LAD ready in this environment, and if not, what to do")
    doctor.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="look into a fresh Ray worker as well (takes a minute); with the address of a running cluster, or auto, "
        "into a worker on each of its nodes",
    )
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(run=_doctor)

    report = commands.add_parser(
        "report",
        help="accuracy, diversity and training curves of runs, as a table and a page",
        description="Reads what verl wrote and prints a table; writes report.html, figures/*.png and summary.json. "
        "Exit status: 0, 1 if something was left out or is uncertain, 2 if nothing was written.",
    )
    add_arguments(report)
    report.set_defaults(run=_report)

    bandit = commands.add_parser(
        "bandit",
        help="the paper's controlled experiment: 50 arms, three modes; LAD beside GRPO, in under a minute",
        description="Trains LAD with every divergence, GRPO, PPO-clip and regularised GRPO on a bandit with three "
        "modes, with the behaviour policy fixed and refreshed, exactly and by samples. Prints a table; writes "
        "bandit.json and bandit.png. Exit status: 0, or 2 if it cannot run.",
    )
    bandit.add_argument(
        "--output", type=Path, default=Path("lad-bandit"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    bandit.add_argument("--eta", type=float, default=0.25, help="temperature of the target (default: %(default)s)")
    bandit.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default: %(default)s)")
    bandit.add_argument("--steps", type=int, default=4000, metavar="N", help="updates (default: %(default)s)")
    bandit.add_argument("--figure", action=argparse.BooleanOptionalAction, default=True, help="draw bandit.png")
    bandit.set_defaults(run=_bandit)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    arguments = make_parser().parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
