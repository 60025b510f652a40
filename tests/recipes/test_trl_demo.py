"""recipes/run_trl_demo.sh, from the shell to the table, on a base that has not been warmed up."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FRAMEWORKS = Path(sys.prefix) / "frameworks"  # see tests/adapters/conftest.py
SCRIPT = REPOSITORY / "recipes" / "run_trl_demo.sh"


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{REPOSITORY}:{FRAMEWORKS}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment | {"OUTPUT_DIR": str(directory / "out"), "ASSETS_DIR": str(directory / "assets")} | variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_two_anchored_steps_end_in_the_table_of_make_demo(tmp_path):
    bases = [sys.executable, str(REPOSITORY / "recipes" / "study" / "bases.py"), str(tmp_path / "assets")]
    barely = ["--task", "digits", "--kind", "imprecise", "--accuracy", "0"]
    subprocess.run([*bases, *barely], check=True, capture_output=True, timeout=120)
    small = {"STEPS": "2", "TEST_FREQ": "1", "VAL_SAMPLES": "2", "TRAIN_BATCH_SIZE": "4", "MINI_BATCH_SIZE": "2"}
    done = run(tmp_path, "--lad_divergence", "hellinger", ALGO="lad_anchored", ROLLOUT_N="4", **small)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("lad_anchored ")]
    assert [row[1] for row in rows] == ["0", "1", "2"]
    assert (tmp_path / "out" / "report.png").stat().st_size > 0
    run_dir = tmp_path / "out" / "runs" / "lad_anchored"
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in metrics] == [1, 2]
    assert {"critic/score/mean", "actor/entropy", "actor/ppo_kl", "actor/lad/reference_kl"} <= set(metrics[1]["data"])
    samples = [json.loads(line) for line in (run_dir / "validation" / "2.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * 8


def test_an_unknown_algorithm_is_refused_by_name_before_anything_is_made(tmp_path):
    done = run(tmp_path, ALGO="ppo")
    assert done.returncode == 2
    assert "ALGO=ppo is not allowed: lad, lad_anchored or grpo" in done.stderr
    assert not list(tmp_path.iterdir())
