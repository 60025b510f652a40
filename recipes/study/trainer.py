"""Keep verl's synchronous trainer and its actor worker alive over many runs.

A launch of verl with vLLM takes two minutes on two cores, and a run of the study three. So the study launches once, and
starts again from a base between two runs. verl's TrainingWorker.reset resets model, optimiser and scheduler. Loss, data
and reference come from the run's configuration, and vLLM's weights by verl's weight sync. All else is verl's own.
"""

import json
import os
import re
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from omegaconf import DictConfig, OmegaConf
from policy import encode_right, exact_statistics
from tasks import get_task
from verl.single_controller.base.decorator import Dispatch, register
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.utils import need_reference_policy
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.losses import ppo_loss

KEPT_METRICS = {
    "score": "critic/score/mean",
    "entropy": "actor/entropy",
    "grad_norm": "actor/grad_norm",
    "response_length": "response_length/mean",
    "rollout_probs_diff": "training/rollout_probs_diff_mean",
}


class StudyWorker(ActorRolloutRefWorker):
    """One FSDP rank that can begin again."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def begin_run(self, config: DictConfig) -> None:
        """Apply a run's configuration to the existing engines, as init_model does to new ones."""
        actor_config = omega_conf_to_dataclass(config.actor)
        actor_config.model_config = self.actor.model_config
        self.actor.engine.optimizer_config = actor_config.optim
        for worker in (self.actor, self.ref):
            worker.model_config.local_path = config.model.path
            worker.reset()
        self.actor.set_loss_fn(partial(ppo_loss, config=actor_config))
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins again

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def peak_memory(self) -> float:
        """Return the most MB that were resident since begin_run."""
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(peak) / 1e3

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def measure(self, task: str) -> dict[str, list[float]]:
        """Return the actor's exact statistics (policy.exact_statistics)."""
        tokenizer = self.actor.model_config.tokenizer
        with self.actor.engine.eval_mode():
            return exact_statistics(self.actor.engine.module, encode_right(get_task(task), tokenizer))


@register_trainer("study")
class StudyTrainer(PPOTrainerSync):
    """`config.study.runs`: the runs, each {name, task, steps, config (its whole configuration), ...}."""

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = {role: ray.remote(StudyWorker) for role in self.role_worker_mapping}

    def fit(self, agent_loop_manager: Any) -> None:
        """Train every run, one after the other."""
        study = self.config.study
        for number, run in enumerate(study.runs):
            print(f"study: run {number + 1} of {len(study.runs)}: {run.name}", flush=True)
            self._fit_one(run, Path(study.results) / f"{run.name}.jsonl", agent_loop_manager)

    def _fit_one(self, run: DictConfig, path: Path, agent_loop_manager: Any) -> None:
        self.config = OmegaConf.create(OmegaConf.to_container(run.config))
        self.run = run
        self.use_reference_policy = need_reference_policy(self.config)
        if self.config.algorithm.use_kl_in_reward:
            self.kl_ctrl_in_reward = core_algos.get_kl_controller(self.config.algorithm.kl_ctrl)
        self._init_dataloader()
        self._init_dump_executor()
        self.actor_rollout_wg.begin_run(self.config.actor_rollout_ref)
        self.global_steps = 0
        self.checkpoint_manager.update_weights(self.global_steps)

        started = time.monotonic()
        self.timing = defaultdict(float)
        partial_path = path.with_suffix(".partial")
        partial_path.parent.mkdir(parents=True, exist_ok=True)
        with partial_path.open("w") as self.out:
            self._write({key: value for key, value in OmegaConf.to_container(run).items() if key != "config"})
            self._write({"step": 0, "exact": self._exact()})
            super().fit(agent_loop_manager)
            (peak,) = self.actor_rollout_wg.peak_memory()
            seconds = round(time.monotonic() - started, 1)
            self._write({"done": True, "seconds": seconds, "actor_peak_mb": round(peak, 1)})
        os.rename(partial_path, path)

    def _exact(self) -> dict[str, list[float]]:
        (statistics,) = self.actor_rollout_wg.measure(self.run.task)
        return {key: [round(x, 6) for x in values] for key, values in statistics.items()}

    def _write(self, record: dict[str, Any]) -> None:
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()

    def _compute_metrics(self, batch: Any, metrics: dict, timing_raw: dict, global_steps: int, epoch: int) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        for key, seconds in timing_raw.items():
            self.timing[key] += seconds
        if not torch.isfinite(torch.tensor(metrics["actor/grad_norm"])):
            raise RuntimeError(f"run {self.run.name}: the gradient's norm is not finite at step {global_steps}")
        if global_steps % self.run.measure_every == 0 or global_steps == self.total_training_steps:
            record: dict[str, Any] = {"step": global_steps, "samples": global_steps * len(batch)}
            record |= {name: float(f"{float(metrics[key]):.6g}") for name, key in KEPT_METRICS.items()}
            record["seconds"] = {key: round(value, 3) for key, value in self.timing.items()}
            self._write(record | {"exact": self._exact()})
