"""Entry point of the console script `verl-lad`: arguments in, text and an exit status out."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from verl_lad.cli.report import add_arguments
from verl_lad.version import __version__


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


def _patch(arguments: argparse.Namespace) -> int:
    from verl_lad.cli.patch import run

    return run(arguments.action, arguments.name, arguments.target)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `verl-lad`."""
    parser = argparse.ArgumentParser(prog="verl-lad", description="LAD (arXiv 2602.20132) for verl.")
    parser.add_argument("--version", action="version", version=f"verl-lad {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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

    patch = commands.add_parser(
        "patch",
        help="patches for trainers without a hook: older verl, OpenRLHF",
        description="Lists, checks, applies or reverts the patches that this package carries. Refuses another version "
        "or other content; changes all of a patch's files or none; keeps what they were in .verl-lad-patches beside "
        "the package. Exit status: 0, 1 if refused, 2 if no patch is for what is installed.",
    )
    patch.add_argument("action", choices=("list", "check", "apply", "revert"))
    patch.add_argument("name", nargs="?", metavar="PATCH", help="default: each that is for what is installed")
    patch.add_argument(
        "--target", type=Path, metavar="DIR", help="directory that holds the package (default: where Python finds it)"
    )
    patch.set_defaults(run=_patch)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    arguments = make_parser().parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
