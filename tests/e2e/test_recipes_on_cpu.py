"""The GPU recipes, the very same scripts, scaled down by recipes/on_cpu.sh: real data formats and rewards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from .health import complaints, training_steps

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "tests" / "recipes" / "data" / "sources"
TIME_LIMIT = 420
BENCHMARKS = {
    "math": {"math500", "aime24", "aime25", "amc", "olympiadbench", "minerva"},
    "code": {"livecodebench", "humanevalplus", "codeforces"},
}
"""Keys that a reward of this package writes; verl's own reward, of gsm8k, writes the score alone."""

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(TIME_LIMIT + 300)]


def with_marks(directory: Path) -> Path:
    """Copy GSM8K's training set for tiny_model.py, which teaches "Answer: TRUTH", with "#### 7" in place of "7"."""
    lessons = directory / "lessons" / "train"
    lessons.mkdir(parents=True)
    rows = pd.read_parquet(directory / "data" / "train" / "gsm8k.parquet")
    rows["reward_model"] = [{**one, "ground_truth": f"#### {one['ground_truth']}"} for one in rows["reward_model"]]
    rows.to_parquet(lessons / "gsm8k.parquet")
    return lessons.parent


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """assets("math"): a directory with data/, by the recipe's own programs, and model/."""
    made: dict[str, Path] = {}

    def make(domain: str) -> Path:
        if domain not in made:
            made[domain] = directory = tmp_path_factory.mktemp(domain)
            environment = {**os.environ, "PYTHON": sys.executable, "SOURCE_DIR": str(SOURCES)}
            subprocess.run(
                ["bash", str(REPOSITORY / "recipes" / "data" / f"prepare_{domain}.sh")],
                env={**environment, "OUTPUT_DIR": str(directory / "data")},
                check=True,
            )
            lessons = with_marks(directory) if domain == "gsm8k" else directory / "data"
            subprocess.run(
                [sys.executable, Path(__file__).parent / "tiny_model.py", directory / "model", lessons],
                check=True,
            )
        return made[domain]

    return make


@pytest.mark.parametrize(
    ("recipe", "domain", "algo"),
    [
        ("run_qwen_math", "math", "lad_anchored"),
        ("run_r1_distill_7b_code", "code", "lad"),
        ("run_nemotron_1.5b_math", "math", "lad"),
        ("run_deepscaler_1.5b_math", "math", "lad"),
        ("run_qwen2.5_0.5b_gsm8k", "gsm8k", "lad"),
        *(
            ("run_qwen_math", "math", algo)
            for algo in ("grpo", "grpo_kl", "kl_cov", "clip_cov", "entropy", "gspo", "dro")
        ),
    ],
)
def test_a_recipe_trains_and_validates_on_every_benchmark_with_its_real_reward(recipe, domain, algo, assets, tmp_path):
    directory, run_dir, log = assets(domain), tmp_path / "run", tmp_path / "log"
    with log.open("w") as stream:
        status = subprocess.run(
            ["bash", str(REPOSITORY / "recipes" / "on_cpu.sh"), f"{recipe}.sh"],
            env={
                **os.environ,
                "ALGO": algo,
                "MODEL_PATH": str(directory / "model"),
                "DATA_DIR": str(directory / "data"),
                "RUN_DIR": str(run_dir),
                "PYTHON": sys.executable,
                "TIME_LIMIT": str(TIME_LIMIT),
            },
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    text = log.read_text(errors="replace")
    assert status == 0, text[-3000:]
    trained = [values for _, values in training_steps(run_dir)]
    assert len(trained) == 2
    assert max(values["critic/score/max"] for values in trained) == 1.0, "no answer was right: not the real reward?"
    if algo.startswith("lad"):
        assert complaints(run_dir, text, steps=2, ranks=2) == []
    if algo == "lad_anchored":
        assert trained[0]["actor/reward_kl_penalty_coeff"] == 0.125
    for step in (0, 2):
        samples = [json.loads(line) for line in (run_dir / "validation" / f"{step}.jsonl").read_text().splitlines()]
        assert {sample["score"] for sample in samples} <= {0.0, 1.0}
        if domain not in BENCHMARKS:
            continue
        assert {sample["benchmark"] for sample in samples} == BENCHMARKS[domain]
        assert {sample["acc"] for sample in samples} <= {0.0, 1.0}
        assert any(sample["solution"] for sample in samples), "no answer was found in any response"
