"""Make the report: a plain-text table, one self-contained HTML page with its figures, and every number as JSON."""

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from verl_lad.evaluation.figures import draw_training, draw_validations, styles_of
from verl_lad.evaluation.records import Complain
from verl_lad.evaluation.runs import Run, load_runs
from verl_lad.evaluation.table import RESAMPLES, Row, columns, format_table, make_rows, show
from verl_lad.evaluation.validation import Rules
from verl_lad.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report(NamedTuple):
    """A report.

    Attributes:
        table: a line for every algorithm, benchmark and step; empty if the runs have no validation.
        page: path of the page; None if there was nothing to report, and nothing was written.
        complaints: what was left out or is uncertain, as sentences.
    """

    table: str
    page: Path | None
    complaints: list[str]


def make_report(
    paths: Sequence[Path],
    output: Path,
    *,
    rules: Rules | None = None,
    figure: Path | None = None,
    on_dump: Callable[[Path], None] | None = None,
) -> Report:
    """Report accuracy, diversity and training curves of runs.

    Args:
        paths: directories of the runs, see `verl_lad.evaluation.runs`.
        output: where to write `report.html` and `summary.json`; made if missing. Files of these names are overwritten.
        rules: how to read the validation dumps, see `verl_lad.evaluation.validation`.
        figure: where to draw the page's figure of the validations as well (PNG, or what the suffix says).
        on_dump: called with each validation dump before it is read.

    Returns:
        The table, the page, and what was left out or is uncertain.

    Raises:
        OSError: if the output or the figure cannot be written. A place that can never be is found before the reading.
        ImportError: if matplotlib or Jinja is not installed.
    """
    for directory in (output, *([] if figure is None else [figure.parent])):
        existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"{directory}: cannot be written, as {existing} is not a directory")
    complaints: list[str] = []
    runs = load_runs(paths, rules, complain=complaints.append, on_dump=on_dump)
    complaints += [remark for run in runs for remark in run.remarks]
    if not runs:
        return Report("", None, complaints)
    rows = make_rows(runs, complaints.append)
    styles = styles_of(runs)
    drawings = {
        "validations": draw_validations(rows, styles) if rows else None,
        "training": draw_training(runs, styles),
    }
    if figure is not None:
        _save(drawings["validations"], figure, complaints.append)
    output.mkdir(parents=True, exist_ok=True)
    summary = {
        "verl_lad": __version__,
        "runs": [{**_provenance(run), "metrics": run.curves} for run in runs],
        "rows": [_finite(asdict(row)) for row in rows],
        "complaints": complaints,
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page = output / "report.html"
    page.write_text(_render(runs, rows, drawings, complaints), encoding="utf-8")
    return Report(format_table(rows) if rows else "", page, complaints)


def _save(drawn: "Figure | None", path: Path, complain: Complain) -> None:
    if drawn is None:
        complain(f"{path}: not drawn, as the runs have no validation")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


def _render(
    runs: Sequence[Run], rows: Sequence[Row], drawings: dict[str, "Figure | None"], complaints: Sequence[str]
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("verl_lad.evaluation", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measures = columns(rows) if rows else []
    return environment.get_template("page.html.j2").render(
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        runs=[_provenance(run) for run in runs],
        titles=[measure.title for measure in measures],
        rows=[(row, [show(measure, row) for measure in measures]) for row in rows],
        pngs={name: _as_base64(drawn) for name, drawn in drawings.items() if drawn is not None},
        complaints=complaints,
        resamples=RESAMPLES,
    )


def _as_base64(drawn: "Figure") -> str:
    png = io.BytesIO()
    drawn.savefig(png, format="png")
    return base64.b64encode(png.getvalue()).decode()


def _provenance(run: Run) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "algorithm": run.algorithm,
        "seed": run.seed,
        "steps": max((step for curve in run.curves.values() for step in curve), default=None),
        "validations": list(run.validations),
    }


def _finite(value: Any) -> Any:
    """Replace what JSON does not know, inf and NaN, by None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
