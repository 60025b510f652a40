"""recipes/study: many runs in one launch of verl, each as if it were the first."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TIME_LIMIT = 600
RUNS = ["main-digits-grpo-seed0", "main-digits-mass_one-seed0"]

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(TIME_LIMIT + 120)]


def run_study(directory: Path) -> str:
    settings = {"ONLY": " ".join(RUNS), "STEPS": "2", "TIME_LIMIT": str(TIME_LIMIT), "PYTHON": sys.executable}
    places = {"RESULTS_DIR": str(directory / "results"), "ASSETS_DIR": str(directory / "bases")}
    done = subprocess.run(
        ["bash", REPOSITORY / "recipes" / "run_study.sh"],
        env={**os.environ, **settings, **places},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT + 60,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_the_second_run_of_a_launch_starts_from_the_base_and_finished_runs_are_not_repeated(tmp_path):
    assert "2 runs chosen, 2 to do now" in run_study(tmp_path)
    base = json.loads((tmp_path / "bases" / "digits-calibrated-0.4-seed0" / "base.json").read_text())
    ends = []
    for name in RUNS:
        lines = [json.loads(line) for line in (tmp_path / "results" / f"{name}.jsonl").read_text().splitlines()]
        header, start, end, done = lines
        assert header["name"] == name
        assert done["done"]
        assert start["step"] == 0
        assert start["exact"]["accuracy"] == pytest.approx(base["accuracy"], abs=1e-5)
        assert start["exact"]["entropy"] == pytest.approx(base["entropy"], abs=1e-4)
        assert (end["step"], end["samples"]) == (2, 256)
        assert end["rollout_probs_diff"] < 1e-5  # vLLM has the weights of this run, not of the one before
        assert end["exact"]["accuracy"] != start["exact"]["accuracy"]
        ends.append(end["exact"]["accuracy"])
    assert ends[0] != ends[1]
    assert re.search("2 runs chosen, 0 to do now", run_study(tmp_path))
