"""Entry point of the console script `verl-lad`: arguments in, text and an exit status out."""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from verl_lad.version import __version__


def _report(arguments: argparse.Namespace) -> int:
    missing = [name for name in ("jinja2", "matplotlib", "rich", "yaml") if find_spec(name) is None]
    if missing:
        print(f"verl-lad report needs {', '.join(missing)}: pip install 'verl-lad[report]'", file=sys.stderr)
        return 2

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from verl_lad.evaluation import draw_figure, format_table, load_runs, summarise_runs, write_page

    problems: list[str] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        reading = progress.add_task("validation dumps", total=None)

        def on_dump(path: Path, done: int, dumps: int) -> None:
            progress.update(reading, completed=done, total=dumps)
            if not console.is_terminal:
                print(f"read {path} ({done}/{dumps})", file=sys.stderr)

        runs = load_runs(arguments.runs, problems=problems, on_dump=on_dump)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not runs:
        print("nothing to report", file=sys.stderr)
        return 2
    rows = summarise_runs(runs)
    if rows:
        print(format_table(rows))
    if rows and arguments.figure is not None:
        draw_figure(rows, arguments.figure)
        print(f"figure: {arguments.figure}")
    print(f"page: {write_page(runs, problems, arguments.output)}")
    return 1 if problems else 0


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
    """The command line of `verl-lad`."""
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
        "Exit status: 0, 1 if something could not be read, 2 if nothing could.",
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory, or one of several runs")
    report.add_argument(
        "--output", type=Path, default=Path("lad-report"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    report.add_argument("--figure", type=Path, metavar="PNG", help="draw the table's numbers into this file as well")
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
    """Runs one command; returns the exit status."""
    arguments = make_parser().parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
