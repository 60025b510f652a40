"""Keep the study's runs in one compressed file.

A run is a header line with its settings, a line a measurement, and a last line with "done". train.py writes each run to
a file of its own in a directory. This adds the finished runs of the plan to the packed file beside that directory:

    python recipes/study/results.py [DIRECTORY]      results/ to results.jsonl.xz
"""

import json
import lzma
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan import Run, all_runs

RESULTS = Path(__file__).resolve().parent / "results"

Records = list[dict[str, Any]]


def packed_file(directory: Path) -> Path:
    """Return the packed file that belongs to a directory of runs."""
    return directory.parent / f"{directory.name}.jsonl.xz"


def read_packed(path: Path) -> dict[str, Records]:
    """Return the records of each run by name; empty if there is no such file."""
    runs: dict[str, Records] = {}
    if path.exists():
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if "name" in record:
                    records = runs[record["name"]] = []
                records.append(record)
    return runs


def is_of(run: Run, records: Records) -> bool:
    """Return whether records are those of a run as it is planned, settings and all."""
    return run.record().items() <= records[0].items()


def missing_runs(runs: Sequence[Run], directory: Path) -> list[Run]:
    """Return the runs that are neither in the directory nor in its packed file."""
    packed = read_packed(packed_file(directory))
    unpacked = [run for run in runs if not (directory / f"{run.name}.jsonl").exists()]
    return [run for run in unpacked if run.name not in packed or not is_of(run, packed[run.name])]


def read_run(path: Path, plan: dict[str, Run]) -> Records:
    """Read one finished run of the plan.

    Raises:
        ValueError: naming the file, if it is not finished, or not planned with these settings.
    """
    records = [json.loads(line) for line in path.read_text().splitlines()]
    if len(records) < 3 or "name" not in records[0] or not records[-1].get("done"):
        raise ValueError(f"{path} is not a finished run's file")
    if path.stem not in plan or not is_of(plan[path.stem], records):
        raise ValueError(f"{path} is no run of plan.py as it stands: delete the file, or plan the run")
    return records


def pack(directory: Path) -> tuple[int, int]:
    """Add a directory's runs to its packed file; a run that is packed already is replaced.

    Returns:
        The numbers of runs in the directory and in the packed file.
    """
    plan = {run.name: run for run in all_runs()}
    added = {path.stem: read_run(path, plan) for path in sorted(directory.glob("*.jsonl"))}
    target = packed_file(directory)
    runs = read_packed(target) | added
    temporary = target.with_suffix(".partial")
    with lzma.open(temporary, "wt", preset=9, encoding="utf-8") as out:
        out.writelines(json.dumps(record) + "\n" for name in sorted(runs) for record in runs[name])
    os.replace(temporary, target)
    return len(added), len(runs)


if __name__ == "__main__":
    chosen = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else RESULTS
    added, held = pack(chosen)
    print(f"results: {added} runs of {chosen} packed; {packed_file(chosen)} holds {held}")
