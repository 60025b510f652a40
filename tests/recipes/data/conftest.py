"""The programs are scripts that import each other from their own directory; the tests import them likewise."""

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

PROGRAMS = Path(__file__).parents[3] / "recipes" / "data"
SOURCES = Path(__file__).parent / "sources"
VALIDATION_SETS = {
    "math": ("math500", "aime24", "aime25", "amc", "olympiadbench", "minerva"),
    "code": ("livecodebench", "humanevalplus", "codeforces"),
    "gsm8k": ("gsm8k",),
}
TRAINING_SETS = {"math": "dapo_math_17k", "code": "deepcoder", "gsm8k": "gsm8k"}
VALIDATION_OPTIONS = {"gsm8k": ("--split", "test")}
"""The program that makes both sets of a domain takes these."""

sys.path.insert(0, str(PROGRAMS))


@dataclass(frozen=True)
class Prepared:
    """What a program made."""

    path: Path
    rows: list[dict[str, Any]]
    metadata: dict[str, Any]

    def by_question(self, part: str) -> dict[str, Any]:
        (row,) = (row for row in self.rows if part in row["extra_info"]["question"])
        return row


def prepare(name: str, output: Path, *options: object, source: Path | None = None) -> Prepared:
    arguments = ["--output", output, "--source", source or SOURCES / name, *options]
    assert importlib.import_module(name).main([str(argument) for argument in arguments]) == 0
    table = pq.read_table(output)
    return Prepared(output, table.to_pylist(), json.loads(table.schema.metadata[b"verl_lad"]))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> dict[str, Prepared]:
    """All programs, run on the sources of this directory; training sets decontaminated. gsm8k: its training set."""
    directory = tmp_path_factory.mktemp("prepared")
    made = {}
    for domain, names in VALIDATION_SETS.items():
        for name in names:
            output = directory / domain / "val" / f"{name}.parquet"
            made[name] = prepare(name, output, *VALIDATION_OPTIONS.get(name, ()))
        name = TRAINING_SETS[domain]
        files = [made[name].path for name in names]
        made[name] = prepare(name, directory / domain / "train" / f"{name}.parquet", "--decontaminate", *files)
    return made
