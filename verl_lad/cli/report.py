"""Print what `verl-lad report` prints. The report itself is made by `verl_lad.evaluation`."""

import argparse
import math
import sys
from importlib.util import find_spec
from pathlib import Path

PICTURES = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verl-lad report`."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run's directory, or one of several runs, or a file of verl's file logger",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("lad-report"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--figure", type=_picture, metavar="FILE", help="draw accuracy and diversity over training into this file too"
    )
    parser.add_argument(
        "--correct-key",
        metavar="KEY",
        help="key of a dump that says whether a sample is correct (default: acc, or else score)",
    )
    parser.add_argument(
        "--threshold",
        type=_finite,
        metavar="X",
        help="value of that key from which on a sample is correct (default: 1, said where that is not obvious)",
    )
    parser.add_argument(
        "--merge-copies",
        action="store_true",
        help="problems with one input and one truth are one problem, for data that repeats its rows",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the report; print its table, its complaints and where its page is.

    Returns:
        Exit status: 0; 1 if something was left out or is uncertain; 2 if nothing was written.
    """
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        print(f"verl-lad report needs {', '.join(missing)}: pip install 'verl-lad[report]'", file=sys.stderr)
        return 2

    from verl_lad.evaluation import Rules, make_report

    try:
        report = make_report(
            arguments.runs,
            arguments.output,
            rules=Rules(arguments.correct_key, arguments.threshold, arguments.merge_copies),
            figure=arguments.figure,
            on_dump=lambda path: print(f"reading {path}", file=sys.stderr),
        )
    except OSError as error:
        print(f"verl-lad report: {error}", file=sys.stderr)
        return 2
    for complaint in report.complaints:
        print(f"complaint: {complaint}", file=sys.stderr)
    if report.page is None:
        print("nothing to report", file=sys.stderr)
        return 2
    if report.table:
        print(report.table)
    print(f"page: {report.page}")
    return 1 if report.complaints else 0


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"the suffix of {text!r} must be one of {', '.join(PICTURES)}")
    return path


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number
